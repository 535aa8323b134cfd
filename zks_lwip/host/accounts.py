"""Users and groups of this machine, by name."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ..errors import ConfigError

if TYPE_CHECKING:
    if sys.platform == "win32":
        from typing import Any as Account
    else:
        from pwd import struct_passwd as Account

__all__ = ["find_group", "find_user"]

_UNABLE = "has no meaning on Windows: leave it out"


def find_user(name: str, option: str = "user") -> Account:
    """Return the entry of the user of that name.

    :param option: named in the error.
    :raises ConfigError: there is no such user.
    """
    if sys.platform == "win32":
        raise ConfigError(_UNABLE, option)
    import pwd

    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise ConfigError(
            f"{name}: there is no user of that name; give one that `getent passwd` shows", option
        ) from None


def find_group(name: str, option: str = "control_group") -> int:
    """Return the id of the group of that name.

    :param option: named in the error.
    :raises ConfigError: there is no such group.
    """
    if sys.platform == "win32":
        raise ConfigError(_UNABLE, option)
    import grp

    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(
            f"{name}: there is no group of that name; give one that `getent group` shows",
            option,
        ) from None
