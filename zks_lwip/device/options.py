"""What a TUN device is told by a user, checked: its name and its MTU."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from ..errors import ConfigError

__all__ = ["DEFAULT_MTU", "DEFAULT_TUN", "MAX_MTU", "MAX_NAME", "MIN_MTU", "DeviceOptions"]

DEFAULT_MTU = 1500
"""Bytes."""
DEFAULT_TUN = "utun" if sys.platform == "darwin" else "zks0"
"""Of macOS the first number that is free is added."""
MIN_MTU = 1280
"""Bytes, which IPv6 needs (RFC 8200 §5)."""
MAX_MTU = 65535
"""Bytes: an IPv4 packet cannot be longer."""
MAX_NAME = 15
"""Bytes of an interface's name (``IFNAMSIZ`` of Linux, with its end)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceOptions:
    """Name and MTU of a TUN device.

    :raises ConfigError: a value cannot be used; names the option.
    """

    tun: str = DEFAULT_TUN
    """1 to 15 letters, digits, ``_``, ``-`` or ``.``, the first no ``-`` or ``.``: what Linux takes
    (``dev_valid_name``), and what needs no quoting anywhere."""
    mtu: int = DEFAULT_MTU
    """Bytes, 1280 to 65535."""

    def __post_init__(self) -> None:
        name = self.tun
        letters = name.isascii() and all(c.isalnum() or c in "_-." for c in name)
        if not letters or not 0 < len(name) <= MAX_NAME or name[0] in "-.":
            raise ConfigError(
                f"{name!r} is no interface name: 1 to 15 letters, digits, '_', '-' or '.', "
                "such as zks0.",
                "tun",
            )
        if not MIN_MTU <= self.mtu <= MAX_MTU:
            raise ConfigError(
                f"{self.mtu} is out of range: give {MIN_MTU} (which IPv6 needs, RFC 8200 §5) to "
                f"{MAX_MTU}.",
                "mtu",
            )
