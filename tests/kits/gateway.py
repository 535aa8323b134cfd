"""A stack and a tunnel in memory, for the gateway's own logic; the real ones meet it in netns/."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from zks_lwip.errors import StackError
from zks_lwip.stack import BoundDatagrams, Datagram, DeliveredDatagrams, FrameRules, Reject


class FakeFlow:
    """A connection whose receive buffer and send room the test decides."""

    def __init__(
        self,
        destination: tuple[str, int] = ("192.0.2.1", 80),
        source: tuple[str, int] = ("198.18.0.1", 40000),
    ) -> None:
        self.source = source
        self.destination = destination
        self.handler: Any = None
        self.incoming = bytearray()  # from the application
        self.fin = False
        self.room = 1 << 30
        self.delivered = bytearray()  # to the application
        self.log: list[str | Reject] = []
        self.memory = True
        self.target: tuple[Any, int] | None = None
        self.moved = (0, 0)

    def accept(self, *, quiet: bool = False) -> None:
        assert "accept" not in self.log
        self.log.append("accept")
        if not self.memory:
            raise StackError("out of memory")

    def reject(self, how: Reject) -> None:
        assert "accept" not in self.log
        self.log.append(how)

    def pull_into(self, view: memoryview) -> int | None:
        count = min(len(view), len(self.incoming))
        if not count:
            return None if self.fin else 0
        view[:count] = self.incoming[:count]
        self.moved = self.moved[0] + count, self.moved[1]
        del self.incoming[:count]
        return count

    def push(self, data: bytes | memoryview) -> int:
        assert "eof" not in self.log and "abort" not in self.log
        count = min(len(data), self.room)
        self.delivered += data[:count]
        self.moved = self.moved[0], self.moved[1] + count
        self.room -= count
        return count

    def send_eof(self) -> None:
        assert "eof" not in self.log
        self.log.append("eof")

    def close(self) -> None:
        assert not self.incoming
        self.log.append("close")

    def abort(self) -> None:
        self.log.append("abort")


class FakeStream:
    def __init__(self, host: str, port: int, peer: Any) -> None:
        self.host, self.port, self.peer = host, port, peer
        self.ready = 0
        self.credit = 0
        self.closed = 0
        #: What C was told to pull from and to push to, and is not told any more.
        self.bound: dict[str, tuple[Any, int]] = {}

    def bind(self, target: Any, handle: int, **directions: bool) -> None:
        for direction, wanted in directions.items():
            if wanted:
                self.bound[direction] = target, handle

    def unbind(self) -> None:
        self.bound.clear()

    def mark_ready(self) -> None:
        self.ready += 1

    def consumed(self, n: int) -> None:
        assert n > 0
        self.credit += n

    def close(self) -> None:
        self.closed += 1


class FakeAssociation:
    def __init__(self, peer: Any, room: int, identifier: int) -> None:
        self.identifier = identifier
        self.peer = peer
        self.room = room
        self.sent: list[tuple[str, int, bytes]] = []
        self.closed = False

    def send(self, host: str, port: int, payload: bytes | memoryview) -> bool:
        assert not self.closed
        if len(self.sent) >= self.room:
            return False
        self.sent.append((host, port, bytes(payload)))
        return True

    def close(self) -> None:
        self.closed = True


@dataclass
class FakeHello:
    udp: bool = True
    icmp: bool = True
    ipv6: bool = True
    idle_udp: int = 60
    associations: int = 4096


async def echo_with_host(host: str, payload: bytes) -> bytes:
    return b"%b from %b" % (payload, host.encode())


@dataclass
class FakeTunnel:
    up: bool = True
    hopeless: bool = False
    peer: FakeHello | None = field(default_factory=FakeHello)
    end_at_once: int | None = None
    room: int = 1000
    streams: list[FakeStream] = field(default_factory=list)
    associations: list[FakeAssociation] = field(default_factory=list)
    framed: list[tuple[bytes, list[int]]] = field(default_factory=list)
    echo: Callable[[str, bytes], Awaitable[bytes]] = echo_with_host

    def open_stream(self, host: str, port: int, peer: Any, *, marked: bool = True) -> FakeStream:
        if self.end_at_once is not None:
            peer.on_end(self.end_at_once, "")
        self.streams.append(FakeStream(host, port, peer))
        return self.streams[-1]

    def open_association(self, peer: Any, sink: Any) -> FakeAssociation:
        identifier = len(self.associations) + 1
        self.associations.append(FakeAssociation(peer, self.room, identifier))
        return self.associations[-1]

    def send_datagrams(
        self, frames: bytes, count: int, size: int, associations: Sequence[int]
    ) -> tuple[int, int]:
        self.framed.append((frames, list(associations)))
        return (count, size) if self.room else (0, 0)


@dataclass
class FakeStack:
    room: int = 1000
    on_flow: Any = None
    on_datagrams: Any = None
    on_frames: Any = None
    frame_rules: Any = None
    on_echo: Any = None
    bound: dict[int, tuple[str, int]] = field(default_factory=dict)
    carried: dict[int, BoundDatagrams] = field(default_factory=dict)
    delivered: list[bytes] = field(default_factory=list)
    result: DeliveredDatagrams = DeliveredDatagrams(0, 0, 0, 0)
    sent: list[tuple[tuple[str, int], tuple[str, int], bytes]] = field(default_factory=list)
    refused: list[tuple[Datagram, Reject]] = field(default_factory=list)
    mtus: list[int] = field(default_factory=list)
    replies: list[tuple[str, str, int, int, bytes]] = field(default_factory=list)
    moved: tuple[int, int] = (0, 0)

    def bind_datagrams(self, local: tuple[str, int], association: int) -> bool:
        assert association not in self.bound and local not in self.bound.values()
        self.bound[association] = local
        return True

    def unbind_datagrams(self, association: int) -> None:
        self.bound.pop(association, None)

    def bound_datagrams(self, association: int) -> BoundDatagrams | None:
        return self.carried.get(association)

    def deliver_datagrams(self, frames: memoryview, rules: FrameRules) -> DeliveredDatagrams:
        self.delivered.append(bytes(frames))
        return self.result

    def send_datagram(
        self, source: tuple[str, int], destination: tuple[str, int], payload: bytes | memoryview
    ) -> bool:
        if len(self.sent) >= self.room:
            return False
        self.sent.append((source, destination, bytes(payload)))
        return True

    def refuse_datagram(self, datagram: Datagram, how: Reject, *, mtu: int = 0) -> None:
        assert bool(mtu) is (how is Reject.TOO_BIG)
        self.refused.append((datagram, how))
        self.mtus.append(mtu)

    def send_echo_reply(
        self, source: str, destination: str, ident: int, seq: int, payload: bytes
    ) -> bool:
        self.replies.append((source, destination, ident, seq, bytes(payload)))
        return True
