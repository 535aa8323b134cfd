"""UDP: one association per local address and port, whatever it sends to (PROTOCOL.md §5).

An association filters nothing (RFC 4787 §5, endpoint-independent): a datagram from any host to the
worker's socket reaches the application, from that host. They end when idle, when the worker drops
them, or when there are too many: the least recently used first, but those that serve one question,
or none, before those that go on both ways. Nothing here waits: what cannot be sent is dropped and
counted.

The first datagram of an association comes here; then its socket is bound to it in the stack, and
C makes frames of its datagrams, and datagrams of its frames.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from ..stack import (
    BoundDatagrams,
    Datagram,
    DeliveredDatagrams,
    FramedDatagrams,
    FrameRules,
    Reject,
)
from .counters import GatewayCounters
from .flows import FlowInfo, Via
from .policy import FlowPolicy, udp_refusal_for
from .trace import log_flow, logs_flows

__all__ = [
    "DEFAULT_IDLE",
    "MAX_ASSOCIATIONS",
    "AssociationTable",
    "BridgedAssociation",
    "FrameCarrier",
    "FrameStack",
    "UdpStack",
]

DEFAULT_IDLE = 300.0
"""Seconds without a datagram in either direction (RFC 4787 REQ-5 recommends 300, and allows no less
than 120), unless the worker's HELLO says less: what it has dropped is of no use.
"""
MAX_ASSOCIATIONS = 4096
"""At a time, and no more than the worker says: about a kilobyte each here, and a socket there."""

_Address = tuple[str, int]


class BridgedAssociation(Protocol):
    """What is needed of a tunnel association."""

    @property
    def identifier(self) -> int:
        """Of its UDP frames, 1 or more; 0: it has none, and takes datagrams one by one."""

    def send(self, host: str, port: int, payload: bytes | memoryview, /) -> bool: ...
    def close(self) -> None: ...


class AssociationOpener(Protocol):
    """What is needed of the tunnel."""

    def open_association(
        self, peer: _LocalAssociation, sink: AssociationTable, /
    ) -> BridgedAssociation: ...


class FrameCarrier(Protocol):
    """What is needed of the tunnel to carry datagrams as the frames that they are."""

    def send_datagrams(
        self, frames: bytes, count: int, size: int, associations: Sequence[int], /
    ) -> tuple[int, int]: ...


class UdpStack(Protocol):
    """What is needed of the stack."""

    def send_datagram(
        self, source: _Address, destination: _Address, payload: bytes | memoryview
    ) -> bool: ...
    def refuse_datagram(self, datagram: Datagram, how: Reject, *, mtu: int = 0) -> None: ...


class FrameStack(UdpStack, Protocol):
    """What associations need of it besides."""

    def bind_datagrams(self, local: _Address, association: int) -> bool: ...
    def unbind_datagrams(self, association: int) -> None: ...
    def bound_datagrams(self, association: int) -> BoundDatagrams | None: ...
    def deliver_datagrams(self, frames: memoryview, rules: FrameRules) -> DeliveredDatagrams: ...


class _LocalAssociation:
    """One local (address, port); the peer of a tunnel association."""

    __slots__ = (
        "_handle",
        "_owner",
        "_v6",
        "answered",
        "down",
        "identifier",
        "lasting",
        "local",
        "since",
        "to",
        "up",
        "used",
    )

    def __init__(self, owner: AssociationTable, local: _Address, now: float) -> None:
        self._owner = owner
        self.local = local
        self._v6 = ":" in local[0]
        self._handle: BridgedAssociation | None = None
        self.identifier = 0  # the tunnel's, while it is open
        self.answered = False  # something has come for it
        self.lasting = False  # and something was sent after that: it is no single question
        self.since = self.used = now
        self.to: _Address | None = None  # where the last datagram was sent to
        self.up = self.down = 0  # bytes

    def open(self, tunnel: AssociationOpener) -> None:
        """Open the tunnel's end of it."""
        self._handle = tunnel.open_association(self, self._owner)
        self.identifier = self._handle.identifier

    def send(self, host: str, port: int, payload: bytes | memoryview) -> bool:
        """Send a datagram to the worker; return whether the tunnel had room for it."""
        return self._handle is not None and self._handle.send(host, port, payload)

    def close(self, why: str) -> None:
        """Close the tunnel's end of it; harmless twice."""
        if self._handle is not None:
            if logs_flows():
                log_flow("udp", self.local, None, why)
            self._handle.close()
            self._handle = None

    def on_datagram(self, host: str, port: int, payload: memoryview) -> None:
        """Give the application a datagram, from the host that sent it."""
        if self._handle is not None:
            self._owner.deliver_one(self, self.local, host, port, payload, self._v6)

    def on_udp_error(self, code: int, host: str, port: int) -> None:
        """Tell the application of an ICMP error at the worker, by one here."""
        if self._handle is not None:
            self._owner.tell_error(self.local, code, host, port)

    def on_udp_close(self) -> None:
        """Forget it, since the worker has; the application's next datagram opens another.

        The tunnel's end, which would stay for more datagrams, is given back.
        """
        self._owner.forget(self.local, self)
        self.close("dropped by the worker")


