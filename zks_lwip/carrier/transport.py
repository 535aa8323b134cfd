"""The stream below a WebSocket: it counts, and remembers when the peer was last heard.

Once the WebSocket is open its socket is read and written directly (:mod:`.direct`), where it has
one: what comes goes straight into the buffer of
:class:`~zks_lwip.carrier.masking.FramedConnection`, and what the kernel takes at once leaves. While
messages are given to a callback, no task runs for either (:mod:`zks_lwip.net.watch`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import trio

from ..net.watch import watch
from .direct import DirectSocket, direct
from .framing import BoundedConnection, Buffer
from .masking import FramedConnection
from .run_time import run_time
from .tcp_info import carrier_of, idle

__all__ = ["Wire"]

_RECEIVE_BYTES = 256 * 1024
"""Bytes of one receive that does not go straight into the protocol's buffer."""


_RENEGOTIATION = 30.0
"""Seconds that a handshake may take which the peer begins in the midst of a connection. (It
is rare: some front ends renew their keys so.)"""
_LOOK = 0.02
"""Seconds between two looks whether it is over."""


class Wire:
    """A stream that a WebSocket is spoken over. One task reads, and one thing is sent, at a time.

    :param protocol: is given what comes.
    """

    __slots__ = (
        "_direct",
        "_ended",
        "_now",
        "_protocol",
        "_rest",
        "before_read",
        "bytes_received",
        "bytes_sent",
        "dead",
        "heard",
        "idle",
        "sending",
        "stream",
    )

    def __init__(self, stream: trio.abc.Stream, protocol: BoundedConnection) -> None:
        self.stream = stream
        self._now = run_time()
        #: When anything last came from the peer, by trio's clock.
        self.heard = self._now()
        #: Waited for before anything is read, if set.
        self.before_read: Callable[[], Awaitable[None]] | None = None
        self.bytes_received = 0
        self.bytes_sent = 0
        #: Something is being sent: the kernel does not have all of it yet, or takes nothing now.
        self.sending = False
        #: Seconds for which the kernel had had nothing to send when it was last found to have room.
        self.idle = 0.0
        #: Something was sent in part only, or not at all: nothing may follow it.
        self.dead = False
        self._rest: Sequence[Buffer] = ()  # of what is being sent
        self._protocol = protocol
        self._direct: DirectSocket | None = None
        self._ended = False

    def opened(self) -> None:
        """Note that the opening handshake is over, and the end of TLS's has been sent."""
        self._direct = direct(self.stream)

    @property
    def gathers(self) -> bool:
        """What is sent in two parts leaves as if it were one, and without being copied."""
        return self._direct is not None

    # sending

    def begin(self, parts: Sequence[Buffer]) -> bool:
        """Send what the kernel takes at once; only while not :attr:`sending`.

        :param parts: one or two. Do not change them before they are sent.
        :returns: whether that was all; if not, :meth:`finish` has to follow.
        :raises trio.BrokenResourceError: the connection is gone.
        :raises trio.ClosedResourceError: it was closed here.
        """
        if self.dead:
            raise trio.ClosedResourceError("what was sent last was cut off")
        self._rest = parts
        if self._direct is not None:
            self._write(self._direct)
        self.sending = bool(self._rest)
        return not self.sending

    async def finish(self) -> None:
        """Send the rest. If that fails, or is cancelled, nothing more is sent.

        :raises trio.BrokenResourceError: as :meth:`begin`.
        :raises trio.ClosedResourceError: it was closed here.
        """
        self.dead = True
        try:
            await self._send_rest()
            self.dead = False
        finally:
            self.sending = False

    async def wait_for_room(self) -> None:
        """Wait until the kernel takes something, where that is known; only while not
        :attr:`sending`, which it is meanwhile.

        :raises trio.ClosedResourceError: it was closed here.
        """
        if self._direct is None:
            return
        self.sending = True
        try:
            await self._wait_for_room(self._direct)
        finally:
            self.sending = False

    async def _wait_for_room(self, sock: DirectSocket) -> None:
        await trio.lowlevel.wait_writable(sock.fileno())
        self.idle = idle(carrier_of(self.stream))

    async def _send_rest(self) -> None:
        sock = self._direct
        if sock is not None:
            while self._rest:
                if sock.renegotiating:
                    await self._renegotiate(sock)
                else:
                    await self._wait_for_room(sock)
                    self._write(sock)
            return
        parts, self._rest = self._rest, ()
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        await self.stream.send_all(data)
        self.bytes_sent += len(data)

    async def _renegotiate(self, sock: DirectSocket) -> None:
        """Let the peer finish the handshake that it has begun: who reads takes what it says."""
        with trio.move_on_after(_RENEGOTIATION):
            while sock.renegotiating:
                await trio.sleep(_LOOK)
                self._write(sock)
            return
        raise trio.BrokenResourceError(
            f"TLS: the peer began to renegotiate, and has not finished in {_RENEGOTIATION:g} s"
        )

    def _write(self, sock: DirectSocket) -> None:
        """Give the kernel what it takes of the rest."""
        size = sum(map(len, self._rest))
        try:
            self._rest = sock.write(self._rest)
        except BaseException:
            self.dead = True
            raise
        self.bytes_sent += size - (sum(map(len, self._rest)) if self._rest else 0)

    # receiving

    @property
    def may_rest(self) -> bool:
        """Whether :meth:`receive` has nothing to do but to wait until a descriptor is readable."""
        sock = self._direct
        busy = sock is None or sock.may_have_more or self._protocol.unfinished
        return not busy and self.before_read is None

    def rest(self) -> int | None:
        """Hold no buffer. Return the descriptor whose being readable :meth:`receive` waits for;
        None: it is to be called, since it may have something else to do.

        :raises trio.ClosedResourceError: it was closed here.
        """
        sock, protocol = self._direct, self._protocol
        if sock is None or not self.may_rest:
            return None
        if isinstance(protocol, FramedConnection):
            protocol.rest()
        return sock.fileno()

    async def receive(self) -> bool:
        """Wait for bytes, and give them to the protocol, whose events are to be taken then.

        While the protocol has older bytes, nothing is read, and other tasks run.

        :returns: False: there is nothing more.
        :raises trio.BrokenResourceError: the connection is gone.
        :raises trio.ClosedResourceError: it was closed here.
        """
        if self.before_read is not None:
            await self.before_read()
        protocol = self._protocol
        if protocol.unfinished:
            await trio.lowlevel.checkpoint()
            return True
        sock = self._direct
        if sock is None or not isinstance(protocol, FramedConnection):
            data = await self._receive_bytes()
            if data:
                self._heard(len(data))
                protocol.receive_data(data)
            return bool(data)
        while True:
            if sock.may_have_more:
                await trio.lowlevel.checkpoint()
            else:
                protocol.rest()
                if protocol.on_message is not None:
                    await watch(sock.fileno(), partial(self._pass_on, protocol, sock))
                    return not self._ended
                await trio.lowlevel.wait_readable(sock.fileno())
            size = self._read(protocol, sock)
            if size is not None:
                return size > 0

    def _pass_on(self, framed: FramedConnection, sock: DirectSocket) -> bool:
        """Read, and give out messages; return whether that is not all that is to be done."""
        if self.before_read is not None or framed.on_message is None:
            return True
        size = self._read(framed, sock)
        if not size:
            self._ended = size == 0
            return self._ended
        if not framed.take_messages():
            return True
        framed.rest()
        return sock.may_have_more

    def _read(self, framed: FramedConnection, sock: DirectSocket) -> int | None:
        """Read into the protocol's buffer, as :meth:`DirectSocket.read_into`."""
        buffer = framed.get_buffer()
        size = sock.read_into(buffer)
        if size:
            self._heard(size)
            framed.receive_data(buffer[:size])
        buffer.release()
        return size

    def _heard(self, size: int) -> None:
        self.heard = self._now()
        self.bytes_received += size

    async def _receive_bytes(self) -> bytes | bytearray:
        sock = self._direct
        if sock is None:
            return await self.stream.receive_some(_RECEIVE_BYTES)
        buffer = bytearray(_RECEIVE_BYTES)
        while True:
            if sock.may_have_more:
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(sock.fileno())
            with memoryview(buffer) as view:
                size = sock.read_into(view)
            if size is not None:
                del buffer[size:]
                return buffer
