"""Who may use a worker: bearer tokens from a file (PROTOCOL.md §1).

The file holds one token a line, ``name token`` or the bare token; ``#`` begins a comment line.
Names appear in logs and limits, tokens nowhere.
"""

from __future__ import annotations

import hmac
import logging
import os
import re
import stat
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from ..errors import ConfigError

__all__ = ["ANYONE", "Principal", "TokenFile"]

log = logging.getLogger(__name__)

_MAX_FILE = 1 << 20
_MAX_TOKENS = 4096
_TOKEN = re.compile(r"[\x21-\x7e]{1,512}")
_NAME = re.compile(r"[^\s\x00-\x1f\x7f]{1,64}")
_SHORT = 16


@dataclass(frozen=True, slots=True)
class Principal:
    """Whom a token stands for. Two tokens of one name are two principals, each with own limits."""

    name: str
    #: SHA-256 of the token: tells principals apart; never shown.
    digest: bytes = field(repr=False)


#: Everyone, at a worker without a token file (on loopback only).
ANYONE = Principal("anyone", b"")


def _digest(token: bytes) -> bytes:
    return sha256(token).digest()


def _parse(text: str, path: str) -> tuple[Principal, ...]:
    principals: dict[bytes, Principal] = {}
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        words = line.split()
        if len(words) > 2:
            raise ConfigError(
                f"token file {path}, line {number}: more than a name and a token;"
                " write one 'name token' or one token a line"
            )
        token = words[-1]
        name = words[0] if len(words) == 2 else f"line-{number}"
        if _TOKEN.fullmatch(token) is None or _NAME.fullmatch(name) is None:
            raise ConfigError(
                f"token file {path}, line {number}: a token is 1 to 512 printable ASCII"
                " characters without blanks, a name at most 64 characters"
            )
        if len(token) < _SHORT:
            log.warning(
                "token file %s, line %d: the token of %s is short; use 32 random characters",
                path,
                number,
                name,
            )
        digest = _digest(token.encode())
        if digest in principals:
            raise ConfigError(
                f"token file {path}, line {number}: the same token as {principals[digest].name}'s"
            )
        principals[digest] = Principal(name, digest)
    if not principals:
        raise ConfigError(
            f"token file {path} holds no token, so nobody could connect;"
            " write one 'name token' a line"
        )
    if len(principals) > _MAX_TOKENS:
        raise ConfigError(f"token file {path} holds more than {_MAX_TOKENS} tokens")
    return tuple(principals.values())


class TokenFile:
    """The tokens of one file, read at construction and again by :meth:`reload`.

    Raises :class:`~zks_lwip.errors.ConfigError` when the file cannot be read or is malformed. A
    file that others may read is warned about. A pipe (``/dev/fd/N``) can be read once only.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = os.fspath(path)
        self._regular = True
        self.principals = self._read()

    def _read(self) -> tuple[Principal, ...]:
        try:
            with open(self.path, "rb") as file:
                status = os.fstat(file.fileno())
                data = file.read(_MAX_FILE + 1)
        except OSError as error:
            raise ConfigError(
                f"token file {self.path}: {error.strerror}; give --token-file a file that"
                " this user may read, with one 'name token' a line"
            ) from None
        self._regular = stat.S_ISREG(status.st_mode)
        if len(data) > _MAX_FILE:
            raise ConfigError(f"token file {self.path} is larger than {_MAX_FILE} bytes")
        if self._regular and os.name == "posix" and status.st_mode & 0o077:
            log.warning(
                "token file %s can be read by others (mode %03o); type: chmod 600 %s",
                self.path,
                stat.S_IMODE(status.st_mode),
                self.path,
            )
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise ConfigError(f"token file {self.path} is not UTF-8 text") from None
        return _parse(text, self.path)

    def reload(self) -> frozenset[Principal]:
        """Read the file again; answers those who are no longer in it.

        On any error the tokens stay as they are and the error is raised.
        """
        if not self._regular:
            raise ConfigError(f"token file {self.path} is a pipe and cannot be read again")
        before = self.principals
        self.principals = self._read()
        kept = {principal.digest for principal in self.principals}
        return frozenset(old for old in before if old.digest not in kept)

    def check(self, authorization: bytes | None) -> Principal | None:
        """Whose ``Authorization`` header this is; None: nobody's (401).

        Takes the same time for every wrong or missing token: all tokens are compared, always.
        """
        scheme, _, token = (authorization or b"").strip().partition(b" ")
        offered = _digest(token.strip())
        found: Principal | None = None
        for principal in self.principals:
            if hmac.compare_digest(principal.digest, offered):
                found = principal
        return found if scheme.lower() == b"bearer" else None
