"""One WebSocket, as client and as server: trio-websocket with the framing of :mod:`.masking`.

trio-websocket has no public way to be given a wsproto object of one's own and to be started, so
this module is also the one that knows which of its methods do that (0.12: the constructor,
``_reader_task``, ``_get_request``, ``_open_handshake``, ``_close_handshake``, ``_send``,
``_stream_lock``, ``_pings``, ``_abort_web_socket``).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Sequence

import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection
from wsproto.events import BytesMessage, Ping
from wsproto.utilities import LocalProtocolError

from ..errors import ProtocolError, TunnelError
from ._http import Headers, HttpRequest
from ._text import one_line
from ._wire import Wire
from .framing import BoundedConnection
from .liveness import ALONE, LONGEST, Liveness, Others, Verdict
from .masking import Buffer
from .tcp_info import carrier_of, progress

__all__ = ["ABNORMAL", "CLOSE_TIMEOUT", "UpgradeRefused", "WebSocketClosed", "WsConnection"]

log = logging.getLogger(__name__)

CLOSE_TIMEOUT = 2.0
"""Seconds that :meth:`WsConnection.aclose` takes against a peer that does nothing."""
_RECEIVE_BYTES = 256 * 1024
ABNORMAL = 1006


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

    Made by :func:`~.upgrade.accept_websocket` and :func:`~.upgrade.upgrade_websocket`; its reader
    runs in ``nursery``. Close it with :meth:`aclose`, whatever happened.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        protocol: BoundedConnection,
        nursery: trio.Nursery,
        *,
        max_message: int,
        queue: int,
        host: str | None = None,
        path: str | None = None,
        subprotocols: Sequence[str] = (),
        headers: Headers = (),
    ) -> None:
        #: What the upgrade request said (server side).
        self.request: HttpRequest | None = None
        self._protocol = protocol
        protocol.on_ping = self._on_ping
        protocol.transient = True
        self._nursery = nursery
        self._wire = Wire(stream, protocol)
        self._ws = WebSocketConnection(
            self._wire,
            protocol,
            host=host,
            path=path,
            client_subprotocols=subprotocols,
            client_extra_headers=list(headers),
            message_queue_size=queue,
            max_message_size=max_message,
            receive_buffer_size=_RECEIVE_BYTES,
        )
        self._ended = trio.Event()
        self._failure: str = ""
        self._rejection: ConnectionRejected | None = None
        self._own_close: tuple[int, str] | None = None
        self._broken = False
        self._pinging = False
        #: Where the acknowledgements of TCP come from a proxy, they say little of the peer.
        self.proxied = False
        self._pong: bytes | None = None  # what the last ping said, until it is answered
        self._ponging = False
        #: Bytes of the messages that have been sent, or are being sent.
        self.message_bytes_sent = 0
        self._proven = 0  # of these, how many the peer has read, since it answered a ping behind

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
        return ABNORMAL if self._ended.is_set() or self._broken else None

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
    def all_was_read(self) -> bool:
        """The peer has read every message: it answered a ping that went behind them."""
        return self._proven == self.message_bytes_sent

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
    def delivered(self) -> bool:
        """The peer's TCP has all that was sent; True where that cannot be known."""
        if self._wire.sending:
            return False
        now = progress(self.carrier, self._wire.bytes_sent)
        return now is None or now.acknowledged >= now.written

    async def upgrade(self) -> None:
        """Client: ask for the WebSocket. Raises UpgradeRefused, or WebSocketClosed if the server
        went away.
        """
        self._nursery.start_soon(self._read)
        await _first_of(self._ws._open_handshake.wait, self._ended.wait)
        if self._ws._open_handshake.is_set():
            return
        rejection = self._rejection
        if rejection is not None:
            raise UpgradeRefused(rejection.status_code, rejection.headers, "no upgrade")
        error = self._protocol.handshake_error or self._failure
        if error:
            raise UpgradeRefused(None, (), error)
        raise self._closed_error()

    async def accept(self, subprotocol: str | None, headers: Headers) -> bool:
        """Server: answer the request that the protocol has been given; False: the peer is gone."""
        self._nursery.start_soon(self._read)

        async def answer() -> None:
            proposal = await self._ws._get_request()
            try:
                await proposal.accept(subprotocol=subprotocol, extra_headers=list(headers))
            except (ConnectionClosed, LocalProtocolError) as error:
                log.debug("an upgrade failed: %s", error)

        await _first_of(answer, self._ended.wait)
        return self._ws._open_handshake.is_set()

    def _closed_error(self) -> WebSocketClosed:
        return WebSocketClosed(self.closed_status or ABNORMAL, self.closed_reason)

    async def send_message(self, message: Buffer) -> None:
        """Send one binary message. Do not change it before this returns.

        Raises WebSocketClosed. Cancelled half-way, it leaves the connection unusable.
        """
        if self.closed_status is not None:
            raise self._closed_error()
        event = BytesMessage(data=message)  # type: ignore[arg-type]
        self.message_bytes_sent += len(message)
        lock = self._ws._stream_lock
        try:
            if lock.locked():
                await self._ws._send(event)
            else:
                # The same, but without the pass through the scheduler that its lock costs.
                data = self._protocol.send(event)
                lock.acquire_nowait()
                try:
                    await self._wire.send_all(data)
                finally:
                    lock.release()
        except (ConnectionClosed, LocalProtocolError):
            raise self._closed_error() from None
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await self._ws._abort_web_socket()
            raise self._closed_error() from None
        except trio.Cancelled:
            self._broken = True
            raise

    async def receive_message(self) -> bytes:
        """The next message; a peer that sends faster than this is called is held up.

        Raises WebSocketClosed, and ProtocolError for a text message.
        """
        try:
            message = await self._ws.get_message()
        except ConnectionClosed:
            raise self._closed_error() from None
        if isinstance(message, str):
            raise ProtocolError("a text message, where only binary ones are allowed")
        return message

    async def deliver(self, on_message: Callable[[memoryview], None]) -> None:
        """Give every message to ``on_message`` as soon as it is there, until the connection ends.

        For an owner that can always take a message: it is called synchronously from the task that
        reads, without a queue and mostly without a copy, and must not raise. The memoryview stays
        valid as long as it, or a slice of it, is held. Raises ProtocolError for a text message.
        """
        self._protocol.on_message = on_message
        try:
            while True:  # those that came before, and all of them without our framing
                on_message(memoryview(await self.receive_message()))
        except WebSocketClosed:
            return
        finally:
            self._protocol.on_message = None

    def hold(self, until: Callable[[], Awaitable[None]] | None) -> None:
        """Read nothing more before ``until()`` has returned; None: read again.

        What has been read already is still given out. It is called before each read, and must not
        raise.
        """
        self._wire.before_read = until

    async def ping(self, on_sent: Callable[[], None] | None = None) -> None:
        """Send a ping and wait for its pong, however long that takes. Raises WebSocketClosed.

        :param on_sent: called when the kernel has the ping.
        """
        if self._ended.is_set():
            raise self._closed_error()
        answered = trio.Event()
        payload = os.urandom(8)
        try:
            # What trio-websocket's ping() does, which does not tell when it has been sent.
            self._ws._pings[payload] = answered
            await self._ws._send(Ping(payload=payload))
        except (ConnectionClosed, LocalProtocolError, trio.ClosedResourceError):
            self._ws._pings.pop(payload, None)
            raise self._closed_error() from None
        if on_sent is not None:
            on_sent()
        await answered.wait()
        if self._ws._pings.pop(payload, None) is not None:  # the reader has ended, no pong came
            raise self._closed_error()

    async def keep_alive(
        self,
        quiet: float = 15.0,
        patience: float = 10.0,
        *,
        longest: float = LONGEST,
        others: Callable[[], Others] | None = None,
    ) -> None:
        """Ping whenever nothing was heard for ``quiet`` seconds; return when the peer is dead.

        It is dead if for ``patience`` seconds more nothing is heard, and its TCP acknowledges
        nothing of what stands before the ping; after ``longest`` in any case (PROTOCOL.md §8).

        :param others: returns what other connections to the peer know.
        """
        liveness = Liveness(quiet, patience, longest)
        while True:
            now = progress(self.carrier, self._wire.bytes_sent)
            verdict = liveness.step(
                trio.current_time(),
                self.last_heard,
                None if now is None else now.acknowledged,
                others() if others is not None and liveness.waiting else ALONE,
            )
            if verdict is Verdict.DEAD:
                return
            if verdict is Verdict.PING and not self._pinging:
                self._pinging = True
                liveness.pinged(None)  # until the kernel has it
                self._nursery.start_soon(self._ping_once, liveness)
            await trio.sleep_until(liveness.due)

    async def _ping_once(self, liveness: Liveness) -> None:
        sent = self.message_bytes_sent

        def on_sent() -> None:
            now = None if self.proxied else progress(self.carrier, self._wire.bytes_sent)
            liveness.pinged(None if now is None else now.written)

        try:
            await self.ping(on_sent)
            self._proven = sent
        except WebSocketClosed as error:
            log.debug("ping: %s", error)
        finally:
            self._pinging = False

    def _on_ping(self, payload: bytes) -> None:
        """Answer the last ping, beside the reader (RFC 6455 §5.5.3 asks for no more).

        A reader that waited until its pong is sent would read nothing meanwhile: two ends that
        send each other much, and a ping, would wait for each other.
        """
        self._pong = payload
        if not self._ponging:
            self._ponging = True
            self._nursery.start_soon(self._send_pongs)

    async def _send_pongs(self) -> None:
        try:
            while self._pong is not None:
                payload, self._pong = self._pong, None
                await self._ws.pong(payload)
        except (ConnectionClosed, LocalProtocolError) as error:
            log.debug("pong: %s", error)
        finally:
            self._ponging = False

    async def aclose(self, status: int = 1000, reason: str = "") -> None:
        """Close with ``status`` and ``reason`` (cut to 123 bytes); harmless if it is closed.

        Takes at most two seconds, and then closes the stream without the peer's consent. Works,
        in the same bounds, in a cancelled scope too.
        """
        if self._own_close is None and self.closed_status is None:
            self._own_close = (status, reason)
        self._protocol.on_message = None
        if not self._broken:
            with trio.CancelScope(deadline=trio.current_time() + CLOSE_TIMEOUT, shield=True):
                try:
                    await self._ws.aclose(status, reason or None)
                except LocalProtocolError as error:
                    log.debug("close: %s", error)
        await trio.aclose_forcefully(self._wire)

    async def abort(self) -> None:
        """Close the stream at once, without a Close frame."""
        self._broken = True
        await self.aclose(ABNORMAL)

    def drop(self) -> None:
        """Close the socket below at once; whatever waits for it, :meth:`aclose` too, then ends."""
        self._broken = True
        if self.carrier is not None:
            self.carrier.close()

    async def _read(self) -> None:
        """trio-websocket's reader, kept from taking its nursery down with it."""
        try:
            await self._ws._reader_task()
        except ConnectionRejected as error:
            self._rejection = error
        except Exception as error:  # hostile input may find a bug there; it costs this connection
            self._failure = f"{type(error).__name__}: {error}"
            log.debug("the reader of a WebSocket failed", exc_info=True)
        finally:
            self._ended.set()
            for answered in self._ws._pings.values():
                answered.set()
            # Nothing will be read any more: aclose() need not wait for the peer's Close.
            self._ws._close_handshake.set()


async def _first_of(*waits: Callable[[], object]) -> None:
    """Run async functions until the first has returned."""

    async def run(wait: Callable[[], object]) -> None:
        await wait()  # type: ignore[misc]
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for wait in waits:
            nursery.start_soon(run, wait)
