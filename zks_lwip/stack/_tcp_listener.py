"""Listeners: the TCP connections that come to an address and port of a stack."""

from __future__ import annotations

import logging
from collections import deque

import trio
from trio.abc import Listener

from ..errors import StackError
from ._flow import Flow, Reject
from ._stack import Stack
from ._tcp import TcpStream

__all__ = ["TcpListener"]

_log = logging.getLogger(__name__)

MAX_HANDSHAKES = 1024
"""Connections of one listener whose handshake is not done; over it the oldest is reset."""


class TcpListener(Listener[TcpStream]):
    """TCP connections to an address and port of a stack, or to all of them.

    A stack may have several; the closest gets a connection: one for its address and port, then one
    for its port, then for its address, then for anything. What none takes is refused.

    Handshakes are done side by side, and before :meth:`accept` is called, as by a kernel. From the
    first call of :meth:`accept_flow` on, connections are held unanswered in their place.

    :param host: an IP literal; 0.0.0.0 or ::, any of that family; None: any.
    :param port: 0: any free one, which :attr:`port` says; None: whatever the peer connects to.
    :param backlog: connections that wait for :meth:`accept`; the SYNs of more are dropped, as a
        kernel does, and the peers send them again.
    :raises StackError: another listener has just this, ``on_flow`` of the stack is set, or the
        stack has ended.
    :raises ValueError: ``host`` is no literal, or ``port`` no port.
    """

    def __init__(
        self,
        stack: Stack,
        host: str | None = None,
        port: int | None = None,
        *,
        backlog: int = 128,
    ) -> None:
        self._ports = stack.ports
        self._backlog = backlog
        self._held: deque[Flow] = deque()
        self._handshakes: dict[TcpStream, None] = {}
        self._ready: deque[TcpStream] = deque()
        self._waiting = trio.lowlevel.ParkingLot()
        self._holds = False
        self._closed = False
        self._ended = False
        self._binding = self._ports.listen(host, port, self)

    @property
    def host(self) -> str | None:
        """The address; None: any."""
        return self._binding[0]

    @property
    def port(self) -> int | None:
        """The port; None: any."""
        return self._binding[1]

    async def accept(self) -> TcpStream:
        """Wait for the next connection whose handshake is done, and return it.

        :raises trio.ClosedResourceError: the listener was closed.
        :raises trio.BrokenResourceError: the stack has ended.
        """
        if self._holds:
            self._holds = False
            held, self._held = self._held, deque()
            for flow in held:
                self._shake_hands(flow)
        await trio.lowlevel.checkpoint()
        while not self._ready:
            self._check_open()
            await self._waiting.park()
        self._check_open()
        return self._ready.popleft()

    async def accept_flow(self) -> Flow:
        """Wait for the next connection, and return it held. Not beside :meth:`accept`, which gives
        those that came before the first call of this.

        Accept it by ``TcpStream(flow)`` and ``flow.accept()``, or reject it.

        :raises trio.ClosedResourceError: the listener was closed.
        :raises trio.BrokenResourceError: the stack has ended.
        """
        self._holds = True
        await trio.lowlevel.checkpoint()
        while True:
            self._check_open()
            while self._held:
                flow = self._held.popleft()
                if not flow.gone:  # its sender may have given it up
                    return flow
            await self._waiting.park()

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this listener was closed")
        if self._ended:
            raise trio.BrokenResourceError("the stack has ended")

    # a FlowTaker

    def on_flow(self, flow: Flow) -> None:
        """Take a connection that has come."""
        if self._holds:
            while self._held and self._held[0].gone:
                self._held.popleft()
        if len(self._held) + len(self._ready) >= self._backlog:
            flow.reject(Reject.SILENT)
        elif self._holds:
            self._held.append(flow)
            self._waiting.unpark()
        else:
            self._shake_hands(flow)

    def _shake_hands(self, flow: Flow) -> None:
        if flow.gone:
            return
        if len(self._handshakes) >= MAX_HANDSHAKES:
            oldest = next(iter(self._handshakes))
            del self._handshakes[oldest]
            oldest.abort()
        stream = TcpStream(flow, on_handshake=self._on_handshake)
        self._handshakes[stream] = None
        try:
            flow.accept()
        except StackError as error:  # its end is told as that of any other
            _log.warning("a TCP connection was dropped: %s", error)

    def _on_handshake(self, stream: TcpStream, done: bool) -> None:
        if stream in self._handshakes:
            del self._handshakes[stream]
            if done:
                self._ready.append(stream)
                self._waiting.unpark()

    def on_stack_end(self) -> None:
        """End the tasks that wait."""
        self._ended = True
        self._held.clear()
        self._handshakes.clear()
        self._ready.clear()
        self._waiting.unpark_all()

    async def aclose(self) -> None:
        """Take no more connections; reset those that were not accepted. Harmless twice."""
        self.close_nowait()
        await trio.lowlevel.checkpoint()

    def close_nowait(self) -> None:
        """Do what :meth:`aclose` does, without a checkpoint."""
        if not self._closed:
            self._closed = True
            self._ports.unlisten(self._binding, self)
            for flow in self._held:
                flow.reject(Reject.RST)
            waiting = [*self._handshakes, *self._ready]
            self._held.clear()
            self._handshakes.clear()
            self._ready.clear()
            for stream in waiting:
                stream.abort()
            self._waiting.unpark_all()
