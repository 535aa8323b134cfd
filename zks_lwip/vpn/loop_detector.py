"""Find out when the tunnel's own connections arrive in the tunnel.

That is a loop: nothing would ever come out of it. Our routes make it impossible; where another
program leads packets to the device, or translates addresses on the way, it has to be noticed.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing

import trio

__all__ = ["IsMarked", "LoopDetector", "open_loop_detector"]

_log = logging.getLogger(__name__)

IsMarked = Callable[[tuple[str, int], tuple[str, int]], bool]
"""Whether the socket with this source and destination carries the tunnel's mark."""

_AGAIN = 60.0
"""Seconds between two reports."""


class LoopDetector:
    """Knows the tunnel's sockets by their ports and where they go.

    :param is_marked: tells those of an embedded worker, which is another process.
    :param mark: SO_MARK of all of them, for the report.
    """

    def __init__(self, is_marked: IsMarked | None = None, mark: int | None = None) -> None:
        self._is_marked = is_marked
        self._marked = "" if mark is None else f" mark {mark:#x}"
        self._sockets: dict[int, tuple[trio.socket.SocketType, tuple[str, int]]] = {}
        self._reported = -_AGAIN

    def watch(self, sock: trio.socket.SocketType, address: str, port: int) -> None:
        """Take note of a socket that is about to be connected to ``address`` and ``port``."""
        gone = [own for own, (known, _) in self._sockets.items() if known.fileno() < 0]
        for own in gone:
            del self._sockets[own]
        # With a port from the start: while it connects, its first packet may come to us.
        any_address = "::" if ":" in address else "0.0.0.0"
        with socket.fromfd(sock.fileno(), sock.family, sock.type) as same:
            same.bind((any_address, 0))
        self._sockets[sock.getsockname()[1]] = (sock, (_literal(address), port))

    def is_loop(self, source: tuple[str, int], destination: tuple[str, int]) -> bool:
        """Return whether a connection from the device is one of ours; log it, once a minute.

        Addresses may have been translated on the way, ports hardly ever are.
        """
        found = self._sockets.get(source[1])
        if found is not None and found[0].fileno() >= 0 and found[1] == destination:
            whose = "the tunnel's own connection to the worker"
        elif self._is_marked is not None and self._is_marked(source, destination):
            whose = "a connection of the embedded worker's"
        else:
            return False
        now = trio.current_time()
        if now - self._reported >= _AGAIN:
            self._reported = now
            _log.error(
                "a loop: %s came back through the tunnel; it is refused. Some route or rule leads "
                "marked packets to our device: look at `ip rule` and "
                "`ip route get %s%s`.",
                whose,
                destination[0],
                self._marked,
            )
        return True


@asynccontextmanager
async def open_loop_detector(mark: int | None, *, embedded: bool) -> AsyncIterator[LoopDetector]:
    """Make a detector, with what tells the embedded worker's sockets where they are captured.

    :param mark: SO_MARK of the tunnel's sockets, in the captured namespace; None: they are not in
        it.
    """
    if not embedded or mark is None or sys.platform != "linux":
        yield LoopDetector(mark=mark)
        return
    from ..host.linux.socket_marks import SocketMarks

    with closing(SocketMarks()) as marks:
        yield LoopDetector(
            lambda source, destination: marks.mark_of(source, destination) == mark, mark
        )


def _literal(address: str) -> str:
    """Return an address as the stack writes it."""
    return str(ipaddress.ip_address(address.partition("%")[0]))
