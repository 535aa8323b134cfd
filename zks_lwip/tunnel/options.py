"""What a tunnel is told: which worker, how to get there, and for how long to try."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from .._util import choice
from ..carrier.liveness import MAX_PATIENCE
from ..carrier.versions import V1, V2, Version
from ..errors import ConfigError
from ..protocol import HELLO_TIMEOUT
from .endpoint import (
    Address,
    Protocol,
    WorkerUrl,
    check_plaintext,
    check_token,
    parse_worker_address,
    parse_worker_url,
)
from .proxy import Proxy, parse_proxy_option

__all__ = [
    "MAX_WORKERS",
    "Protocol",
    "TunnelConfig",
    "WorkerEndpoint",
    "check_channels",
    "check_grace",
    "read_endpoint",
]

MAX_WORKERS = 16
"""Workers that one tunnel may choose from."""


MAX_CHANNELS = 16
"""WebSockets over which streams are spread at most."""
MAX_RESUME = 3600
"""Seconds for which a session may wait for another WebSocket."""


def check_channels(channels: int) -> None:
    """Check over how many WebSockets streams are to be spread.

    :raises ConfigError: it is not 1 to 16.
    """
    if not 1 <= channels <= MAX_CHANNELS:
        raise ConfigError(
            f"{channels} is out of range: give 1 to {MAX_CHANNELS} WebSockets.", "channels"
        )


def check_resume(seconds: int) -> None:
    """Check for how long a lost session may be resumed.

    :raises ConfigError: it is not 0 to 3600 s.
    """
    if not 0 <= seconds <= MAX_RESUME:
        raise ConfigError(
            f"{seconds} is out of range: give 0 (never) to {MAX_RESUME} seconds.", "resume"
        )


def check_grace(seconds: float) -> None:
    """Check how long streams may wait for a lost tunnel.

    :raises ConfigError: it is not 0 to 3600 s.
    """
    if not 0 <= seconds <= 3600:
        raise ConfigError(f"{seconds:g} is out of range: give 0 to 3600 seconds.", "grace")


def read_endpoint(options: object, *, url: str, token: str, address: str, proxy: str) -> None:
    """Read the fields of a frozen dataclass that say where a worker is, where they are texts.

    :param url: the name of the field, as are the others.
    :raises ConfigError: one cannot be used; a token is not repeated.
    """
    readers: dict[str, Callable[[str], object]] = {
        url: parse_worker_url,
        token: check_token,
        address: parse_worker_address,
        proxy: parse_proxy_option,
    }
    for name, read in readers.items():
        value = getattr(options, name)
        if name == token and not isinstance(value, str | None):
            raise ConfigError("cannot be used: give a text.", "token")
        if isinstance(value, str):
            object.__setattr__(options, name, read(value))


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerEndpoint:
    """One of several workers: where it is, and what is for it alone.

    :raises ConfigError: a text cannot be used.
    """

    url: WorkerUrl
    token: str | None = field(default=None, repr=False)
    """What the worker knows the client by."""
    address: Address | None = None
    """Where the worker is; None: its name is looked up, or the proxy does that."""
    proxy: Proxy | None = None
    """The HTTP proxy that is asked to connect to it."""

    if TYPE_CHECKING:
        # Texts are read; what the fields hold has been.
        def __init__(
            self,
            *,
            url: WorkerUrl | str,
            token: str | None = ...,
            address: Address | str | None = ...,
            proxy: Proxy | str | None = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        read_endpoint(self, url="url", token="token", address="address", proxy="proxy")


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelConfig:
    """Where the worker is and how to get there. Times are in seconds.

    :raises ConfigError: a URL that cannot be used, or not without ``plaintext``; a value out of its
        range.
    """

    url: WorkerUrl | str
    """Of the worker, or of the first of several."""
    others: tuple[WorkerEndpoint, ...] = ()
    """More workers. What a worker's end of the tunnel is asked for goes to the one in use."""
    token: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    """PEM file of certificates that are trusted besides the system's."""
    protocol: Protocol | str = Protocol.V2
    """A ``Protocol``, or its value."""
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
    """How long a stream may wait for a channel, 0 to 3600."""
    resume: int = 60
    """For how long a lost session may be resumed, 0 to 3600; 0: it ends. (The worker may say
    less.)"""
    fast_open: bool = False
    """Resume by requests that leave with their SYN (TCP Fast Open, Linux), where the worker's
    system allows it."""
    gone: float = 1.0
    """Refusals of TCP, at least three, after which there is no worker, and no session of its, any
    more."""
    suspicious: float = 2.0
    """Silence, of a worker that has something to acknowledge, after which another WebSocket is
    opened beside one (PROTOCOL.md §8)."""
    max_waiting: int = 4096
    """How many streams may wait."""
    channels: int = 1
    """WebSockets over which streams are spread while there are any, 1 to 16; there are more where
    these have no room. In v1 every stream has one of its own."""
    max_channels: int = 48
    """Fewer than a worker takes of one token, which others may have, too. In v1 32 times as
    many."""
    max_memory: int = 128 << 20
    """Bytes that streams may be granted together, above 16 KiB each, with those that are kept until
    the worker has acknowledged them: a quarter at most."""
    idle_channel: float = 30.0
    """After which a channel without streams, beside another one, is closed."""
    linger: float = 30.0
    """That a stream may take to end by itself after it was closed here."""
    dns_timeout: float = 5.0
    """Within which the worker has to answer a DNS query."""
    max_dns_queries: int = 4096
    """How many DNS queries may wait for the worker."""
    tls_patience: float = 3.0
    """In v1: silence after which TLS that an application gives up counts as not answered."""
    connect_timeout: float = 10.0
    """For TCP, over all addresses."""
    upgrade_timeout: float = 10.0
    """For TLS and the upgrade together."""
    hello_timeout: float = HELLO_TIMEOUT
    """For the worker's HELLO."""
    quiet: float = 15.0
    patience: float = 10.0
    longest: float = MAX_PATIENCE
    """The liveness times of PROTOCOL.md §8."""
    backoff: tuple[float, float] = (0.5, 30.0)
    """First and largest delay between attempts to connect."""
    check_every: float = 60.0
    """Where there are several workers: between two checks of one that is well."""
    settle: tuple[float, float] = (30.0, 600.0)
    """For how long a worker that had failed must be well before connections go back to it: the
    first time, and at most, for it doubles with each failure."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", self.worker)  # read once
        object.__setattr__(self, "protocol", choice(Protocol, self.protocol, "protocol"))
        if len(self.others) >= MAX_WORKERS:
            raise ConfigError(f"is given more than {MAX_WORKERS} times.", "worker")
        for each in self.workers:
            check_plaintext(each.worker, self.plaintext)
        check_grace(self.grace)
        check_channels(self.channels)
        check_resume(self.resume)

    @property
    def worker(self) -> WorkerUrl:
        """``url``, parsed."""
        return self.url if isinstance(self.url, WorkerUrl) else parse_worker_url(self.url)

    @property
    def workers(self) -> tuple[TunnelConfig, ...]:
        """One configuration for each worker, without ``others``."""
        if not self.others:
            return (self,)
        return (
            replace(self, others=()),
            *(
                replace(
                    self,
                    url=each.url,
                    token=each.token,
                    address=None if each.address is None else str(each.address),
                    proxy=each.proxy,
                    others=(),
                )
                for each in self.others
            ),
        )

    @property
    def version(self) -> Version:
        """What ``protocol`` asks of a WebSocket and its owner."""
        return V1 if self.protocol is Protocol.V1 else V2
