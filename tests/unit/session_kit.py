"""Sessions that talk to nobody, sources and a clock for their tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from zks_lwip.errors import ProtocolError
from zks_lwip.tunnel.credit import Budget
from zks_lwip.tunnel.frames import (
    Connect,
    Connected,
    Frame,
    Hello,
    Ping,
    parse,
)
from zks_lwip.tunnel.session import Role, Session, Settings

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


def feed(session: Session, *sent: Frame) -> list[Frame]:
    return session.receive(b"".join(frame.encode() for frame in sent))


def new(
    role: Role,
    settings: Settings | None = None,
    peer: Hello | None = None,
    clock: Callable[[], float] | None = None,
    wake: Callable[[], None] | None = None,
    budget: Budget | None = None,
) -> Session:
    """A session that has exchanged its HELLOs with nobody."""
    if settings is None:
        settings = Settings() if role is Role.CLIENT else WORKER
    if peer is None:
        peer = WORKER.hello(Role.WORKER) if role is Role.CLIENT else Settings().hello(Role.CLIENT)
    session = Session(role, settings, clock=clock or Clock(), wake=wake, budget=budget)
    if role is Role.CLIENT:
        drain(session)
        assert feed(session, peer) == [peer]
    else:
        assert feed(session, peer) == [peer]
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
    assert feed(session, Connected(1)) == [Connected(1)]
    return session


def connected_worker(source: Bytes | None = None, **options: object) -> Session:
    """A worker with stream 1 connected."""
    session = worker(**options)
    assert feed(session, Connect(1, "h", 1)) == [Connect(1, "h", 1)]
    session.accept(1, source or Bytes())
    session.connected(1)
    assert drain(session) == [Connected(1)]
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
