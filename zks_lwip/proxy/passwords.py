"""Who may use the proxy: names and passwords of a file."""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from .._private import check_private
from .._util import open_file
from ..errors import ConfigError

__all__ = ["PasswordFile"]

_MAX_FILE = 1 << 20
_MAX_LINES = 4096
_MAX_LENGTH = 255
"""Bytes of a name, and of a password: what RFC 1929 can carry."""


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    digest: bytes = field(repr=False)


class PasswordFile:
    """The ``NAME:PASSWORD`` lines of a file, read at construction and again by :meth:`reload`.

    Empty lines, and those that begin with ``#``, are left out. A name has no colon; both have 1 to
    255 bytes of UTF-8.

    :raises ConfigError: the file cannot be read, is malformed, or others may read it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries = _read(path, given=True)

    @property
    def names(self) -> frozenset[str]:
        """All names."""
        return frozenset(entry.name for entry in self._entries)

    def reload(self) -> None:
        """Read the file again.

        :raises ConfigError: see above; what was read before stays in force.
        """
        self._entries = _read(self.path)

    def check(self, name: bytes, password: bytes) -> str | None:
        """Return the name if the password is one of its passwords; None: it is not.

        Takes the same time for every one that is wrong: all lines are compared, always.
        """
        offered = _digest(name, password)
        found = None
        for entry in self._entries:
            if hmac.compare_digest(entry.digest, offered):
                found = entry.name
        return found


def _digest(name: bytes, password: bytes) -> bytes:
    return sha256(sha256(name).digest() + sha256(password).digest()).digest()


def _read(path: Path, *, given: bool = False) -> tuple[_Entry, ...]:
    try:
        with open_file(path, given=given) as file:
            status = os.fstat(file.fileno())
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}. Give a file with one NAME:PASSWORD a line.",
            "password_file",
        ) from None
    check_private(status, path, "password_file")
    if len(data) > _MAX_FILE:
        raise ConfigError(f"{path} is larger than 1 MiB: this is no such file.", "password_file")
    entries = []
    for number, line in enumerate(data.split(b"\n"), 1):
        line = line.removesuffix(b"\r")
        if line.strip() and not line.startswith(b"#"):
            entries.append(_parse(line, f"{path}, line {number}"))
    if not 1 <= len(entries) <= _MAX_LINES:
        many = f"more than {_MAX_LINES} lines" if entries else "no line"
        raise ConfigError(f"{path} has {many} of the form NAME:PASSWORD.", "password_file")
    return tuple(entries)


def _parse(line: bytes, where: str) -> _Entry:
    """Read one line; what it says is not repeated in the error."""
    name, _, password = line.partition(b":")
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{where}: it is no UTF-8 text.", "password_file") from None
    if not (1 <= len(name) <= _MAX_LENGTH and 1 <= len(password) <= _MAX_LENGTH):
        raise ConfigError(
            f"{where}: write NAME:PASSWORD, each of 1 to 255 bytes, the name without a colon.",
            "password_file",
        )
    return _Entry(name.decode("utf-8"), _digest(name, password))
