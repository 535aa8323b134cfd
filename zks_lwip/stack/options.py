"""What a stack is told by a user, checked."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError

__all__ = ["DEFAULT_KEEPALIVE", "StackOptions"]

DEFAULT_KEEPALIVE = 70.0
"""Seconds; see :class:`~zks_lwip.stack.Stack`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StackOptions:
    """Memory and keepalive of the connections.

    :raises ConfigError: a value is out of its range; names the option.
    """

    max_memory: int = 256
    """MiB that all connections hold, or may come to hold, together, 16 to 65536."""
    keepalive: float = DEFAULT_KEEPALIVE
    """Seconds of an application's silence until its kernel is asked whether it still has the
    connection, 1 to 86400, or 0: never."""

    def __post_init__(self) -> None:
        if not 16 <= self.max_memory <= 65536:
            raise ConfigError(
                f"{self.max_memory} is out of range: give 16 to 65536 (MiB).", "max_memory"
            )
        if not (self.keepalive == 0 or 1 <= self.keepalive <= 86400):
            raise ConfigError(
                f"{self.keepalive:g} is out of range: give 1 to 86400 seconds, or 0.", "keepalive"
            )
