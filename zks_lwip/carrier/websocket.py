"""One WebSocket, as client and as server: trio-websocket over wsproto within bounds
(:mod:`.framing`, :mod:`.masking`) and a stream (:mod:`.transport`).

There is no task of its own: trio-websocket's reader runs in whichever task takes messages, or waits
for the end of the closing handshake.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import trio
from trio_websocket import ConnectionClosed, ConnectionRejected
from wsproto.connection import ConnectionState
from wsproto.events import CloseConnection, Event, Ping, Pong
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from .._util import EMPTY, ConflictDetector, one_line
from ..errors import ProtocolError, TunnelError
from ..net.rest import Rest
from ..net.sockets import end_in_reset
from .dependencies import OwnedConnection
from .framing import BoundedConnection, Buffer, OnChange
from .http import Headers, HttpRequest
from .inbox import Inbox
from .masking import FramedConnection
from .owned_stream import OwnedStream
from .tcp_info import carrier_of, progress
from .transport import Wire

__all__ = ["ABNORMAL", "CLOSE_TIMEOUT", "UpgradeRefused", "WebSocketClosed", "WsConnection"]

_log = logging.getLogger(__name__)

CLOSE_TIMEOUT = 2.0
"""Seconds that :meth:`WsConnection.aclose` takes against a peer that does nothing."""
ABNORMAL = 1006

_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


class WebSocketClosed(TunnelError):
    """The WebSocket has ended; ``status`` 1006: without a Close frame (RFC 6455 §7.1.5)."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"the WebSocket closed with {status}{f' ({reason})' if reason else ''}")
        self.status = status
        self.reason = reason


