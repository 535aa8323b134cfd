"""Which listener or socket of a stack is given what comes: the closest, by address and port."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from ..errors import StackError
from ._address import pack, unpack
from ._flow import Datagram, Flow, Reject

__all__ = ["EPHEMERAL", "Binding", "DatagramTaker", "FlowTaker", "Ports", "WILDCARDS"]

Binding = tuple[str | None, int | None]
"""An address (or 0.0.0.0 or ::, any of its family) and a port; None: whatever it is."""

WILDCARDS = {4: "0.0.0.0", 6: "::"}
"""What stands for any address of a family."""

EPHEMERAL = range(49152, 65536)
"""Ports for those who name none (RFC 6335 §6); which is random (RFC 6056)."""


OnDatagramError = Callable[[tuple[str, int], tuple[str, int], int], None]


class FlowTaker(Protocol):
    """What connections are given to."""

    def on_flow(self, flow: Flow, /) -> None:
        """Take a new connection, held; must not block or raise."""

    def on_stack_end(self) -> None:
        """Nothing more comes."""


class DatagramTaker(Protocol):
    """What datagrams are given to."""

    def on_datagram(self, datagram: Datagram, /) -> None:
        """Take a datagram; must not block or raise."""

    def on_datagram_error(self, to: tuple[str, int], number: int, /) -> None:
        """Take an ICMP error about a datagram that was sent ``to`` there, as an errno."""

    def on_stack_end(self) -> None:
        """Nothing more comes."""


class PortStack(Protocol):
    """What is needed of a stack."""

    on_flow: Callable[[Flow], None] | None
    on_datagrams: Callable[[list[Datagram]], None] | None

    @property
    def on_datagram_error(self) -> OnDatagramError | None: ...
    @on_datagram_error.setter
    def on_datagram_error(self, callback: OnDatagramError | None) -> None: ...
    def refuse_datagram(self, datagram: Datagram, how: Reject) -> None: ...


_Taker = TypeVar("_Taker", FlowTaker, DatagramTaker)


def _overlap(one: str | None, other: str | None) -> bool:
    """Return whether some address is both one's and the other's."""
    if one is None or other is None or one == other:
        return True
    every = WILDCARDS[6 if ":" in one else 4]
    return every in (one, other) and (":" in one) is (":" in other)


class _Bindings(Generic[_Taker]):
    """The takers of one protocol."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._takers: dict[Binding, _Taker] = {}

    def __len__(self) -> int:
        return len(self._takers)

    def add(self, host: str | None, port: int | None, taker: _Taker) -> Binding:
        if port is not None and not 0 <= port <= 65535:
            raise ValueError(f"{port} is not a port")
        if host is not None:
            family, raw = pack(host)
            host = unpack(family, raw)
        if port == 0:
            port = self._free(host)
        if (host, port) in self._takers:
            where = "any address" if host is None else host
            which = "any port" if port is None else f"port {port}"
            raise StackError(f"{where}, {which} of {self._name} is taken in this stack already")
        self._takers[host, port] = taker
        return host, port

    def _free(self, host: str | None) -> int:
        used = {port for at, port in self._takers if _overlap(at, host)}
        free = [port for port in EPHEMERAL if port not in used]
        if not free:
            raise StackError(f"every ephemeral port of {self._name} is in use in this stack")
        return random.choice(free)

    def remove(self, binding: Binding, taker: _Taker) -> bool:
        """Forget a taker; return whether it was the last one."""
        if self._takers.get(binding) is not taker:
            return False
        del self._takers[binding]
        return not self._takers

    def find(self, address: tuple[str, int]) -> _Taker | None:
        host, port = address
        takers = self._takers
        every = WILDCARDS[6 if ":" in host else 4]
        for binding in (
            (host, port),
            (every, port),
            (None, port),
            (host, None),
            (every, None),
            (None, None),
        ):
            taker = takers.get(binding)
            if taker is not None:
                return taker
        return None

    def end(self) -> None:
        takers, self._takers = list(self._takers.values()), {}
        for taker in takers:
            taker.on_stack_end()


class Ports:
    """The listeners and sockets of one stack.

    While there are any, ``on_flow`` (``on_datagrams``, ``on_datagram_error``) of the stack is
    theirs. What none of them takes is refused: by RST, or by ICMP port unreachable.
    """

    def __init__(self, stack: PortStack) -> None:
        self._stack = stack
        self._tcp: _Bindings[FlowTaker] = _Bindings("TCP")
        self._udp: _Bindings[DatagramTaker] = _Bindings("UDP")
        self._ended = False

    def listen(self, host: str | None, port: int | None, taker: FlowTaker) -> Binding:
        """Give ``taker`` the connections to an address and port; None: to whatever there is.

        :param port: 0: any free one.
        :returns: the binding, with the port.
        :raises StackError: it is taken, ``on_flow`` of the stack is set, or the stack has ended.
        :raises ValueError: ``host`` is no literal, or ``port`` no port.
        """
        self._check(self._tcp, self._stack.on_flow, "on_flow")
        binding = self._tcp.add(host, port, taker)
        self._stack.on_flow = self._on_flow
        return binding

    def bind(self, host: str | None, port: int | None, taker: DatagramTaker) -> Binding:
        """Give ``taker`` the datagrams to an address and port; as :meth:`listen`."""
        self._check(self._udp, self._stack.on_datagrams, "on_datagrams")
        binding = self._udp.add(host, port, taker)
        self._stack.on_datagrams = self._on_datagrams
        self._stack.on_datagram_error = self._on_datagram_error
        return binding

    def _check(self, bindings: _Bindings[_Taker], callback: object, name: str) -> None:
        if self._ended:
            raise StackError("this stack has ended")
        if not bindings and callback is not None:
            raise StackError(f"`{name}` of this stack is set: it takes whatever comes")

    def unlisten(self, binding: Binding, taker: FlowTaker) -> None:
        """Give ``taker`` nothing more. Harmless twice."""
        if self._tcp.remove(binding, taker) and self._stack.on_flow == self._on_flow:
            self._stack.on_flow = None

    def unbind(self, binding: Binding, taker: DatagramTaker) -> None:
        """Give ``taker`` nothing more. Harmless twice."""
        if self._udp.remove(binding, taker) and self._stack.on_datagrams == self._on_datagrams:
            self._stack.on_datagrams = None
            self._stack.on_datagram_error = None

    def end(self) -> None:
        """Tell them all that the stack has ended."""
        self._ended = True
        self._tcp.end()
        self._udp.end()

    def _on_flow(self, flow: Flow) -> None:
        taker = self._tcp.find(flow.destination)
        if taker is None:
            flow.reject(Reject.RST)
        else:
            taker.on_flow(flow)

    def _on_datagrams(self, batch: list[Datagram]) -> None:
        for datagram in batch:
            taker = self._udp.find(datagram.destination)
            if taker is None:
                self._stack.refuse_datagram(datagram, Reject.PORT_UNREACHABLE)
            else:
                taker.on_datagram(datagram)

    def _on_datagram_error(self, to: tuple[str, int], by: tuple[str, int], number: int) -> None:
        taker = self._udp.find(by)
        if taker is not None:
            taker.on_datagram_error(to, number)
