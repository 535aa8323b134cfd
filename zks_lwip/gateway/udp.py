"""UDP: one association per local address and port, whatever it sends to (PROTOCOL.md §5).

An association is full cone: a datagram from any host to the worker's socket reaches the
application, from that host. They end when idle, when the worker drops them, or when there are
too many: the least recently used first, but those that serve one question, or none, before those
that go on both ways. Nothing here waits: what cannot be sent is dropped and counted.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from ..stack import Datagram, Reject
from ..stats import GatewayCounters
from .policy import Policy, refusal_for
from .talk import tell, told

__all__ = ["DEFAULT_IDLE", "MAX_ASSOCIATIONS", "AssociationHandle", "Associations", "UdpStack"]

#: Seconds without a datagram in either direction (RFC 4787 REQ-5 recommends 300, and allows no less
#: than 120), unless the worker's HELLO says less: what it has dropped is of no use.
DEFAULT_IDLE = 300.0
#: Most at a time, and no more than the worker says: about a kilobyte each here, and a socket there.
MAX_ASSOCIATIONS = 4096

_Address = tuple[str, int]


class AssociationHandle(Protocol):
    """What is needed of a tunnel association."""

    def send(self, host: str, port: int, payload: bytes | memoryview, /) -> bool: ...
    def close(self) -> None: ...


class AssociationOpener(Protocol):
    """What is needed of the tunnel."""

    def open_association(self, peer: _Association, /) -> AssociationHandle: ...


class UdpStack(Protocol):
    """What is needed of the stack."""

    def send_datagram(
        self, source: _Address, destination: _Address, payload: bytes | memoryview
    ) -> bool: ...
    def refuse_datagram(self, datagram: Datagram, how: Reject, *, mtu: int = 0) -> None: ...


class _Association:
    """One local (address, port); the peer of a tunnel association."""

    __slots__ = ("_handle", "_local", "_owner", "_v6", "answered", "lasting", "used")

    def __init__(self, owner: Associations, local: _Address, now: float) -> None:
        self._owner = owner
        self._local = local
        self._v6 = ":" in local[0]
        self._handle: AssociationHandle | None = None
        self.answered = False  # something has come for it
        self.lasting = False  # and something was sent after that: it is no single question
        self.used = now

    def open(self, tunnel: AssociationOpener) -> None:
        self._handle = tunnel.open_association(self)

    def send(self, host: str, port: int, payload: bytes | memoryview) -> bool:
        return self._handle is not None and self._handle.send(host, port, payload)

    def close(self, why: str) -> None:
        if self._handle is not None:
            if told():
                tell("udp", self._local, None, why)
            self._handle.close()
            self._handle = None

    def on_datagram(self, host: str, port: int, payload: memoryview) -> None:
        """A datagram from any host: it reaches the application from there."""
        if self._handle is not None:
            self._owner.deliver(self, self._local, host, port, payload, self._v6)

    def on_udp_error(self, code: int, host: str, port: int) -> None:
        """An ICMP error at the worker becomes one here."""
        if self._handle is not None:
            self._owner.tell_error(self._local, code, host, port)

    def on_udp_close(self) -> None:
        """The worker dropped it; the next datagram opens another.

        The tunnel's end, which would stay for more datagrams, is given back.
        """
        self._owner.forget(self._local, self)
        self.close("dropped by the worker")


class Associations:
    """All associations of the gateway, at most ``limit``, in the order of their last use.

    Those that serve one question are apart from those that last: where one kind needs room, it
    takes none of the quarter (questions) or three quarters (lasting) that the other may have.
    """

    def __init__(
        self,
        stack: UdpStack,
        tunnel: AssociationOpener,
        policy: Policy,
        counters: GatewayCounters,
        *,
        limit: int = MAX_ASSOCIATIONS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stack = stack
        self._tunnel = tunnel
        self._policy = policy
        self._counters = counters
        self._limit = limit
        self._clock = clock
        self._open: dict[_Address, _Association] = {}
        self._single: OrderedDict[_Address, _Association] = OrderedDict()
        self._lasting: OrderedDict[_Address, _Association] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    @property
    def limit(self) -> int:
        """Most at a time, at least 1."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._limit = max(1, limit)
        while len(self._open) > self._limit:
            self._evict()

    def send(self, datagram: Datagram) -> None:
        """Carry one datagram of an application to the worker."""
        local = datagram.source
        association = self._open.get(local)
        if association is None:
            association = self._add(local)
            if told():
                tell("udp", local, datagram.destination, "association opened")
        else:
            if association.answered and not association.lasting:
                association.lasting = True
                self._lasting[local] = self._single.pop(local)
            self._touch(local, association)
        host, port = datagram.destination
        if association.send(self._policy.to_worker(host), port, datagram.payload):
            self._counters.datagrams_up += 1
            self._counters.datagram_bytes_up += len(datagram.payload)
        else:
            self._counters.datagrams_dropped += 1

    def refuse(self, datagram: Datagram, how: Reject) -> None:
        """Tell the application by ICMP that its datagram goes nowhere."""
        self._counters.datagrams_refused += 1
        self._stack.refuse_datagram(datagram, how)

    def expire(self, now: float, idle: float = DEFAULT_IDLE) -> None:
        """Drop what has been idle for ``idle`` seconds; the least recently used come first."""
        for kind in (self._single, self._lasting):
            while kind:
                local, association = next(iter(kind.items()))
                if now - association.used < idle:
                    break
                self._remove(local, association)
                association.close(f"idle for {idle:g} s")

    def close(self) -> None:
        """Drop all."""
        for local, association in tuple(self._open.items()):
            self._remove(local, association)
            association.close("the tunnel ends")

    # called by the associations

    def deliver(
        self,
        association: _Association,
        local: _Address,
        host: str,
        port: int,
        payload: memoryview,
        v6: bool,
    ) -> None:
        source = self._policy.from_worker(host)
        if (":" in source) is not v6:
            # A datagram of the other family has no way to a socket bound to this address.
            self._counters.datagrams_dropped += 1
            return
        if self._open.get(local) is association:
            association.answered = True
            self._touch(local, association)
        if self._stack.send_datagram((source, port), local, payload):
            self._counters.datagrams_down += 1
            self._counters.datagram_bytes_down += len(payload)
        else:
            self._counters.datagrams_dropped += 1

    def tell_error(self, local: _Address, code: int, host: str, port: int) -> None:
        self._counters.udp_errors += 1
        source = self._policy.from_worker(host)
        if (":" in source) is (":" in local[0]):
            # ICMP quotes the header of what caused it: a datagram from the application to there.
            how = UDP_REFUSALS.get(code) or refusal_for(code)
            self._stack.refuse_datagram(
                Datagram(source=local, destination=(source, port), payload=memoryview(b"")),
                how,
                mtu=SAFE_MTU if how is Reject.TOO_BIG else 0,
            )

    def forget(self, local: _Address, association: _Association) -> None:
        if self._open.get(local) is association:
            self._remove(local, association)

    def _touch(self, local: _Address, association: _Association) -> None:
        """It is used now."""
        association.used = self._clock()
        (self._lasting if association.lasting else self._single).move_to_end(local)

    def _remove(self, local: _Address, association: _Association) -> None:
        del self._open[local]
        del (self._lasting if association.lasting else self._single)[local]

    def _evict(self) -> None:
        """Drop one: of the kind that has more than its part, the least recently used."""
        single = self._single if 4 * len(self._single) >= self._limit else self._lasting
        local, association = next(iter((single or self._single).items()))
        self._counters.associations_evicted += 1
        self._remove(local, association)
        association.close("gave way to a newer one")

    def _add(self, local: _Address) -> _Association:
        while len(self._open) >= self._limit:
            self._evict()
        association = _Association(self, local, self._clock())
        association.open(self._tunnel)
        self._open[local] = self._single[local] = association
        self._counters.associations_opened += 1
        return association


#: For datagrams "refused" is ICMP port unreachable (connected sockets see ECONNREFUSED), and 90 is
#: "fragmentation needed" or "packet too big" (EMSGSIZE).
UDP_REFUSALS: dict[int, Reject] = {111: Reject.PORT_UNREACHABLE, 90: Reject.TOO_BIG}

#: The MTU that is told with 90. The frame does not say which it is; this one every path of IPv6 has
#: (RFC 8200 §5), and what is larger the worker's system has in pieces from then on.
SAFE_MTU = 1280
