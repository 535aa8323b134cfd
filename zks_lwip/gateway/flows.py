"""What is told of each flow: where from, where to, which way, for how long, and how many bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["FlowInfo", "FlowState", "Via"]

Via = Literal["tunnel", "direct", "stream", "dns"]
"""Through the worker, beside the tunnel, to a stream of the program's own, or answered here."""
FlowState = Literal["connecting", "open"]


@dataclass(frozen=True, slots=True)
class FlowInfo:
    """A TCP connection, or a UDP association, at one moment."""

    protocol: Literal["tcp", "udp"]
    source: tuple[str, int] | None
    """Address and port of the application; None: this program has opened it through the VPN."""
    destination: tuple[str, int] | None
    """Where it goes, an address or a name, and the port; of an association, where the last datagram
    was sent to; None: none was yet."""
    via: Via
    state: FlowState
    """``connecting``: its SYN is held until the far end has connected."""
    seconds: float
    """Since it began."""
    bytes_up: int
    """From the application."""
    bytes_down: int
    """To the application."""
