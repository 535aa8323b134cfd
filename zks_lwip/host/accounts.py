"""Users and groups of this machine, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ConfigError

if TYPE_CHECKING:
    import pwd

__all__ = ["find_group", "find_user"]


def find_user(name: str, option: str = "user") -> pwd.struct_passwd:
    """Return the entry of the user of that name.

    :param option: named in the error.
    :raises ConfigError: there is no such user.
    """
    import pwd  # not on Windows

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
    import grp  # not on Windows

    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(
            f"{name}: there is no group of that name; give one that `getent group` shows",
            option,
        ) from None
