"""The frame codec and a session (v2, v1) under whatever a peer may send.

An input is a byte that chooses the end and its state, then steps: a message (two bytes of length,
and its bytes), or something that the session's owner does.
"""

from __future__ import annotations

import contextlib
import random
import struct
from collections.abc import Iterable
from pathlib import Path

from tests.kits.session import play_v1
from zks_lwip import protocol
from zks_lwip.errors import ProtocolError
from zks_lwip.protocol import (
    Ack,
    Close,
    Connect,
    Connected,
    Data,
    DataReceived,
    DnsQuery,
    DnsResponse,
    Echo,
    EchoReply,
    Eof,
    EofReceived,
    Error,
    Event,
    Frame,
    GoAway,
    Hello,
    Ping,
    Pong,
    Role,
    Session,
    SessionReady,
    SessionResumed,
    Settings,
    StreamOpened,
    Udp,
    UdpClose,
    UdpError,
    Unknown,
    Window,
    parse,
    parse_v1,
)

__all__ = ["FramesTarget"]

STREAMS, WINDOW = 3, 3000
WORKER, GREETED, V1 = 1, 2, 4
OWNER = 0x80  # a step's first byte: something that the owner does; else a message
_INTERESTING = [0, 1, 2, 127, 128, 255, 256, 1500, 3000, 65535, 65536, 2**31, 2**32 - 1]


class Pipe:
    """The source of a stream: has ``left`` bytes, then perhaps an end."""

    def __init__(self) -> None:
        self.left = 0
        self.ended = False

    def pull_into(self, view: memoryview) -> int | None:
        size = min(len(view), self.left)
        self.left -= size
        return size if size else None if self.ended else 0


class Owner:
    """Drives a session of v2 and keeps its own account of what the peer was granted."""

    def __init__(self, role: Role) -> None:
        self.now = 0.0
        self.settings = Settings(
            window=WINDOW,
            max_data=1500,
            max_message=131072,
            streams=STREAMS,
            associations=2,
            requests=2,
            udp=True,
            dns=True,
            icmp=True,
            session="s",
            resume=60,
            max_kept=262144,
        )
        self.number = 0  # of the last counted frame that was sent
        self.seen = 0  # the highest that it has been
        self.session = Session(role, self.settings, clock=lambda: self.now)
        self.session.attach()
        self.pipes: dict[int, Pipe] = {}
        self.granted: dict[int, int] = {}
        self.held: dict[int, int] = {}
        self.ended: set[int] = set()
        self.send()

    def open(self, stream: int) -> Pipe:
        self.pipes[stream] = pipe = Pipe()
        self.granted[stream] = WINDOW
        self.held[stream] = 0
        return pipe

    def receive(self, message: bytes) -> None:
        session = self.session
        for event in session.receive(message):
            assert isinstance(event, Event)
            if isinstance(event, SessionResumed):
                (hello,) = (each for each in parse(message) if isinstance(each, Hello))
                self.number = hello.received
                assert self.number <= self.seen, "more than was sent"
            elif isinstance(event, SessionReady):
                self.number = self.seen = 0
            elif isinstance(event, StreamOpened):
                session.accept(event.stream, self.open(event.stream))
            elif isinstance(event, DataReceived):
                size = len(event.payload)
                self.granted[event.stream] -= size
                self.held[event.stream] += size
                assert self.granted[event.stream] >= 0, "more than was granted"
                assert event.stream not in self.ended, "after the end"
            elif isinstance(event, EofReceived):
                self.ended.add(event.stream)
        self.check()

    def send(self) -> None:
        while (message := self.session.next_message(4096)) is not None:
            assert len(message) <= 70_000
            for frame in parse(message):
                if frame.counted:
                    self.number += 1
                    if self.number <= self.seen:
                        continue  # it is sent again
                    self.seen = self.number
                if isinstance(frame, Window):
                    self.granted[frame.stream] += frame.credit

    def reattach(self) -> None:
        """Lose the WebSocket, and have another: the session goes on, or it is over."""
        session = self.session
        if not session.detach():
            return
        assert not session.has_output and session.next_message() is None
        assert session.receive(Ping().encode()) == []
        session.attach()
        self.send()

    def act(self, what: int, argument: int) -> None:
        session, stream = self.session, argument % 8
        known = stream in self.pipes
        match what % 10:
            case 0:
                if session.can_connect:
                    pipe = Pipe()
                    identifier = session.connect("host", argument, pipe)
                    self.pipes[identifier] = pipe
                    self.granted[identifier], self.held[identifier] = WINDOW, 0
            case 1:
                if known and session.is_open(stream) and session.role is Role.WORKER:
                    if not session.streams.open[stream].connected:
                        session.connected(stream)
            case 2:
                if known:
                    self.pipes[stream].left += argument * 50
                    session.mark_ready(stream)
            case 3:
                if known:
                    self.pipes[stream].ended = True
                    session.mark_ready(stream)
            case 4:
                if known and session.is_open(stream):
                    size = min(self.held[stream], argument * 16)
                    self.held[stream] -= size
                    session.consumed(stream, size)
            case 5:
                session.close(stream)
            case 6:
                if session.role is Role.WORKER:
                    session.dns_response(stream, b"answer")
                    session.error(argument, 111, "refused")
                else:
                    session.dns_query(stream + 1, b"question")
                    session.echo(stream + 1, "192.0.2.1", b"ping")
            case 7:
                session.send_udp(stream, "192.0.2.1", argument, bytes(argument))
                session.udp_close(argument % 3)
            case 8:
                self.now += argument / 16
                session.ping() if argument % 2 else session.goaway(503)
            case _:
                if argument % 4 == 3:
                    self.reattach()
                self.send()
        self.check()

    def check(self) -> None:
        session = self.session
        most = STREAMS if session.role is Role.WORKER or not session.peer else session.peer.streams
        assert session.open_streams <= most, "more streams than were allowed"
        assert len(session.datagrams.associations) <= self.settings.associations
        assert session.outbox.control_size <= (1 << 20)
        assert session.unacknowledged <= session.kept_limit + (1 << 20) + 131072
        if session.ready:
            assert session.counted_sent == self.seen, "frames are counted as they are sent"


