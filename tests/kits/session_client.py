"""The product's session of a client over WebSockets of another make, one after the other.

It has no pool, no patience and no will of its own: a test says when a WebSocket is opened and lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress

import trio
from trio_websocket import ConnectionClosed, wrap_client_stream

from tests.kits.session import Bytes
from zks_lwip.protocol import (
    DataReceived,
    DnsAnswerReceived,
    EofReceived,
    Event,
    GoAwayReceived,
    Role,
    Session,
    SessionReady,
    SessionResumed,
    Settings,
    StreamConnected,
    StreamReset,
)


class SessionClient:
    """A session, and what became of its streams.

    :param token: of the worker's.
    :param consume: what comes is consumed at once; else by :meth:`consume`.
    """

    def __init__(
        self, token: str, settings: Settings | None = None, *, consume: bool = True
    ) -> None:
        self.session = Session(
            Role.CLIENT, settings or Settings(resume=60), clock=trio.current_time
        )
        self.received: dict[int, bytearray] = {}
        self.connected: set[int] = set()
        self.ended: set[int] = set()
        self.resets: dict[int, StreamReset] = {}
        self.answers: dict[int, bytes] = {}
        self.ready: list[SessionReady] = []
        self.resumed = 0
        self.going_away = False
        self.status: int | None = None
        """Of the Close that ended the last WebSocket; None: it was lost."""
        self._token = token
        self._consume = consume
        self._held: dict[int, int] = {}
        self._output = trio.Event()
        self._changed = trio.Event()

    def open(self, host: str, port: int, data: bytes = b"", *, end: bool = True) -> int:
        """Open a stream that sends ``data``, and then perhaps its end."""
        stream = self.session.connect(host, port, Bytes(data, end=end))
        self.received[stream] = bytearray()
        self.session.mark_ready(stream)
        return stream

    def over(self, stream: int) -> bool:
        """Whether a stream has ended, or was reset."""
        return stream in self.ended or stream in self.resets

    def consume(self, stream: int) -> None:
        """Consume what has come of a stream."""
        self.session.consumed(stream, self._held.pop(stream, 0))

    async def until(self, condition: Callable[[], object], seconds: float = 60) -> None:
        """Wait until a condition has become true."""
        with trio.fail_after(seconds):
            while not condition():
                self._changed = trio.Event()
                with trio.move_on_after(0.1):
                    await self._changed.wait()

    async def run(
        self,
        address: tuple[str, int],
        *,
        task_status: trio.TaskStatus[trio.SocketStream] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Carry the session over one WebSocket, until that is lost or closed, or cancelled."""
        headers = [(b"authorization", b"Bearer " + self._token.encode())]
        if self.session.id is not None:
            headers.append((b"zks-session", self.session.id.encode()))
        stream = await trio.open_tcp_stream(*address)
        try:
            async with trio.open_nursery() as nursery:
                try:
                    websocket = await wrap_client_stream(
                        nursery,
                        stream,
                        f"{address[0]}:{address[1]}",
                        "/tunnel",
                        subprotocols=["zks-tunnel.v2"],
                        extra_headers=headers,
                        message_queue_size=64,
                        max_message_size=1 << 20,
                        receive_buffer_size=1 << 18,
                    )
                    self.status = None
                    self.session.attach(self._wake)
                    task_status.started(stream)
                    nursery.start_soon(self._send, websocket)
                    while True:
                        message = await websocket.get_message()
                        for event in self.session.receive(message):
                            self._act(event)
                        self._changed.set()
                        self._output.set()
                except ConnectionClosed as closed:
                    code = closed.reason.code if closed.reason is not None else 1006
                    self.status = None if code == 1006 else code
                nursery.cancel_scope.cancel()
        finally:
            if self.session.attached:
                self.session.detach()
            await trio.aclose_forcefully(stream)

    def _wake(self) -> None:
        self._output.set()

    async def _send(self, websocket: object) -> None:
        with suppress(ConnectionClosed):
            while True:
                message = self.session.next_message()
                if message is not None:
                    await websocket.send_message(bytes(message))  # type: ignore[attr-defined]
                    continue
                self._output = trio.Event()
                deadline = self.session.deadline
                with trio.CancelScope(deadline=math.inf if deadline is None else deadline):
                    await self._output.wait()

    def _act(self, event: Event) -> None:
        match event:
            case DataReceived(stream, payload):
                self.received[stream] += payload
                if self._consume:
                    self.session.consumed(stream, len(payload))
                else:
                    self._held[stream] = self._held.get(stream, 0) + len(payload)
            case StreamConnected(stream):
                self.connected.add(stream)
            case EofReceived(stream):
                self.ended.add(stream)
            case StreamReset(stream):
                self.resets[stream] = event
            case SessionReady():
                self.ready.append(event)
            case SessionResumed():
                self.resumed += 1
            case DnsAnswerReceived(request, message):
                self.answers[request] = bytes(message)
            case GoAwayReceived():
                self.going_away = True
