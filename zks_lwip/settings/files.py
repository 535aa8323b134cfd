"""Where files of settings lie, who may have written them, and how they are read."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._private import check_private
from .._util import open_file
from ..errors import ConfigError

__all__ = ["SYSTEM_FILE", "SettingsFile", "home_directory", "read_source", "user_file"]

SYSTEM_FILE = Path(
    r"C:\Program Files\zks-lwip\zks_lwip.toml" if sys.platform == "win32" else "/etc/zks_lwip.toml"
)
"""The settings of the machine. On Windows any user could make ``C:\\etc``, or a folder in
``C:\\ProgramData``; in this one administrators alone write."""

_MAX_FILE = 1 << 20
_NOT_THERE = (FileNotFoundError, NotADirectoryError)
_WHERE = re.compile(r"(?s)(.*) \(at line (\d+), column (\d+)\)\Z")
_AT_END = " (at end of document)"
_WRITERS = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """A file that has been read: what it says, unjudged."""

    path: Path
    table: Mapping[str, Any]


def home_directory(environ: Mapping[str, str]) -> Path | None:
    """Return the home whose settings are read: root's own under sudo, too; None: there is none."""
    if sys.platform != "win32":
        import pwd

        uid = os.geteuid()
        home = "" if uid == 0 else environ.get("HOME", "")
        if not home:
            try:
                home = pwd.getpwuid(uid).pw_dir
            except KeyError:
                return None  # an account without an entry, of a container
        return Path(home) if os.path.isabs(home) else None
    return Path.home()


def user_file(environ: Mapping[str, str]) -> Path | None:
    """Return where the user's settings are: under XDG_CONFIG_HOME, which has to be absolute, or in
    ``~/.config``; None: there is no home."""
    base = environ.get("XDG_CONFIG_HOME", "")
    if os.path.isabs(base):
        return Path(base, "zks_lwip", "config.toml")
    home = home_directory(environ)
    return None if home is None else home / ".config" / "zks_lwip" / "config.toml"


def read_source(
    path: Path,
    *,
    required: bool,
    environ: Mapping[str, str],
    warn: Callable[[str], object],
) -> SettingsFile | None:
    """Read a file of settings; None: it is not there, and need not be.

    :param required: it has been asked for by name.
    :param environ: SUDO_UID in it says who has become root.
    :param warn: is told that it holds a token which its group may read.
    :raises ConfigError: it cannot be read, is no TOML (with line and column), holds a token though
        others may read it, or could have been written by others though root reads it.
    :raises PermissionError: it need not be there, and this user may not read it.
    """
    try:
        with open_file(path, given=True) as file:
            status = os.fstat(file.fileno())
            data = file.read(_MAX_FILE + 1)
    except _NOT_THERE as error:
        if not required:
            return None
        raise ConfigError(f"{path}: {error.strerror}. Give a file of settings, in TOML.") from None
    except PermissionError as error:
        if required:
            raise ConfigError(f"{path}: {error.strerror}.") from None
        if not _is_there(path):
            return None
        raise
    except (OSError, ValueError) as error:
        detail = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{path}: {detail}. Give a file of settings, in TOML.") from None
    _check_writers(path, status, environ)
    if len(data) > _MAX_FILE:
        raise ConfigError(f"{path} is larger than 1 MiB: this is no file of settings.")
    table = _parse(data, path)
    if _holds_token(table):
        check_private(status, path, None, what="a token", warn=warn)
    return SettingsFile(path, table)


def _is_there(path: Path) -> bool:
    """Return whether a file is seen to be there: not if a folder on the way is closed to us."""
    try:
        path.stat()
    except OSError:
        return False
    return True


def _parse(data: bytes, path: Path) -> dict[str, Any]:
    import tomllib  # here: most have no file, and --help needs none

    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}, line {line}: it is no UTF-8 text.") from None
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{path}: arrays or tables are nested too deep.") from None
    except ValueError as error:  # tomllib's own, and that of a number of thousands of digits
        raise ConfigError(_explain(str(error), text, path)) from None


def _explain(said: str, text: str, path: Path) -> str:
    """Return what is wrong, and where; with a hint where two things have one name."""
    where = ""
    if match := _WHERE.match(said):
        said, where = match[1], f", line {match[2]}, column {match[3]}"
    elif said.endswith(_AT_END):
        lines = text.split("\n")
        said = said.removesuffix(_AT_END)
        where = f", line {len(lines)}, column {len(lines[-1]) + 1} (its end)"
    hint = ""
    both = (r"(?m)^\s*worker\s*=", r"(?m)^\s*\[(.+\.)?worker\]")
    if said.startswith("Cannot") and all(re.search(pattern, text) for pattern in both):
        hint = (
            " In a file with a section [worker], for the command of that name, the address of a "
            "worker belongs into [connect], [run], [proxy] or a profile."
        )
    return f"{path}{where}: no valid TOML: {said}.{hint}"


def _holds_token(table: Mapping[str, Any]) -> bool:
    return any(
        key == "token" or (isinstance(value, dict) and _holds_token(value))
        for key, value in table.items()
    )


def _check_writers(path: Path, status: os.stat_result, environ: Mapping[str, str]) -> None:
    """Check that no other user has told root what to do.

    The file and the directories on the way to it have to be root's, or of the user who has become
    root by sudo, and no other's to write; a directory may be all users' if it is sticky, as /tmp
    is. Pipes pass: they come from what started this process.
    """
    if sys.platform == "win32" or os.geteuid() != 0 or not stat.S_ISREG(status.st_mode):
        return
    trusted = {0}
    groups = {0}
    for name, ids in (("SUDO_UID", trusted), ("SUDO_GID", groups)):
        if (text := environ.get(name, "")).isascii() and text.isdigit():
            ids.add(int(text))
    real = Path(os.path.realpath(path))
    named = Path(os.path.abspath(path))  # a link on the way could be another one tomorrow
    for place in dict.fromkeys((real, *real.parents, *named.parents)):
        found = status if place == real else place.stat()
        writers = found.st_mode & _WRITERS
        if found.st_gid in groups:
            writers &= ~stat.S_IWGRP
        if place != real and found.st_mode & stat.S_ISVTX:
            writers = 0
        if found.st_uid in trusted and not writers:
            continue
        how = (
            f"is of user {found.st_uid}"
            if found.st_uid not in trusted
            else f"may be written by others (mode {stat.S_IMODE(found.st_mode):03o})"
        )
        which = "it" if place == real else str(place)
        raise ConfigError(
            f"{path}: root does not do what others may have written, and {which} {how}. Have it "
            "owned by root, and writable by no other user."
        )
