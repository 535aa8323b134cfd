"""The private names of trio-websocket, and of trio for TLS, in one place (those of trio's loop:
:mod:`zks_lwip.net.watch`).

trio-websocket has no public way to be given a wsproto object of one's own, or to be read in the
task of who wants to read; trio has none to read or write more than one TLS record without a pass
through the scheduler for each. All that is needed of trio-websocket is checked at import: another
version than those that ``pyproject.toml`` names fails there, with its number, and not in the middle
of a session.
"""

from __future__ import annotations

import inspect
import ssl
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

import trio
from trio_websocket import WebSocketConnection, WebSocketRequest
from wsproto import WSConnection
from wsproto.events import BytesMessage, CloseConnection, Event, TextMessage

from .inbox import Inbox

__all__ = ["OwnedConnection", "TlsState", "check_class", "tls_state"]

_PARAMETERS = (
    "stream",
    "ws_connection",
    "host",
    "path",
    "client_subprotocols",
    "client_extra_headers",
    "message_queue_size",
    "max_message_size",
)
_METHODS = (
    "_get_request",
    "_handle_close_connection_event",
    "_handle_message_event",
    "_reader_task",
    "_send",
)
_ATTRIBUTES = (
    "_close_handshake",
    "_for_testing_peer_closed_connection",
    "_initial_request",
    "_max_message_size",
    "_open_handshake",
    "_pings",
    "_recv_channel",
    "_send_channel",
    "_stream_lock",
)


def check_class(checked: type, installed: str) -> None:
    """Check that a class has what is used of ``WebSocketConnection``.

    :param installed: the version of trio-websocket, for the message.
    :raises ImportError: it lacks something.
    """
    parameters = inspect.signature(checked).parameters
    missing = [f"the parameter {name}" for name in _PARAMETERS if name not in parameters]
    names = vars(checked)
    missing += [name for name in _METHODS if not inspect.iscoroutinefunction(names.get(name))]
    code = getattr(names.get("__init__"), "__code__", None)
    assigned = () if code is None else code.co_names
    missing += [name for name in _ATTRIBUTES if name not in assigned]
    if missing:
        raise ImportError(
            f"trio-websocket {installed} is not a version that zks-lwip works with (it lacks "
            f"{', '.join(missing)}): install trio-websocket>=0.12.2,<0.13."
        )


check_class(WebSocketConnection, version("trio-websocket"))


_SET: Final = trio.Event()
"""What has happened, on every connection that shares it."""
_SET.set()
_NO_PINGS: Final[OrderedDict[bytes, trio.Event]] = OrderedDict()


class _Turns:
    """A ``trio.StrictFIFOLock`` that takes memory only while it is held."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock: trio.StrictFIFOLock | None = None

    async def __aenter__(self) -> None:
        if self._lock is None:
            self._lock = trio.StrictFIFOLock()
        await self._lock.acquire()

    async def __aexit__(self, *_: object) -> None:
        assert self._lock is not None
        self._lock.release()
        if not self._lock.locked():
            self._lock = None


class OwnedConnection(WebSocketConnection):
    """A ``WebSocketConnection`` that its owner makes, and reads in whichever task it wants to.

    Most connections are idle: what is seldom needed is made when it is, and what nothing here
    waits for (the end of the closing handshake) is one object for all.

    :param max_message: bytes.
    :param close_timeout: seconds that telling the peer of the end may take.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        protocol: WSConnection,
        inbox: Inbox,
        *,
        max_message: int,
        close_timeout: float,
        host: str | None = None,
        path: str | None = None,
        subprotocols: Sequence[str] = (),
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(
            stream,
            protocol,
            host=host,
            path=path,
            client_subprotocols=subprotocols,
            client_extra_headers=[*headers],
            message_queue_size=0,
            max_message_size=max_message,
        )
        self._inbox = inbox
        self._close_timeout = close_timeout
        self._send_channel = self._recv_channel = inbox  # type: ignore[assignment]
        self._stream_lock = _Turns()  # type: ignore[assignment]
        self._pings = _NO_PINGS
        self._close_handshake = self._for_testing_peer_closed_connection = _SET

    @property
    def is_open(self) -> bool:
        """Whether the opening handshake is over; stays True afterwards."""
        return bool(self._open_handshake.is_set())

    def opened(self) -> None:
        """Note that the opening handshake is over."""
        self._open_handshake = _SET

    async def read(self) -> None:
        """Run the reader: a client's sends the request first. Returns when the peer has closed.

        It can be cancelled where it reads from the stream, and nowhere else; it ends by what that
        raises, and can be run again.
        """
        try:
            await self._reader_task()
        finally:
            self._initial_request = None

    def reading_ended(self) -> None:
        """Nothing will be read any more: no pong comes."""
        for answered in self._pings.values():
            answered.set()

    async def request(self) -> WebSocketRequest:
        """Server: return the opening request, which has been read."""
        return await self._get_request()

    async def send_event(self, event: Event) -> None:
        """Send an event in its turn.

        :raises ConnectionClosed: the stream broke, or was closed.
        :raises LocalProtocolError: it cannot be sent any more.
        """
        await self._send(event)

    def expect_pong(self, payload: bytes) -> trio.Event:
        """Return what is set when a pong with this payload comes, or the reader ends."""
        if self._pings is _NO_PINGS:
            self._pings = OrderedDict()
        answered = self._pings[payload] = trio.Event()
        return answered

    def forget_pong(self, payload: bytes) -> bool:
        """Expect a pong no longer; whether it had not come yet."""
        expected = self._pings.pop(payload, None) is not None
        if not self._pings:
            self._pings = _NO_PINGS
        return expected

    async def _handle_message_event(self, event: BytesMessage | TextMessage) -> None:
        """Give a message, which is whole, to the inbox; close with 1009 over one that is too big.

        The reader keeps the last event while it waits, for an hour perhaps: it loses its data.
        """
        if len(event.data) <= self._max_message_size:
            self._inbox.put(event.data if isinstance(event.data, str) else bytes(event.data))
            object.__setattr__(event, "data", b"")
            return
        with trio.move_on_after(self._close_timeout, shield=True):
            await super()._handle_message_event(event)
        await self._inbox.aclose()

    async def _handle_close_connection_event(self, event: CloseConnection) -> None:
        with trio.move_on_after(self._close_timeout, shield=True):
            await super()._handle_close_connection_event(event)
        await self._inbox.aclose()


@dataclass(frozen=True, slots=True)
class TlsState:
    """The TLS of a stream, and the memory between it and the socket."""

    tls: ssl.SSLObject
    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO


def tls_state(stream: trio.SSLStream[trio.SocketStream]) -> TlsState | None:
    """Return the TLS of a stream, which is not to be used itself from then on, but to be closed.

    The stream must have sent something since its handshake: it keeps the end of that until then.

    :returns: None where this version of trio keeps it elsewhere.
    """
    tls = getattr(stream, "_ssl_object", None)
    incoming, outgoing = getattr(stream, "_incoming", None), getattr(stream, "_outgoing", None)
    if isinstance(tls, ssl.SSLObject) and isinstance(incoming, ssl.MemoryBIO):
        if isinstance(outgoing, ssl.MemoryBIO):
            return TlsState(tls, incoming, outgoing)
    return None
