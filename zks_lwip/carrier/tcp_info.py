"""What the kernel knows of a TCP connection: what the peer has acknowledged, the round trip, and
since when there has been nothing to send.

Linux tells them by ``TCP_INFO`` (tcp(7)). On macOS ``SO_NWRITE`` (getsockopt(2)) says how many
bytes the send buffer holds, which gives the first. Elsewhere nothing is known.
"""

from __future__ import annotations

import socket
import struct
import sys
from dataclasses import dataclass

import trio

if sys.platform == "linux":
    import fcntl

__all__ = ["Progress", "carrier_of", "idle", "progress", "round_trip", "stretched"]

MAX_STRETCH = 60.0
"""Seconds that :func:`stretched` returns at most: a queue of a minute is the longest that real
links have, and a peer that is dead must be found out."""

_TCP_INFO: int | None = getattr(socket, "TCP_INFO", None) if sys.platform == "linux" else None
# Offsets in struct tcp_info (linux/tcp.h); the kernel fills in what it has, up to the size asked.
_UNSENT = struct.Struct("=44xI96xI")  # tcpi_last_data_sent, ms; tcpi_notsent_bytes (Linux 4.6)
_RTT = struct.Struct("=68xI")  # tcpi_rtt, microseconds
_ACKED = struct.Struct("=120xQ")  # tcpi_bytes_acked, since Linux 4.1
_SIOCOUTQ = 0x5411  # unsent and unacknowledged bytes (tcp(7)); what termios calls TIOCOUTQ
_SO_NWRITE = 0x1024 if sys.platform == "darwin" else None  # sys/socket.h of xnu


@dataclass(frozen=True, slots=True)
class Progress:
    """Places in the stream of bytes that this end has written."""

    acknowledged: int
    """Up to here the peer's TCP has everything."""
    written: int
    """Up to here the kernel has been given bytes."""


def carrier_of(stream: trio.abc.Stream) -> trio.socket.SocketType | None:
    """Return the socket below ``stream`` (TCP, or TLS over it), if there is one."""
    if isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    return stream.socket if isinstance(stream, trio.SocketStream) else None


def progress(carrier: trio.socket.SocketType | None, written: int) -> Progress | None:
    """Return how far the peer's TCP has come, None if that cannot be known.

    :param written: bytes handed to the carrier so far; a few less (the framing of TLS) do no harm.
        Linux knows better.
    """
    if carrier is None:
        return None
    try:
        if sys.platform == "linux" and _TCP_INFO is not None:
            info = carrier.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _ACKED.size)
            if len(info) < _ACKED.size:
                return None
            (acknowledged,) = _ACKED.unpack(info)
            answer = fcntl.ioctl(carrier.fileno(), _SIOCOUTQ, b"\0\0\0\0")
            return Progress(acknowledged, acknowledged + int.from_bytes(answer, sys.byteorder))
        if _SO_NWRITE is not None:
            outstanding = carrier.getsockopt(socket.SOL_SOCKET, _SO_NWRITE)
            return Progress(written - outstanding, written)
    except OSError:  # closed, or not TCP
        return None
    return None


def idle(carrier: trio.socket.SocketType | None) -> float:
    """Return for how many seconds the kernel has had nothing to send, to a tick of its clock (1 to
    10 ms), or a little less; 0 if it has something, or where that is not known."""
    if carrier is None or _TCP_INFO is None:
        return 0.0
    try:
        info = carrier.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _UNSENT.size)
    except OSError:  # closed, or not TCP
        return 0.0
    if len(info) < _UNSENT.size:
        return 0.0
    last_sent, unsent = _UNSENT.unpack(info)
    return 0.0 if unsent else float(last_sent) / 1e3


def round_trip(carrier: trio.socket.SocketType | None) -> float:
    """Return the smoothed round-trip time in seconds, queues included; 0 if it is not known."""
    if carrier is None or _TCP_INFO is None:
        return 0.0
    try:
        info = carrier.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _RTT.size)
    except OSError:
        return 0.0
    return float(_RTT.unpack(info)[0]) / 1e6 if len(info) == _RTT.size else 0.0


def stretched(seconds: float, trips: int, rtt: float) -> float:
    """Return a time limit for an exchange of ``trips`` round trips of ``rtt`` seconds each.

    It is ``seconds`` on every usual path. Where the queues of a slow link are full, an answer is
    not late before they have drained.
    """
    return max(seconds, min(seconds + trips * rtt, MAX_STRETCH))