class AssociationTable:
    """All associations of the gateway, at most ``limit``, in the order of their last use.

    Those that serve one question are apart from those that last: where one kind needs room, it
    takes none of the quarter (questions) or three quarters (lasting) that the other may have.

    :param tunnel: opens the other ends of associations.
    :param carrier: carries their datagrams many at a time; None: they go one by one.
    """

    def __init__(
        self,
        stack: FrameStack,
        tunnel: AssociationOpener,
        policy: FlowPolicy,
        counters: GatewayCounters,
        *,
        limit: int = MAX_ASSOCIATIONS,
        clock: Callable[[], float] = time.monotonic,
        via: Via = "tunnel",
        carrier: FrameCarrier | None = None,
    ) -> None:
        self._via: Via = via
        self._carrier = carrier
        self._stack = stack
        self._tunnel = tunnel
        self._policy = policy
        self._counters = counters
        self._limit = limit
        self._clock = clock
        self._open: dict[_Address, _LocalAssociation] = {}
        self._by_id: dict[int, _LocalAssociation] = {}
        self._single: OrderedDict[_Address, _LocalAssociation] = OrderedDict()
        self._lasting: OrderedDict[_Address, _LocalAssociation] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    @property
    def limit(self) -> int:
        """Associations at a time, 1 or more; set to less, it is 1."""
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
            if logs_flows():
                log_flow("udp", local, datagram.destination, "association opened")
        else:
            self._note_sent(association)
        host, port = association.to = datagram.destination
        association.up += len(datagram.payload)
        if association.send(self._policy.to_worker(host), port, datagram.payload):
            self._counters.datagrams_up += 1
            self._counters.datagram_bytes_up += len(datagram.payload)
        else:
            self._counters.datagrams_dropped += 1

    def send_frames(self, run: FramedDatagrams) -> None:
        """Carry datagrams of applications whose associations are open."""
        for identifier in run.associations:
            self._note_sent(self._by_id[identifier])
        assert self._carrier is not None
        taken, size = self._carrier.send_datagrams(
            run.frames, run.count, run.size, run.associations
        )
        self._counters.datagrams_up += taken
        self._counters.datagram_bytes_up += size
        self._counters.datagrams_dropped += run.count - taken

    def refuse(self, datagram: Datagram, how: Reject) -> None:
        """Tell the application by ICMP that its datagram goes nowhere."""
        self._counters.datagrams_refused += 1
        self._stack.refuse_datagram(datagram, how)

    def expire(self, now: float, idle: float = DEFAULT_IDLE) -> None:
        """Drop what has been idle for ``idle`` seconds.

        :param now: by the table's clock.
        """
        # The least recently used come first.
        for kind in (self._single, self._lasting):
            while kind:
                local, association = next(iter(kind.items()))
                if now - association.used < idle:
                    break
                self._remove(local, association)
                association.close(f"idle for {idle:g} s")

    def infos(self, now: float) -> list[FlowInfo]:
        """Return what is told of each.

        :param now: by the table's clock.
        """
        return [self._info(association, now) for association in self._open.values()]

    def _info(self, association: _LocalAssociation, now: float) -> FlowInfo:
        to, up, down = association.to, association.up, association.down
        carried = None
        if self._carrier is not None:
            carried = self._stack.bound_datagrams(association.identifier)
        if carried is not None:  # what has not come here
            to = carried.to or to
            up += carried.up
            down += carried.down
        since = now - association.since
        return FlowInfo("udp", association.local, to, self._via, "open", since, up, down)

    def end(self, local: _Address) -> bool:
        """Drop an association, as asked for.

        :returns: whether there was one.
        """
        association = self._open.get(local)
        if association is None:
            return False
        self._remove(local, association)
        association.close("as asked for")
        return True

    def close(self) -> None:
        """Drop all."""
        for local, association in tuple(self._open.items()):
            self._remove(local, association)
            association.close("the tunnel ends")

    # called by the tunnel and the associations

    def deliver(self, frames: memoryview, associations: Iterable[int]) -> int:
        """Send datagrams that have come, as frames of these associations, to the applications.

        :returns: how many name no IP literal.
        """
        for identifier in associations:
            association = self._by_id.get(identifier)
            if association is not None:
                association.answered = True
                self._touch(association.local, association)
        done = self._stack.deliver_datagrams(frames, self._policy.frame_rules())
        self._counters.datagrams_down += done.datagrams
        self._counters.datagram_bytes_down += done.size
        self._counters.datagrams_dropped += done.dropped
        return done.malformed

    def deliver_one(
        self,
        association: _LocalAssociation,
        local: _Address,
        host: str,
        port: int,
        payload: memoryview,
        v6: bool,
    ) -> None:
        """Send a datagram of ``host`` to the application at ``local``."""
        source = self._policy.from_worker(host)
        if (":" in source) is not v6:
            # A datagram of the other family has no way to a socket bound to this address.
            self._counters.datagrams_dropped += 1
            return
        association.down += len(payload)
        if self._open.get(local) is association:
            association.answered = True
            self._touch(local, association)
        if self._stack.send_datagram((source, port), local, payload):
            self._counters.datagrams_down += 1
            self._counters.datagram_bytes_down += len(payload)
        else:
            self._counters.datagrams_dropped += 1

    def tell_error(self, local: _Address, code: int, host: str, port: int) -> None:
        """Tell the application at ``local`` that its datagram to ``host`` met an error."""
        self._counters.udp_errors += 1
        source = self._policy.from_worker(host)
        if (":" in source) is (":" in local[0]):
            # ICMP quotes the header of what caused it: a datagram from the application to there.
            how, mtu = udp_refusal_for(code)
            sent = Datagram(source=local, destination=(source, port), payload=memoryview(b""))
            self._stack.refuse_datagram(sent, how, mtu=mtu)

    def forget(self, local: _Address, association: _LocalAssociation) -> None:
        """Remove an association that has ended; harmless if another has its place."""
        if self._open.get(local) is association:
            self._remove(local, association)

    def _note_sent(self, association: _LocalAssociation) -> None:
        """Note that its application has sent something."""
        local = association.local
        if association.answered and not association.lasting:
            association.lasting = True
            self._lasting[local] = self._single.pop(local)
        self._touch(local, association)

    def _touch(self, local: _Address, association: _LocalAssociation) -> None:
        """Note that it is used now."""
        association.used = self._clock()
        (self._lasting if association.lasting else self._single).move_to_end(local)

    def _remove(self, local: _Address, association: _LocalAssociation) -> None:
        if self._carrier is not None:
            self._stack.unbind_datagrams(association.identifier)
            del self._by_id[association.identifier]
        del self._open[local]
        del (self._lasting if association.lasting else self._single)[local]

    def _evict(self) -> None:
        """Drop one: of the kind that has more than its part, the least recently used."""
        single = self._single if 4 * len(self._single) >= self._limit else self._lasting
        local, association = next(iter((single or self._single).items()))
        self._counters.associations_evicted += 1
        self._remove(local, association)
        association.close("gave way to a newer one")

    def _add(self, local: _Address) -> _LocalAssociation:
        while len(self._open) >= self._limit:
            self._evict()
        association = _LocalAssociation(self, local, self._clock())
        association.open(self._tunnel)
        self._open[local] = self._single[local] = association
        if self._carrier is not None:
            self._by_id[association.identifier] = association
            # (Where it is not, its datagrams come one by one.)
            self._stack.bind_datagrams(local, association.identifier)
        self._counters.associations_opened += 1
        return association