def _steps(data: bytes) -> list[bytes]:
    """The steps of an input, each with what tells its kind and length."""
    steps, at = [], 1
    while at + 1 < len(data):
        size = 2
        if not data[at] & OWNER:
            size += (data[at] << 8 | data[at + 1]) & 0x7FFF
        steps.append(data[at : at + size])
        at += size
    return steps


def _codec(message: bytes) -> None:
    """What can be read says the same when it is written and read again."""
    try:
        frames = parse(message)
    except ProtocolError as error:
        assert error.status in (1002, 1009) and str(error)
        return
    assert parse(b"".join(frame.encode() for frame in frames)) == frames


def _codec_v1(message: bytes) -> None:
    """What can be read says the same when it is written."""
    with contextlib.suppress(ProtocolError):
        assert parse_v1(message).encode() == message


class FramesTarget:
    """See :class:`tests.fuzz.guided.Target`."""

    name = "frames"

    def traced(self) -> Iterable[Path]:
        return sorted(Path(protocol.__file__).parent.rglob("*.py"))

    def run(self, data: bytes) -> None:
        first = data[0] if data else 0
        steps = [(raw[0], raw[1:]) if raw[0] & OWNER else (0, raw[2:]) for raw in _steps(data)]
        if first & V1:
            messages = [part for kind, part in steps if not kind]
            for message in messages:
                _codec_v1(message)
            return play_v1(bool(first & WORKER), messages)
        role = Role.WORKER if first & WORKER else Role.CLIENT
        owner = Owner(role)
        try:
            if first & GREETED:
                name = None if role is Role.WORKER else "s"
                hello = Hello(udp=True, dns=True, icmp=True, session=name, resume=60)
                owner.receive(hello.encode())
                owner.send()
            for kind, part in steps:
                if kind:
                    owner.act(kind & 0x7F, part[0])
                else:
                    _codec(part)
                    owner.receive(part)
        except ProtocolError as error:
            assert error.status in (1002, 1009) and str(error)
            assert not owner.session.has_output and not owner.session.open_streams
        return None

    def mutate(self, data: bytes, source: random.Random, other: bytes) -> bytes:
        if source.random() < 0.4:  # whole steps: repeated, left out, taken from the other, moved
            steps = _steps(data) or [b"\x00\x00"]
            chosen = source.choice(steps + _steps(other))
            at = source.randrange(len(steps) + 1)
            match source.randrange(4):
                case 0:
                    steps[at:at] = [chosen] * source.choice([1, 1, 2, 8])
                case 1:
                    del steps[at : at + 1]
                case _:
                    steps.insert(at, chosen)
            return ((data[:1] or b"\x03") + b"".join(steps))[:8000]
        raw = bytearray(data or b"\x03")
        where = source.randrange(len(raw))
        match source.randrange(10):
            case 0 | 1 | 2:
                frames = b"".join(_frame(source).encode() for _ in range(1 + source.randrange(2)))
                raw += struct.pack("!H", min(len(frames), 0x7FFF)) + frames[:0x7FFF]
            case 3 | 4:
                raw += bytes([OWNER | source.randrange(10), source.randrange(256)])
            case 5:
                raw[where] = source.randrange(256)
            case 6:
                raw[where] ^= 1 << source.randrange(8)
            case 7:
                value = struct.pack("!I", source.choice(_INTERESTING))
                raw[where : where + 4] = value[source.randrange(4) :]
            case 8:
                del raw[where : where + 1 + source.randrange(16)]
            case _:
                cut = source.randrange(len(other) + 1)
                raw[where:] = other[cut:]
        return bytes(raw[:8000])


def _frame(source: random.Random) -> Frame:
    """A frame that is well-formed, and mostly possible."""
    stream = source.choice([1, 1, 2, 3, source.randrange(8), source.choice(_INTERESTING)])
    stream &= 0xFFFFFFFF
    payload = bytes(source.choice([0, 1, 40, 1400, 1500, 1501]))
    host = source.choice(["192.0.2.1", "2001:db8::1", "host.example", "é"])
    makers = [
        lambda: Connect(stream, host, source.randrange(65536)),
        lambda: Connected(stream),
        lambda: Data(stream, payload),
        lambda: Data(stream, payload),
        lambda: Eof(stream),
        lambda: Close(stream),
        lambda: Error(stream, 111, host),
        lambda: Window(stream, source.choice(_INTERESTING)),
        lambda: Ack(source.randrange(8)),
        lambda: Ping(),
        lambda: Pong(),
        lambda: Hello(
            udp=True,
            dns=True,
            session=source.choice([None, "s"]),
            resume=source.choice([None, 0, 60]),
            received=source.randrange(8),
            keepalive=source.randrange(2),
        ),
        lambda: Udp(stream, host, 53, payload),
        lambda: UdpClose(stream),
        lambda: UdpError(stream, 111, host, 53),
        lambda: DnsQuery(stream, payload),
        lambda: DnsResponse(stream, payload),
        lambda: Echo(stream, host, payload),
        lambda: EchoReply(stream, payload),
        lambda: GoAway(503, host),
        lambda: Unknown(0x60 + source.randrange(16), stream, payload),
    ]
    return source.choice(makers)()
