"""Who may use a worker: bearer tokens from a file (PROTOCOL.md §1).

The file holds one token a line, ``name token`` or the bare token; ``#`` begins a comment line. What
:mod:`.grants` reads may follow name and token. Names appear in logs and limits, tokens nowhere.
"""

from __future__ import annotations

import hmac
import logging
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from .._private import check_private
from .._util import open_file
from ..errors import ConfigError
from .grants import UNLIMITED, Grant, is_option, mistaken_option, parse_grant

__all__ = ["ANYONE", "Principal", "TokenFile"]

_log = logging.getLogger(__name__)

_MAX_FILE = 1 << 20
_MAX_TOKENS = 4096
_TOKEN = re.compile(r"[\x21-\x7e]{1,512}")
_NAME = re.compile(r"[^\s\x00-\x1f\x7f]{1,64}")
_SHORT = 16


@dataclass(frozen=True, slots=True)
class Principal:
    """The holder of a token. Two tokens of one name are two principals, each with own limits."""

    name: str
    #: SHA-256 of the token: tells principals apart; never shown.
    digest: bytes = field(repr=False)


#: Everyone, at a worker without a token file (on loopback only).
ANYONE = Principal("anyone", b"")


def _digest(token: bytes) -> bytes:
    return sha256(token).digest()


def _parse(text: str, path: str) -> dict[bytes, tuple[Principal, Grant]]:
    found: dict[bytes, tuple[Principal, Grant]] = {}
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        where = f"token file {path}, line {number}"
        words = line.split()
        token = words[1] if len(words) > 1 else words[0]
        name = words[0] if len(words) > 1 else f"line-{number}"
        try:
            # (Or it would be a token that is easily guessed, or the token would be without limits.)
            if is_option(name) or is_option(token):
                raise ValueError("limits need a name and a token before them")
            mistake = mistaken_option(name) or mistaken_option(token)
            if mistake is not None:
                raise ValueError(f"{mistake}; limits need a name and a token before them")
            grant = parse_grant(words[2:])
        except ValueError as error:
            raise ConfigError(
                f"{where}: {error}; write one 'name token' or one token a line"
            ) from None
        if _TOKEN.fullmatch(token) is None or _NAME.fullmatch(name) is None:
            raise ConfigError(
                f"{where}: a token is 1 to 512 printable ASCII"
                " characters without blanks, a name at most 64 characters"
            )
        if len(token) < _SHORT:
            _log.warning("%s: the token of %s is short; use 32 random characters", where, name)
        digest = _digest(token.encode())
        if digest in found:
            raise ConfigError(f"{where}: the same token as {found[digest][0].name}'s")
        found[digest] = Principal(name, digest), grant
    if not found:
        raise ConfigError(
            f"token file {path} holds no token, so no client could connect;"
            " write one 'name token' a line"
        )
    if len(found) > _MAX_TOKENS:
        raise ConfigError(f"token file {path} holds more than {_MAX_TOKENS} tokens")
    return found


class TokenFile:
    """The tokens of one file, read at construction and again by :meth:`reload`.

    What the file's group may read is warned about. A pipe that this process was given
    (``/dev/fd/N``) can be read once only; another one, or a device, is refused.

    :raises ConfigError: the file cannot be read or is malformed, or others may read it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = os.fspath(path)
        self._regular = True
        self._take(self._read(given=True))

    def _take(self, found: Mapping[bytes, tuple[Principal, Grant]]) -> None:
        self.principals = tuple(principal for principal, _ in found.values())
        self._grants = {digest: grant for digest, (_, grant) in found.items()}

    def grant(self, principal: Principal) -> Grant:
        """Return what a token may do; of one that was removed, what all may."""
        return self._grants.get(principal.digest, UNLIMITED)

    def _read(self, *, given: bool = False) -> dict[bytes, tuple[Principal, Grant]]:
        try:
            with open_file(self.path, given=given) as file:
                status = os.fstat(file.fileno())
                data = file.read(_MAX_FILE + 1)
        except OSError as error:
            raise ConfigError(
                f"token file {self.path}: {error.strerror}; give `token_file` a file that"
                " this user may read, with one 'name token' a line"
            ) from None
        if given:
            self._regular = stat.S_ISREG(status.st_mode)
        if len(data) > _MAX_FILE:
            raise ConfigError(f"token file {self.path} is larger than {_MAX_FILE} bytes")
        check_private(status, self.path, "token_file")
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise ConfigError(f"token file {self.path} is not UTF-8 text") from None
        return _parse(text, self.path)

    def reload(self) -> frozenset[Principal]:
        """Read the file again.

        :returns: those who are no longer in it.
        :raises ConfigError: it cannot be read, or is wrong; the tokens stay as they are.
        """
        if not self._regular:
            raise ConfigError(f"token file {self.path} is a pipe and cannot be read again")
        before = self.principals
        self._take(self._read())
        kept = {principal.digest for principal in self.principals}
        return frozenset(old for old in before if old.digest not in kept)

    def check(self, authorization: bytes | None) -> Principal | None:
        """Return the principal of an ``Authorization`` header; None: there is none (401).

        Takes the same time for every wrong or missing token: all tokens are compared, always.
        """
        scheme, _, token = (authorization or b"").strip().partition(b" ")
        offered = _digest(token.strip())
        found: Principal | None = None
        for principal in self.principals:
            if hmac.compare_digest(principal.digest, offered):
                found = principal
        return found if scheme.lower() == b"bearer" else None