class UpgradeRefused(TunnelError):
    """The server did not upgrade. ``status`` is HTTP's, or None if its answer was no HTTP."""

    def __init__(self, status: int | None, headers: Headers, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = headers


class WsConnection:
    """A WebSocket that carries binary messages, of a client or of a server.

    Made by :func:`~.upgrade.accept_websocket` and :func:`~.upgrade.upgrade_websocket`. It reads
    while one of :meth:`deliver`, :meth:`receive_message`, :meth:`read_ahead` and :meth:`aclose`
    runs. Close it with :meth:`aclose`, whatever happened.

    :param nursery: see :meth:`answer_pings`.
    :param host: the Host header, with the port (client).
    :param path: of the request (client).
    :param subprotocols: that are offered (client).
    :param headers: further ones of the request (client).
    :param proxied: the acknowledgements of TCP come from a proxy, and say little of the peer.
    """

    __slots__ = (
        "__weakref__",
        "_broken",
        "_end",
        "_ended",
        "_failure",
        "_inbox",
        "_nursery",
        "_own_close",
        "_pong",
        "_ponging",
        "_protocol",
        "_reading",
        "_rest",
        "_stream",
        "_taken",
        "_turn",
        "_wire",
        "_ws",
        "message_bytes_sent",
        "proxied",
        "request",
    )

    def __init__(
        self,
        stream: trio.abc.Stream,
        protocol: BoundedConnection,
        nursery: trio.Nursery | None,
        *,
        host: str | None = None,
        path: str | None = None,
        subprotocols: Sequence[str] = (),
        headers: Headers = (),
        proxied: bool = False,
    ) -> None:
        #: What the upgrade request said (server side).
        self.request: HttpRequest | None = None
        self.proxied = proxied
        #: Bytes of the messages that have been sent, or are being sent.
        self.message_bytes_sent = 0
        self._protocol = protocol
        protocol.on_ping = self._on_ping
        protocol.in_rounds = True
        self._nursery = nursery
        self._wire = Wire(stream, protocol)
        self._inbox = Inbox()
        self._stream = OwnedStream(self._wire, self._inbox, self._send_frame)
        self._ws = OwnedConnection(
            self._stream,
            protocol,
            self._inbox,
            max_message=protocol.max_message,
            close_timeout=CLOSE_TIMEOUT,
            host=host,
            path=path,
            subprotocols=subprotocols,
            headers=headers,
        )
        self._ended = False  # nothing more is read
        self._end: trio.Event | None = None  # waited for by who closes while another task reads
        self._rest: Rest | None = None  # that goes on
        self._reading = ConflictDetector("another task reads from this WebSocket")
        self._failure = ""
        self._own_close: tuple[int, str] | None = None  # what our owner's says
        self._broken = False
        self._turn: trio.Event | None = None  # waited for while something else is being sent
        self._pong: bytes | None = None  # what the last ping said, until it is answered
        self._ponging = False
        self._taken = 0  # bytes of the frames whose messages were taken by receive_message

    @property
    def framed_in_c(self) -> bool:
        """Whether its messages are framed in C, and not by wsproto."""
        return isinstance(self._protocol, FramedConnection)

    @property
    def subprotocol(self) -> str | None:
        """What the server selected."""
        return self._ws.subprotocol

    @property
    def closed_status(self) -> int | None:
        """The Close status, ours if we closed first; 1006 without one; None while it is open."""
        if self._own_close is not None:
            return self._own_close[0]
        closed = self._ws.closed
        if closed is not None:
            return closed.code
        return ABNORMAL if self._broken or self._ended else None

    @property
    def closed_reason(self) -> str:
        """The reason that came or went with the Close status, in one line; empty if none."""
        if self._own_close is not None:
            return self._own_close[1]
        closed = self._ws.closed
        return one_line((closed.reason if closed is not None else None) or self._failure)

    @property
    def last_heard(self) -> float:
        """When anything last came from the peer (``trio.current_time``)."""
        return self._wire.heard

    @property
    def bytes_sent(self) -> int:
        """Bytes on the wire, framing included, TLS not."""
        return self._wire.bytes_sent

    @property
    def bytes_received(self) -> int:
        """Bytes on the wire, framing included, TLS not."""
        return self._wire.bytes_received

    @property
    def stream(self) -> trio.abc.Stream:
        """The stream below: a ``trio.SocketStream``, or a ``trio.SSLStream`` over one."""
        return self._wire.stream

    @property
    def carrier(self) -> trio.socket.SocketType | None:
        """The TCP socket below, if there is one."""
        return carrier_of(self._wire.stream)

    @property
    def sending(self) -> bool:
        """Something is being sent: the kernel does not have all of it yet."""
        return self._wire.sending

    @property
    def idle(self) -> float:
        """Seconds for which the kernel had had nothing to send when it was last waited for; 0 where
        that is not known."""
        return self._wire.idle

    @property
    def delivered(self) -> bool:
        """The peer's TCP has all that was sent; True where that cannot be known."""
        if self._wire.sending or self._wire.dead:
            return False
        now = progress(self.carrier, self._wire.bytes_sent)
        return now is None or now.acknowledged >= now.written

    @property
    def outstanding(self) -> int:
        """Bytes that were written and the peer's TCP has not acknowledged; 0: none, or unknown."""
        now = progress(self.carrier, self._wire.bytes_sent)
        return 0 if now is None else now.written - now.acknowledged

    def _closed_error(self) -> WebSocketClosed:
        return WebSocketClosed(self.closed_status or ABNORMAL, self.closed_reason)

    # opening

    async def upgrade(self) -> None:
        """Client: ask for the WebSocket.

        :raises UpgradeRefused: the server did not upgrade.
        :raises WebSocketClosed: the server went away.
        """
        await self._read(lambda: self._ws.is_open)
        if self._ws.is_open:
            self._opened()
            return
        rejection = self._protocol.rejection
        if rejection is not None:
            raise UpgradeRefused(rejection.status_code, rejection.headers, "no upgrade")
        error = self._protocol.handshake_error or self._failure
        if error:
            raise UpgradeRefused(None, (), error)
        raise self._closed_error()

    async def accept(self, subprotocol: str | None, headers: Headers) -> bool:
        """Server: answer the request that the protocol has been given.

        :returns: False: the peer is gone.
        """
        await self._read(lambda: True)  # the request alone
        if self._ended:
            return False
        proposal = await self._ws.request()
        try:
            await proposal.accept(subprotocol=subprotocol, extra_headers=[*headers])
        except (ConnectionClosed, LocalProtocolError) as error:
            _log.debug("an upgrade failed: %s", error)
            return False
        self._opened()
        return True

    def _opened(self) -> None:
        self._ws.opened()
        self._wire.opened()

    # sending

    async def _send_event(self, event: Event) -> None:
        """Send an event in its turn.

        :raises trio.BrokenResourceError: the connection is gone.
        :raises LocalProtocolError: it cannot be sent any more.
        """
        try:
            await self._ws.send_event(event)
        except ConnectionClosed as error:
            raise trio.BrokenResourceError(str(error)) from None

    async def _send_frame(self, data: Buffer) -> None:
        await self.wait_for_turn()
        if not self._wire.begin((data,)):
            await self._finish()

    async def wait_for_turn(self) -> None:
        """Wait until nothing is being sent. What comes next has to begin at once."""
        while self._wire.sending:
            if self._turn is None:
                self._turn = trio.Event()
            await self._turn.wait()

    async def _finish(self) -> None:
        try:
            await self._wire.finish()
        except trio.Cancelled:
            self._broken = True
            raise
        finally:
            turn = self._end_turn()
        if turn:  # or who has always something to send would never let others send
            await trio.lowlevel.cancel_shielded_checkpoint()

    def _end_turn(self) -> bool:
        """Let others send; return whether any wait for it."""
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.set()
        return turn is not None

    async def wait_for_room(self) -> None:
        """Wait until the kernel takes more, where that is known; nothing else is sent meanwhile.

        A message that is made then says what is most urgent then, and leaves without waiting.

        :raises WebSocketClosed: it is closed.
        """
        await self.wait_for_turn()
        try:
            await self._wire.wait_for_room()
        except _GONE:
            self._broken = True
            raise self._closed_error() from None
        finally:
            waited = self._end_turn()
        if waited:
            await trio.lowlevel.cancel_shielded_checkpoint()

    def begin_message(self, message: Buffer, on_change: OnChange | None = None) -> bool:
        """Send as much of one binary message as leaves at once; only while not :attr:`sending`.

        :param message: do not change it before all of it is sent.
        :param on_change: see :meth:`BoundedConnection.frame_message`.
        :returns: whether that was all; if not, :meth:`finish_message` has to follow.
        :raises WebSocketClosed: it is closed.
        """
        if self._own_close or self._broken or self._ended or self._ws.closed is not None:
            raise self._closed_error()  # as closed_status says
        self.message_bytes_sent += len(message)
        try:
            wire = self._wire
            parts = self._protocol.frame_message(message, gather=wire.gathers, on_change=on_change)
            return wire.begin(parts)
        except (*_GONE, LocalProtocolError):
            self._broken = True
            raise self._closed_error() from None

    async def finish_message(self) -> None:
        """Send the rest. Cancelled half-way, it leaves the connection unusable.

        :raises WebSocketClosed: it is closed.
        """
        try:
            await self._finish()
        except _GONE:
            self._broken = True
            raise self._closed_error() from None

    async def send_message(self, message: Buffer) -> None:
        """Send one binary message, by these two; in its turn.

        :raises WebSocketClosed: it is closed.
        """
        await self.wait_for_turn()
        if not self.begin_message(message):
            await self.finish_message()

    # receiving

    async def _read(self, enough: Callable[[], bool]) -> None:
        """Act on what comes until ``enough()``, or the end. It can be cancelled, and called again.

        A bug costs this connection, and not the task: hostile input may find one.
        """
        with self._reading:
            if self._ended:
                return
            try:
                if await self._stream.run(self._ws.read, enough):
                    return
            except _GONE as error:
                _log.debug("a WebSocket broke: %s", error)
            except ConnectionRejected:
                pass  # the protocol has it
            except RemoteProtocolError as error:
                self._failure = str(error)
            except Exception as error:
                self._failure = f"{type(error).__name__}: {error}"
                _log.debug("the reader of a WebSocket failed", exc_info=True)
            self._end_reading()

    def _end_reading(self) -> None:
        """Nothing will be read any more: no pong comes, nor the peer's Close."""
        self._ended = True
        if self._end is not None:
            self._end.set()
        self._ws.reading_ended()
        self._protocol.end()
        # Or they would hold each other until Python looks for cycles
        self._protocol.on_ping = None
        self._stream.detach()

    async def receive_message(self) -> bytes:
        """Return the next message; a peer that sends faster than this is called is held up.

        :raises WebSocketClosed: it is closed.
        :raises ProtocolError: for a text message.
        """
        inbox = self._inbox
        if not inbox.messages:
            await self._read(self._has_message)
        if not inbox.messages:
            if inbox.text:
                inbox.text = False
                raise ProtocolError("a text message, where only binary ones are allowed")
            raise self._closed_error()
        message = inbox.messages.popleft()
        if not inbox.messages:
            inbox.messages = EMPTY
        self._taken += len(message) + _frame_header(len(message))
        return message

    def _has_message(self) -> bool:
        return self._inbox.text or bool(self._inbox.messages)

    async def read_ahead(self) -> None:
        """Read until a message waits for :meth:`receive_message`, or the end.

        For an owner that takes none for a while: pings are answered, and Close is seen.
        """
        if not self._inbox.messages:
            await self._read(self._has_message)

    @property
    def unread(self) -> int:
        """Bytes that came and that :meth:`receive_message` has not returned yet, at most.

        The handshake and control frames count, too: they are few, or the peer is hostile.
        """
        return self._wire.bytes_received - self._taken

    async def deliver(self, on_message: Callable[[memoryview], None]) -> None:
        """Give every message to ``on_message`` as soon as it is there, until the connection ends.

        For an owner that can always take a message: it is called synchronously, without a queue and
        mostly without a copy, and must not raise. The memoryview stays valid as long as it, or a
        slice of it, is held.

        :raises ProtocolError: for a text message.
        """
        while self._inbox.messages:  # those that came before
            on_message(memoryview(await self.receive_message()))
        self._protocol.on_message = on_message
        try:
            await self._read(self._has_message)
        finally:
            self._protocol.on_message = None
        if self._inbox.text:
            await self.receive_message()

    @property
    def may_rest(self) -> bool:
        """Whether there is nothing to read, so that :meth:`rest` would wait."""
        return self._wire.may_rest and not self._ended and not self._has_message()

    async def rest(self, deadline: float = math.inf) -> None:
        """Wait until there may be something to read, without what reads it, which takes kilobytes.

        For an owner whose peer has been silent for a while. It can be cancelled.

        :param deadline: until then at most (``trio.current_time``), or until :meth:`end_rest`.
        """
        if self._ended or self._has_message():
            return
        with self._reading:
            try:
                descriptor = self._wire.rest()
                if descriptor is not None:
                    self._rest = Rest(descriptor, deadline)
                    await self._rest.wait()
            except _GONE as error:  # the reader finds out, too
                _log.debug("a WebSocket broke while it rested: %s", error)
            finally:
                self._rest = None

    def end_rest(self) -> None:
        """Have :meth:`rest` return, if it waits."""
        if self._rest is not None:
            self._rest.end()

    def hold(self, until: Callable[[], Awaitable[None]] | None) -> None:
        """Read nothing more before ``until()`` has returned; None: read again.

        What has been read already is still given out. It is called before each read, and must not
        raise.
        """
        self._wire.before_read = until

    # pings

    async def ping(self, on_sent: Callable[[], None] | None = None) -> None:
        """Send a ping and wait for its pong, however long that takes. Another task has to read.

        :param on_sent: called when the kernel has the ping.
        :raises WebSocketClosed: it is closed.
        """
        if self._ended:
            raise self._closed_error()
        payload = os.urandom(8)
        # What trio-websocket's ping() does, which does not tell when it has been sent.
        answered = self._ws.expect_pong(payload)
        try:
            await self._send_event(Ping(payload=payload))
            if on_sent is not None:
                on_sent()
            await answered.wait()
        except (*_GONE, LocalProtocolError):
            raise self._closed_error() from None
        finally:
            unanswered = self._ws.forget_pong(payload)
        if unanswered:  # the reader has ended
            raise self._closed_error()

    def answer_pings(self, nursery: trio.Nursery | None) -> None:
        """Have pongs sent in ``nursery``; None: the last ping waits until there is one."""
        self._nursery = nursery
        if nursery is not None and self._pong is not None and not self._ponging:
            self._ponging = True
            nursery.start_soon(self._send_pongs)

    def _on_ping(self, payload: bytes) -> None:
        """Answer the last ping, beside the reader (RFC 6455 §5.5.3 asks for no more).

        A reader that waited until its pong is sent would read nothing meanwhile: two ends that
        send each other much, and a ping, would wait for each other.
        """
        self._pong = payload
        self.answer_pings(self._nursery)

    async def _send_pongs(self) -> None:
        try:
            while self._pong is not None:
                payload, self._pong = self._pong, None
                await self._send_event(Pong(payload=payload))
        except (*_GONE, LocalProtocolError) as error:
            _log.debug("pong: %s", error)
        finally:
            self._ponging = False

    # closing

    async def aclose(self, status: int = 1000, reason: str = "") -> None:
        """Close with ``status`` and ``reason`` (cut to 123 bytes); harmless if it is closed.

        Takes at most two seconds, and then closes the stream without the peer's consent. Works,
        in the same bounds, in a cancelled scope too.
        """
        if self._own_close is None and self.closed_status is None:
            self._own_close = (status, reason)
        self._protocol.on_message = None
        if not self._broken and not self._ended:
            with trio.CancelScope(deadline=trio.current_time() + CLOSE_TIMEOUT, shield=True):
                try:
                    await self._shake_hands(status, reason)
                except (*_GONE, LocalProtocolError) as error:
                    _log.debug("close: %s", error)
        self.end_rest()
        await trio.aclose_forcefully(self._wire.stream)
        self._end_reading()

    async def _shake_hands(self, status: int, reason: str) -> None:
        """Send Close, and wait for the peer's (RFC 6455 §7.1.2), whichever task reads that."""
        if self._protocol.state is ConnectionState.OPEN:
            await self._send_event(CloseConnection(status, reason or None))
        try:
            await self._read(self._drop_messages)
        except trio.BusyResourceError:
            if self._end is None:
                self._end = trio.Event()
            await self._end.wait()

    def _drop_messages(self) -> bool:
        self._inbox.messages = EMPTY
        return False

    async def abort(self) -> None:
        """Close the stream at once, without a Close frame.

        What has not left is discarded. The kernel would try to deliver it for minutes, and a HELLO
        that came so late would take the session from the WebSocket that has it by then.
        """
        self._broken = True
        if self.carrier is not None:
            with suppress(OSError):  # closed, or no TCP
                end_in_reset(self.carrier)
        await self.aclose(ABNORMAL)

    def drop(self) -> None:
        """Close the socket below at once; whatever waits for it, :meth:`aclose` too, then ends."""
        self._broken = True
        self.end_rest()
        if self.carrier is not None:
            self.carrier.close()


def _frame_header(size: int) -> int:
    """Return the bytes before a masked payload (RFC 6455 §5.2)."""
    return 6 if size < 126 else 8 if size < 65536 else 14
