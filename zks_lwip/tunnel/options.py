"""What a tunnel is told: which worker, how to get there, and for how long to try."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import trio

from ..config import WorkerUrl, parse_worker_url
from ..errors import ConfigError
from .liveness import LONGEST
from .proxy import Proxy

__all__ = ["TunnelConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelConfig:
    """Where the worker is and how to get there. Times are in seconds.

    Raises ConfigError for a URL that cannot be used, or may not be used without ``plaintext``.
    """

    url: WorkerUrl | str
    token: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    """PEM file of certificates that are trusted besides the system's."""
    protocol: str = "v2"
    """``v2``, or ``v1`` for an original ZKS-Tunnel Worker (PROTOCOL.md §9)."""
    plaintext: bool = False
    """Allow ``ws://`` to hosts other than loopback: token and traffic in the clear."""
    mark: int | None = None
    """SO_MARK of every socket (Linux; needs CAP_NET_ADMIN)."""
    address: str | None = None
    """An IP address to connect to instead of asking what the URL's host resolves to."""
    proxy: Proxy | None = None
    """An HTTP proxy that connects to the worker for us."""
    resolve: Callable[[str], Awaitable[Sequence[str]]] | None = None
    """What finds a name's addresses; None: the system's resolver. Raises OSError."""
    configure_socket: Callable[[trio.socket.SocketType, str, int], None] | None = None
    """Called with every new socket, and the address and port that it will be connected to."""
    grace: float = 10.0
    """How long a stream may wait for a channel."""
    max_waiting: int = 4096
    """How many streams may wait."""
    max_channels: int = 32
    """In v1, where every stream has a channel of its own, 32 times as many."""
    max_memory: int = 128 << 20
    """Bytes that streams may be granted together, above 16 KiB each."""
    idle_channel: float = 30.0
    """After which a channel without streams, beside another one, is closed."""
    connect_timeout: float = 10.0
    """For TCP, over all addresses."""
    upgrade_timeout: float = 10.0
    """For TLS and the upgrade together."""
    hello_timeout: float = 10.0
    quiet: float = 15.0
    patience: float = 10.0
    longest: float = LONGEST
    """The liveness times of PROTOCOL.md §8."""
    backoff: tuple[float, float] = (0.5, 30.0)
    """First and largest delay between attempts to connect."""

    def __post_init__(self) -> None:
        worker = self.worker
        if self.protocol not in ("v1", "v2"):
            raise ConfigError(f"--protocol {self.protocol!r} is not known: give v2 or v1.")
        if not worker.secure and not worker.loopback and not self.plaintext:
            raise ConfigError(
                f"{worker} is not encrypted, so token and traffic would cross the network in the "
                "clear. Use wss://, or insist with --plaintext."
            )

    @property
    def worker(self) -> WorkerUrl:
        """``url``, parsed."""
        return self.url if isinstance(self.url, WorkerUrl) else parse_worker_url(self.url)
