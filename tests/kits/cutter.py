"""A path on loopback between a client and a server that fails in the ways in which networks do::

    async with cutting(port) as path:
        ...                  # a client talks to path.port, or path.url("/tunnel")
        path.reset()         # every connection is reset; new ones pass
        path.blackhole()     # nothing passes, neither end is told, new SYNs are not answered
        path.restore()       # all goes on, connections of before the blackhole too
        path.lose()          # connections are silent for ever, as behind a NAT that has forgotten
                             # them; new ones pass
        path.refuse()        # every connection is reset, new ones are refused
        path.hang()          # new connections are taken, and not a byte of them passes
        path.fates = [Fate(down=100)]
                             # the next connection is reset behind byte 100 from the server

All but ``restore`` hold for what there is or comes from then on, until the next call. It works on
TCP alone, so a byte that has passed has arrived: a connection is cut between any two bytes, but
loses none in its middle.
"""

from __future__ import annotations

import enum
import errno
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import trio

from tests.kits.ports import SHORTEST_QUEUE, kept_port

__all__ = ["Connection", "Cutter", "Fate", "How", "cutting"]

_CHUNK = 64 * 1024
_AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER: close() resets


class How(enum.Enum):
    """How a connection is cut."""

    RESET = enum.auto()
    """RST to both ends."""
    CLOSE = enum.auto()
    """FIN to both ends, as close(2) does it: RST where bytes have come that are not read."""
    SILENCE = enum.auto()
    """Nothing passes any more, and neither end is told."""


@dataclass(frozen=True)
class Fate:
    """When a connection is cut: behind so many bytes one way or the other; None: not by that."""

    up: int | None = None
    """Bytes from the client."""
    down: int | None = None
    """Bytes from the server."""
    how: How = How.RESET


_SPARED = Fate()


