"""Sessions without a peer, sources and a clock for their tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from zks_lwip.errors import ProtocolError
from zks_lwip.protocol import (
    Ack,
    Budget,
    Connect,
    Connected,
    DatagramReceived,
    DataReceived,
    DnsQueryReceived,
    Event,
    Frame,
    Hello,
    Ping,
    Role,
    Session,
    SessionReady,
    Settings,
    StreamConnected,
    StreamOpened,
    parse,
    parse_v1,
)
from zks_lwip.protocol.v1 import ClientV1, WorkerV1

WORKER = Settings(udp=True, icmp=True, dns=True, ipv6=True)


class Bytes:
    """A source with some bytes; ``end`` lets its end be seen after them."""

    def __init__(self, data: bytes = b"", end: bool = False, most: int = 1 << 30) -> None:
        self.data = data
        self.end = end
        self.most = most
        self.asked = 0

    def pull_into(self, view: memoryview) -> int | None:
        self.asked += 1
        size = min(len(view), len(self.data), self.most)
        view[:size] = self.data[:size]
        self.data = self.data[size:]
        return size if size else None if self.end else 0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def drain(session: Session, limit: int = 262144) -> list[Frame]:
    """All that a session sends now."""
    sent: list[Frame] = []
    while (message := session.next_message(limit)) is not None:
        assert isinstance(message, bytearray) and message
        sent += parse(bytes(message))
    assert not session.has_output
    return sent


def came(stream: int, payload: bytes) -> DataReceived:
    """The event of these bytes."""
    return DataReceived(stream, memoryview(payload))


def datagram(association: int, host: str, port: int, payload: bytes) -> DatagramReceived:
    """The event of this datagram."""
    return DatagramReceived(association, host, port, memoryview(payload))


def feed(session: Session, *sent: Frame) -> list[Event]:
    """What the session makes of frames that come in one message."""
    return session.receive(b"".join(frame.encode() for frame in sent))


def new(
    role: Role,
    settings: Settings | None = None,
    peer: Hello | None = None,
    clock: Callable[[], float] | None = None,
    wake: Callable[[], None] | None = None,
    budget: Budget | None = None,
    kept_budget: Budget | None = None,
) -> Session:
    """A session that has exchanged HELLOs with a peer that is not there."""
    if settings is None:
        settings = Settings() if role is Role.CLIENT else WORKER
    if peer is None:
        peer = WORKER.hello(Role.WORKER) if role is Role.CLIENT else Settings().hello(Role.CLIENT)
    session = Session(
        role, settings, clock=clock or Clock(), budget=budget, kept_budget=kept_budget
    )
    session.attach(wake)
    if role is Role.CLIENT:
        drain(session)
        assert feed(session, peer) == [SessionReady(peer)]
    else:
        assert feed(session, peer) == [SessionReady(peer)]
        drain(session)
    return session


def client(**options: object) -> Session:
    return new(Role.CLIENT, **options)  # type: ignore[arg-type]


def worker(**options: object) -> Session:
    return new(Role.WORKER, **options)  # type: ignore[arg-type]


def connected_client(source: Bytes | None = None, **options: object) -> Session:
    """A client with stream 1 connected."""
    session = client(**options)
    assert session.connect("h", 1, source or Bytes()) == 1
    assert drain(session) == [Connect(1, "h", 1)]
    assert feed(session, Connected(1)) == [StreamConnected(1)]
    return session


def connected_worker(source: Bytes | None = None, **options: object) -> Session:
    """A worker with stream 1 connected."""
    session = worker(**options)
    assert feed(session, Connect(1, "h", 1)) == [StreamOpened(1, "h", 1)]
    session.accept(1, source or Bytes())
    session.connected(1)
    assert [frame for frame in drain(session) if type(frame) is not Ack] == [Connected(1)]
    return session


def broken(session: Session, match: str, *sent: Frame, status: int = 1002) -> None:
    """The frames are a protocol error, and it ends the session."""
    with pytest.raises(ProtocolError, match=match) as caught:
        feed(session, *sent)
    assert caught.value.status == status
    assert not session.has_output
    assert session.next_message() is None
    assert session.open_streams == 0
    with pytest.raises(ProtocolError, match=match):
        feed(session, Ping())


def play_v1(worker: bool, messages: Iterable[bytes], question: bytes = b"\0\1" + bytes(20)) -> None:
    """Have a v1 end of ``worker`` or client receive what a peer may send, up to its first breach.

    It is owned as a worker or a client would; a breach has a reason, and ends all.
    """
    end: ClientV1 | WorkerV1
    if worker:
        end = WorkerV1(Settings(streams=2, requests=2, dns=True))
    else:
        end = ClientV1(rate=1e12)
        end.connect("h", 1, Bytes())
        end.dns_query(1, question)
    for message in messages:
        try:
            for event in end.receive(message):
                if isinstance(event, StreamOpened) and isinstance(end, WorkerV1):
                    end.accept(event.stream, Bytes(end=event.port % 2 == 0))
                    end.connected(event.stream)
                    end.mark_ready(event.stream)
                if isinstance(event, DnsQueryReceived) and isinstance(end, WorkerV1):
                    end.dns_response(event.request, b"")
                if isinstance(event, DataReceived) and event.stream % 2:
                    end.consumed(event.stream, len(event.payload))
        except ProtocolError as error:
            assert error.status in (1002, 1009) and str(error)
            assert not end.open_streams and end.next_message() is None
            return
        end.take_events()
        while (answer := end.next_message()) is not None:
            parse_v1(answer)
        assert end.open_streams <= 2
