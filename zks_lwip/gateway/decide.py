"""What a program may decide of each flow, in place of the tunnel."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

import trio

from ..stack import Reject

__all__ = [
    "Decide",
    "Decision",
    "Direct",
    "FlowRequest",
    "Tunnel",
    "read_decision",
    "refusal_of",
]


@dataclass(frozen=True, slots=True)
class FlowRequest:
    """A connection, or a datagram from one socket to one destination: the first, also after five
    minutes without one."""

    protocol: Literal["tcp", "udp"]
    source: tuple[str, int]
    """Address and port of the application."""
    destination: tuple[str, int]
    """Address and port that it wants."""
    name: str = ""
    """The name that was last resolved to this address through the VPN; empty: none that is known.
    Several names may have one address: this is a good guess, and no proof."""


@dataclass(frozen=True, slots=True)
class Tunnel:
    """Through the worker.

    :raises ValueError: ``port`` is no port.
    """

    host: str | None = None
    """A name or an address in place of the flow's own; None: that. Of TCP only."""
    port: int | None = None
    """In place of the flow's own, 1 to 65535."""

    def __post_init__(self) -> None:
        if self.port is not None and not 1 <= self.port <= 65535:
            raise ValueError(f"{self.port} is not a port")


@dataclass(frozen=True, slots=True)
class Direct:
    """Beside the tunnel, from this machine. Where the host is captured by a strict kill switch,
    only to what its firewall lets out: see ``bypass`` of :class:`~zks_lwip.config.HostOptions`."""


Decision = (
    Tunnel
    | Direct
    | Reject
    | trio.abc.HalfCloseableStream
    | type[Tunnel]
    | type[Direct]
    | type[Reject]
)
"""A stream is one of the program's own: TCP only, and it is closed with the flow. Reject alone is
Reject.RST, which UDP is told as port unreachable."""

Decide = Callable[[FlowRequest], Decision | Awaitable[Decision]]
"""Called for each flow but those to port 53, and those that are refused anyhow.

It may wait: the application's SYN, or its first datagrams, do so, too, for two minutes at most. An
OSError that it raises refuses the flow by what the error says; any other ends the VPN.
"""

_REFUSALS = {
    errno.ENETUNREACH: Reject.NET_UNREACHABLE,
    errno.EHOSTUNREACH: Reject.HOST_UNREACHABLE,
    errno.EACCES: Reject.PROHIBITED,
    errno.EPERM: Reject.PROHIBITED,
    errno.ETIMEDOUT: Reject.SILENT,
}


def read_decision(
    decision: Decision, request: FlowRequest
) -> Tunnel | Direct | Reject | trio.abc.HalfCloseableStream:
    """Return what a decision means.

    :raises TypeError: it is none, or none for the flow's protocol.
    """
    if decision is Tunnel or decision is Direct:
        return decision()
    if decision is Reject:
        return Reject.RST
    if isinstance(decision, (Tunnel, Direct, Reject)):
        if decision is Reject.TOO_BIG:
            raise TypeError("Reject.TOO_BIG is no answer to a connection or to any datagram")
        return decision
    if isinstance(decision, trio.abc.HalfCloseableStream):
        if request.protocol != "tcp":
            raise TypeError("datagrams cannot be given a stream: decide Tunnel, Direct or Reject")
        return decision
    raise TypeError(
        f"{decision!r} decides nothing: return Tunnel, Direct, a member of Reject, or a "
        "trio.abc.HalfCloseableStream"
    )


def refusal_of(error: OSError) -> Reject:
    """Return how the application sees that its connection was not made."""
    return _REFUSALS.get(error.errno or 0, Reject.RST)