class Connection:
    """One connection through the path; ``up`` and ``down`` are the bytes that have passed."""

    def __init__(self, near: trio.SocketStream, far: trio.SocketStream, fate: Fate) -> None:
        self.near = near
        self.far = far
        self.fate = fate
        self.up = 0
        self.down = 0
        self.over = trio.Event()  #: both ends are closed
        self._silent = False
        self._scope = trio.CancelScope()

    def cut(self, how: How = How.RESET) -> None:
        """Cut it now."""
        if how is How.SILENCE:
            self._silent = True
            return
        if how is How.RESET:
            for end in (self.near, self.far):
                with suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self._scope.cancel()

    async def pass_on(self, path: Cutter) -> None:
        """Carry bytes both ways until it is over."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._carry, path, True)
                    nursery.start_soon(self._carry, path, False)
        finally:
            for end in (self.near, self.far):
                end.socket.close()
            self.over.set()

    async def _carry(self, path: Cutter, up: bool) -> None:
        source, target = (self.near, self.far) if up else (self.far, self.near)
        most = self.fate.up if up else self.fate.down
        passed = 0
        try:
            while True:
                await path.open.wait()
                if passed == most:
                    self.cut(self.fate.how)
                if self._silent:
                    await trio.sleep_forever()
                data = await source.receive_some(_CHUNK)
                await path.open.wait()
                if self._silent:
                    await trio.sleep_forever()
                if not data:
                    await target.send_eof()
                    return
                rest = data if most is None else data[: most - passed]
                await target.send_all(rest)
                passed += len(rest)
                if up:
                    self.up += len(rest)
                else:
                    self.down += len(rest)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.cut()  # an end was reset: so is the other


class Cutter:
    """The path, see the module; made by :func:`cutting`."""

    def __init__(self, target: tuple[str, int], listener: trio.socket.SocketType) -> None:
        self.port: int = listener.getsockname()[1]
        self.connections: list[Connection] = []  #: all that there were, the oldest first
        self.fates: list[Fate] = []  #: of the next connections, the next one first
        self.open = trio.Event()  #: bytes pass
        self.open.set()
        self._target = target
        self._listener: trio.socket.SocketType | None = listener
        self._plugs: list[socket.socket] = []
        self._accepting = trio.CancelScope()
        self._wanted = trio.Event()  # connections are to be taken
        self._wanted.set()
        self._hanging = False

    def url(self, where: str = "/tunnel") -> str:
        """Return the URL of a place behind this path, without TLS."""
        return f"ws://127.0.0.1:{self.port}{where}"

    @property
    def alive(self) -> list[Connection]:
        """The connections that are not over."""
        return [each for each in self.connections if not each.over.is_set()]

    def cut(self, how: How = How.RESET) -> None:
        """Cut every connection."""
        for connection in self.alive:
            connection.cut(how)

    def reset(self) -> None:
        """Reset every connection."""
        self.cut(How.RESET)

    def lose(self) -> None:
        """Let no byte of the connections that there are pass any more."""
        self.cut(How.SILENCE)

    def hang(self) -> None:
        """Take new connections, and let no byte of them pass."""
        self._hanging = True

    def refuse_new(self) -> None:
        """Refuse new connections."""
        self._stop_accepting()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def refuse(self) -> None:
        """Reset every connection, and refuse new ones."""
        self.refuse_new()
        self.reset()

    def blackhole(self) -> None:
        """Let nothing pass: neither bytes, nor SYNs."""
        if self.open.is_set():
            self.open = trio.Event()
        self._stop_accepting()
        listener = self._listener
        assert listener is not None, "who refuses is no blackhole"
        # A listener whose queue is full drops SYNs, as Linux and macOS have it.
        listener.listen(SHORTEST_QUEUE)
        answered = True
        while answered:
            plug = socket.socket()
            plug.setblocking(False)
            plug.connect_ex(("127.0.0.1", self.port))
            answered = plug.connect_ex(("127.0.0.1", self.port)) == errno.EISCONN
            self._plugs.append(plug)

    def restore(self) -> None:
        """Let all pass again."""
        self._hanging = False
        if self._listener is None:
            self._listener = _listen(self.port)
        else:
            self._listener.listen(128)
        for plug in self._plugs:
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            plug.close()
        self._plugs.clear()
        self._accepting = trio.CancelScope()
        self._wanted.set()
        self.open.set()

    def _stop_accepting(self) -> None:
        self._wanted = trio.Event()
        self._accepting.cancel()

    def _close(self) -> None:
        for plug in self._plugs:
            plug.close()
        if self._listener is not None:
            self._listener.close()

    async def run(self) -> None:
        """Take connections until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    await self._wanted.wait()
                    with self._accepting, suppress(trio.ClosedResourceError):  # by refuse()
                        while True:
                            assert self._listener is not None
                            sock, _ = await self._listener.accept()
                            nursery.start_soon(self._serve, trio.SocketStream(sock))
        finally:
            self._close()

    async def _serve(self, near: trio.SocketStream) -> None:
        try:
            far = await trio.open_tcp_stream(*self._target)
        except BaseException as error:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            near.socket.close()
            if isinstance(error, OSError):
                return  # nothing listens, and the client was told so by the reset
            raise
        fate = self.fates.pop(0) if self.fates else _SPARED
        connection = Connection(near, far, fate)
        if self._hanging:
            connection.cut(How.SILENCE)
        self.connections.append(connection)
        await connection.pass_on(self)


def _listen(port: int) -> trio.socket.SocketType:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    sock.listen(128)
    return trio.socket.from_stdlib_socket(sock)


@asynccontextmanager
async def cutting(port: int, host: str = "127.0.0.1") -> AsyncIterator[Cutter]:
    """A path to a server, which need not be there yet."""
    with kept_port() as own:  # also while it is refused
        path = Cutter((host, port), _listen(own))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(path.run)
            yield path
            nursery.cancel_scope.cancel()
