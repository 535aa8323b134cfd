"""Where the worker is, as a user writes it: its URL, an address for it, the file with its token,
and which version of the protocol it speaks.
"""

from __future__ import annotations

import enum
import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from .._private import check_private
from .._util import open_file
from ..errors import ConfigError
from ..net.names import InvalidName, host_name, join_host_port

__all__ = [
    "DEFAULT_PATH",
    "Address",
    "Protocol",
    "WorkerUrl",
    "check_plaintext",
    "check_token",
    "parse_worker_address",
    "parse_worker_url",
    "read_token_file",
]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

DEFAULT_PATH = "/tunnel"
"""The path of a URL that has none."""

MAX_TOKEN_FILE = 64 * 1024
"""Bytes of a token file."""
_SCHEME = re.compile(r"(?s)(?:(wss?):/?(?!\d+(?:/|\Z)))?(.*)")
"""``wss:host`` has a scheme, and ``wss:443`` a port."""
_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}\Z")


class Protocol(enum.Enum):
    """The version of the tunnel's protocol that the worker speaks (PROTOCOL.md)."""

    V1 = "v1"
    """Of the original ZKS-Tunnel Worker (§9): TCP and DNS only."""
    V2 = "v2"


@dataclass(frozen=True, slots=True)
class WorkerUrl:
    """A checked worker URL; made by :func:`parse_worker_url`."""

    secure: bool
    """TLS is spoken: ``wss://``."""
    host: str
    """A name, in lower case and ASCII, or an address without brackets."""
    port: int
    """1 to 65535, also where the URL has none."""
    path: str
    """Begins with a slash."""

    @property
    def loopback(self) -> bool:
        """Whether the host is this machine itself: a loopback address, or localhost (RFC 6761)."""
        return _is_loopback(self.host)

    @property
    def address(self) -> Address | None:
        """The host as an address, or None if it is a name."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None

    def __str__(self) -> str:
        default = 443 if self.secure else 80
        where = join_host_port(self.host, None if self.port == default else self.port)
        return f"{'wss' if self.secure else 'ws'}://{where}{self.path}"


def check_plaintext(worker: WorkerUrl, plaintext: bool) -> None:
    """Check that ``worker`` may be spoken to as its URL says.

    :param plaintext: the user insists on ``ws://`` beyond loopback.
    :raises ConfigError: token and traffic would cross a network in the clear.
    """
    if not worker.secure and not worker.loopback and not plaintext:
        raise ConfigError(
            f"{worker} is not encrypted, so token and traffic would cross the network in the "
            "clear. Use wss://, or insist with `plaintext`."
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def parse_worker_url(text: str) -> WorkerUrl:
    """Read ``wss://HOST[:PORT][/PATH]``, or ``ws://``; without a path it is :data:`DEFAULT_PATH`.

    :raises ConfigError: it is no such URL, or carries a secret, which the message does not repeat.
    """
    shown = _without_userinfo(text)
    if not text.strip():
        raise ConfigError("is empty: write wss://HOST[:PORT][/PATH].", "worker")
    if "://" not in text:
        scheme, rest = _SCHEME.match(shown).groups("")  # type: ignore[union-attr]  # it always does
        said = "has no scheme" if not scheme else "lacks the // after its scheme"
        raise ConfigError(f"{shown} {said}: write {scheme or 'wss'}://{rest}.", "worker")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ConfigError(
            f"{shown} is no URL ({error}): write wss://HOST[:PORT][/PATH].", "worker"
        ) from None
    if parts.scheme not in ("ws", "wss"):
        shown = shown.split("?")[0].split("#")[0]  # a token may follow
        meant = "wss://HOST[:PORT][/PATH]"
        if parts.scheme in ("http", "https") and parts.netloc:
            plain = parts.scheme == "http" and _is_loopback(parts.hostname or "")
            meant = f"{'ws' if plain else 'wss'}://{shown.partition('://')[2]}"
        raise ConfigError(
            f"{shown}: the scheme {parts.scheme!r} is not ours; write {meant}.", "worker"
        )
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            f"{shown} carries a user name or password: put the token into a file, for "
            "`token_file`.",
            "worker",
        )
    if parts.query or parts.fragment or "?" in text or "#" in text:
        raise ConfigError(
            f"{text.split('?')[0].split('#')[0]}: leave out what follows '?' or '#'; "
            "a token belongs into a file, for `token_file`.",
            "worker",
        )
    if port == 0:
        raise ConfigError(f"{shown}: port 0 cannot be connected to; give 1 to 65535.", "worker")
    secure = parts.scheme == "wss"
    host = _checked_host(parts.hostname or "", shown)
    path = parts.path if parts.path not in ("", "/") else DEFAULT_PATH
    if not path.isascii() or any(c.isspace() or not c.isprintable() for c in path):
        raise ConfigError(
            f"{shown}: the path has characters that a URL cannot hold; percent-encode them.",
            "worker",
        )
    return WorkerUrl(secure, host, port or (443 if secure else 80), path)


def _without_userinfo(text: str) -> str:
    """Return the text as it may be shown: a password in a URL is not repeated."""
    return re.sub(r"(^|//)[^/@]*@", r"\1…@", text)


def _checked_host(host: str, shown: str) -> str:
    if not host:
        raise ConfigError(f"{shown} names no host: write wss://HOST[:PORT][/PATH].", "worker")
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass  # a name, then
    try:
        return host_name(host)
    except InvalidName as error:
        raise ConfigError(
            f"{shown}: {host!r} is neither an address nor a host name ({error}).", "worker"
        ) from None


def parse_worker_address(text: str) -> Address:
    """Read the address at which the worker is, IPv4 or IPv6, with or without brackets.

    :raises ConfigError: it is none, or none that can be connected to.
    """
    try:
        address = ipaddress.ip_address(text.strip().strip("[]"))
    except ValueError:
        raise ConfigError(
            f"{text!r} is no IPv4 or IPv6 address; a name belongs into `worker`.",
            "worker_address",
        ) from None
    if address.is_multicast or address.is_unspecified:
        raise ConfigError(f"{address} cannot be connected to.", "worker_address")
    return address


def check_token(token: str) -> str:
    """Return a token if it is 1 to 4096 printable ASCII characters without spaces.

    :raises ConfigError: it is not; the message does not repeat it.
    """
    if not _TOKEN.match(token):
        raise ConfigError(
            "has characters that no token has: give 1 to 4096 printable ASCII characters, without "
            "spaces and line ends.",
            "token",
        )
    return token


def read_token_file(path: Path, *, option: str = "token_file") -> str:
    """Return the token in a file: in its first line that is not empty or a comment, which is the
    token alone or ``name token``.

    :param path: a file of at most 64 KiB; the token is 1 to 4096 printable ASCII characters
        without spaces.
    :param option: the name for the file in messages.
    :raises ConfigError: the file cannot be read or holds no token, or others may read it; what it
        holds is not repeated.
    """
    try:
        with open_file(path, given=True) as file:
            status = os.fstat(file.fileno())
            data = file.read(MAX_TOKEN_FILE + 1)
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}. Give a file that holds the worker's token.", option
        ) from None
    check_private(status, path, option)
    if len(data) > MAX_TOKEN_FILE:
        raise ConfigError(f"{path} is larger than 64 KiB: this is no token file.", option)
    for line in data.decode("utf-8", "replace").splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) > 2 or not _TOKEN.match(words[-1]):
            raise ConfigError(
                f"{path}: its first line is neither a bare token nor `name token` "
                "(printable ASCII, no spaces).",
                option,
            )
        return words[-1]
    raise ConfigError(f"{path} holds no token: write it on a line of its own.", option)
