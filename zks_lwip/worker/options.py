"""What a worker is told."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from ..carrier.liveness import MAX_PATIENCE
from ..errors import ConfigError
from .addresses import ListenAddress, TcpAddress
from .front_ends import TrustedProxy
from .limits import Limits
from .nameservers import NameServer
from .policy import IPNetwork

__all__ = ["MAX_HANDSHAKES", "WorkerConfig"]

MAX_HANDSHAKES = 512
"""Connections that have not shown a token yet; over it the oldest gives way."""


_PREFIX = re.compile(r"[A-Za-z0-9-]{0,32}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """What a worker is told. Times are in seconds.

    :raises ConfigError: a value that cannot be used.
    """

    host: str = "127.0.0.1"
    port: int = 8787
    """0: any free one."""
    listen: tuple[ListenAddress, ...] = ()
    """Where to listen instead of ``host`` and ``port``: several addresses, unix sockets, or sockets
    that others have opened."""
    token_file: Path | str | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    allow: tuple[IPNetwork, ...] = ()
    """Networks that may be reached although they are not public, or are this machine."""
    allow_own: bool = False
    """Whether this machine's own public addresses may be reached: where its clients are its users
    anyhow."""
    resolvers: tuple[NameServer, ...] = ()
    """Name servers; none: the system's."""
    origins: tuple[str, ...] = ()
    """Web origins whose pages may connect."""
    trusted_proxies: tuple[TrustedProxy, ...] = ()
    """Front ends that are believed where a client's address is (``X-Forwarded-For``)."""
    mark: int | None = None
    """SO_MARK of every outgoing socket."""
    limits: Limits = field(default_factory=Limits)
    max_handshakes: int = MAX_HANDSHAKES
    """Connections that may not have shown a token yet."""
    window: int = 1 << 18
    """Bytes of credit that every stream starts with; it grows where that is too little."""
    idle_udp: int = 300
    """Until an association without datagrams ends; RFC 4787 REQ-5 wants 120 at least."""
    resume: int = 60
    """How long a session outlives its WebSocket, so that its client can come back (PROTOCOL.md §6);
    0: it does not."""
    access_log: Path | str | None = None
    """A file for one line per session and refusal (:mod:`.access_log`); ``-``: standard output."""
    log_targets: bool = False
    """Whether the access log names what clients reach, too."""
    session_prefix: str = ""
    """What the ids of its sessions begin with, before a dot: 1 to 32 ASCII letters, digits and
    hyphens. A front end before several workers leads a client back to its own by it."""
    max_detached: int = 4096
    """Sessions that have lost their WebSocket, over all tokens; over it the oldest ends."""
    max_kept: int = 512 << 20
    """Bytes of messages that are kept until clients have acknowledged them, over all tokens."""
    drain: float = 10.0
    """How long the end may take after SIGTERM; streams go on for most of it."""
    quiet: float = 15.0
    patience: float = 10.0
    longest: float = MAX_PATIENCE
    """The liveness times of PROTOCOL.md §8."""

    @property
    def addresses(self) -> tuple[ListenAddress, ...]:
        """Where to listen."""
        return self.listen or (TcpAddress(self.host, self.port),)

    def __post_init__(self) -> None:
        if not _PREFIX.match(self.session_prefix):
            raise ConfigError(
                f"{self.session_prefix!r} cannot be used: give 1 to 32 letters, digits and hyphens "
                "(ASCII).",
                "session_prefix",
            )
        if self.log_targets and self.access_log is None:
            raise ConfigError("is of no use without `access_log`", "log_targets")
