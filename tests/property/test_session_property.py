"""Two sessions over a wire that delays, under random operations and hostile messages."""

from __future__ import annotations

import random
from collections import deque

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.kits.session import play_v1
from zks_lwip.errors import ProtocolError
from zks_lwip.protocol import (
    Ack,
    Budget,
    Close,
    Connect,
    Connected,
    Data,
    DataReceived,
    DnsAnswerReceived,
    DnsQuery,
    DnsQueryReceived,
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
    Settings,
    StreamClosed,
    StreamOpened,
    StreamReset,
    Udp,
    UdpClose,
    UdpError,
    Unknown,
    Window,
    parse,
    parse_v1,
)
from zks_lwip.protocol.outbox import MAX_DATAGRAM_BYTES, MAX_DNS_BYTES

SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large)  # the machine may be busy
NOISE = random.Random(7).randbytes(1 << 20)


class Pipe:
    """One direction of a stream: what was put in, what came out, and how it ended."""

    def __init__(self) -> None:
        self.put = bytearray()
        self.pulled = 0
        self.came = bytearray()
        self.unconsumed = 0
        self.ended = False
        self.eof_came = False
        self.short = False

    def pull_into(self, view: memoryview) -> int | None:
        size = min(len(view), len(self.put) - self.pulled)
        if self.short:
            size = min(size, 7)
        view[:size] = self.put[self.pulled : self.pulled + size]
        self.pulled += size
        return size if size else None if self.ended else 0


class Wire(RuleBasedStateMachine):
    """Index 0 is the client, 1 the worker; ``pipes[n][id]`` is what n sends."""

    @initialize(
        windows=st.tuples(st.integers(500, 5000), st.integers(500, 200_000)),
        max_data=st.integers(1024, 100_000),
        streams=st.integers(1, 6),
    )
    def start(self, windows: tuple[int, int], max_data: int, streams: int) -> None:
        self.now = 1.0
        self.budget = Budget(500_000)
        self.ends = [
            Session(
                role,
                Settings(
                    window=window,
                    max_data=max_data,
                    max_message=131072,
                    streams=streams,
                    udp=True,
                    dns=True,
                    associations=2,
                    requests=2,
                ),
                clock=lambda: self.now,
                budget=self.budget,
            )
            for role, window in zip(Role, windows, strict=True)
        ]
        for n, end in enumerate(self.ends):
            end.attach(lambda n=n: self.wake(n))  # type: ignore[misc]
        self.awake = [True, False]
        self.wires: list[deque[bytes]] = [deque(), deque()]
        self.pipes: list[dict[int, Pipe]] = [{}, {}]
        self.asked: set[int] = set()
        self.answered = 0
        for _ in range(3):
            for n in (0, 1):
                self.transmit(n, 262144)
                self.deliver(1 - n)
        assert self.ends[0].ready and self.ends[1].ready

    def wake(self, n: int) -> None:
        assert not self.awake[n]
        self.awake[n] = True

    def transmit(self, n: int, limit: int) -> None:
        end = self.ends[n]
        if end.has_output:
            assert self.awake[n]
        message = end.next_message(limit)
        if message is not None:
            assert len(message) <= max(limit, 70_000)
            self.wires[1 - n].append(bytes(message))
        if not end.has_output:
            self.awake[n] = False
        if message is None:
            assert not end.has_output

    def deliver(self, n: int) -> None:
        """One message that is on its way reaches end n; a ProtocolError would be ours."""
        if not self.wires[n]:
            return
        end = self.ends[n]
        for event in end.receive(self.wires[n].popleft()):
            self.happen(n, event)

    def happen(self, n: int, event: Event) -> None:
        end = self.ends[n]
        if isinstance(event, StreamOpened):
            self.pipes[1][event.stream] = pipe = Pipe()
            end.accept(event.stream, pipe)
        elif isinstance(event, DataReceived):
            pipe = self.pipes[1 - n][event.stream]
            assert not pipe.eof_came
            pipe.came += event.payload
            pipe.unconsumed += len(event.payload)
            assert pipe.came == pipe.put[: len(pipe.came)]
        elif isinstance(event, EofReceived):
            pipe = self.pipes[1 - n][event.stream]
            assert pipe.ended and pipe.came == pipe.put
            pipe.eof_came = True
        elif isinstance(event, StreamClosed | StreamReset):
            assert not end.is_open(event.stream)
        elif isinstance(event, DnsQueryReceived):
            end.dns_response(event.request, b"answer")
        elif isinstance(event, DnsAnswerReceived):
            self.answered += 1

    def pick(self, n: int, index: int) -> int | None:
        known = sorted(self.pipes[n])[-6:]
        return known[index % len(known)] if known else None

    @precondition(lambda self: self.ends[0].can_connect)
    @rule()
    def connect(self) -> None:
        pipe = Pipe()
        stream = self.ends[0].connect("host.example", 80, pipe)
        self.pipes[0][stream] = pipe

    @rule(index=st.integers(0, 5))
    def connected(self, index: int) -> None:
        stream = self.pick(1, index)
        if stream is not None:
            self.connect_far_end(stream)

    def connect_far_end(self, stream: int) -> None:
        entry = self.ends[1].streams.open.get(stream)
        if entry is not None and not entry.connected:
            self.ends[1].connected(stream)

    @rule(n=st.integers(0, 1), index=st.integers(0, 5), size=st.integers(0, 300_000))
    def write(self, n: int, index: int, size: int) -> None:
        stream = self.pick(n, index)
        if stream is None or self.pipes[n][stream].ended:
            return
        start = len(self.pipes[n][stream].put) % 1000
        self.pipes[n][stream].put += NOISE[start : start + size]
        self.ends[n].mark_ready(stream)

    @rule(n=st.integers(0, 1), index=st.integers(0, 5))
    def finish(self, n: int, index: int) -> None:
        stream = self.pick(n, index)
        if stream is not None:
            self.pipes[n][stream].ended = True
            self.ends[n].mark_ready(stream)

    @rule(n=st.integers(0, 1), index=st.integers(0, 5), short=st.booleans())
    def sluggish(self, n: int, index: int, short: bool) -> None:
        stream = self.pick(n, index)
        if stream is not None:
            self.pipes[n][stream].short = short

    @rule(n=st.integers(0, 1), index=st.integers(0, 5))
    def close(self, n: int, index: int) -> None:
        stream = self.pick(n, index)
        if stream is not None:
            self.ends[n].close(stream)
            assert not self.ends[n].is_open(stream)

    @rule(index=st.integers(0, 5))
    def fail(self, index: int) -> None:
        stream = self.pick(1, index)
        if stream is not None:
            self.ends[1].error(stream, 104, "reset")

    @rule(n=st.integers(0, 1), index=st.integers(0, 5), part=st.floats(0, 1))
    def consume(self, n: int, index: int, part: float) -> None:
        stream = self.pick(1 - n, index)
        if stream is not None:
            self.take(n, stream, part)

    def take(self, n: int, stream: int, part: float) -> None:
        pipe = self.pipes[1 - n][stream]
        size = int(pipe.unconsumed * part)
        pipe.unconsumed -= size
        self.ends[n].consumed(stream, size)

    @rule(n=st.integers(0, 1), association=st.integers(1, 4), size=st.sampled_from([0, 9, 65507]))
    def datagram(self, n: int, association: int, size: int) -> None:
        self.ends[n].send_udp(association, "192.0.2.1", 53, NOISE[:size])

    @rule(request=st.integers(1, 2**32 - 1))
    def ask(self, request: int) -> None:
        if request not in self.asked and self.ends[0].dns_query(request, NOISE[:40]):
            self.asked.add(request)

    @rule(n=st.integers(0, 1))
    def ping(self, n: int) -> None:
        self.ends[n].ping()

    @rule(n=st.integers(0, 1), limit=st.sampled_from([4096, 16384, 262144]))
    def send(self, n: int, limit: int) -> None:
        self.transmit(n, limit)

    @rule(n=st.integers(0, 1))
    def arrive(self, n: int) -> None:
        self.deliver(n)

    @rule(seconds=st.sampled_from([0.001, 0.1, 30.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def bounded(self) -> None:
        for end in getattr(self, "ends", ()):
            assert end.outbox.datagram_size <= MAX_DATAGRAM_BYTES
            assert end.outbox.dns_size <= MAX_DNS_BYTES
            assert len(end.datagrams.associations) <= 2
            assert end.open_streams <= end.settings.streams
            for identifier in (*end.streams.mux, *end.outbox.windows):
                assert end.is_open(identifier)
            for stream in end.streams.open.values():
                window = stream.window
                places = window.available + window.held + window.consumed + window.due
                assert places == window.size
        if hasattr(self, "budget"):
            assert 0 <= self.budget.used <= self.budget.size

    def teardown(self) -> None:
        """Everything is consumed and delivered: then all that was put in has come out."""
        if not hasattr(self, "ends"):
            return
        idle = 0
        while idle < 3:
            before = sum(len(pipe.came) for pipes in self.pipes for pipe in pipes.values())
            for n in (0, 1):
                while self.ends[n].has_output:
                    self.transmit(n, 262144)
                while self.wires[1 - n]:
                    self.deliver(1 - n)
                for stream in list(self.ends[n].streams.open):
                    self.connect_far_end(stream)
                    if stream in self.pipes[1 - n]:
                        self.take(n, stream, 1.0)
            after = sum(len(pipe.came) for pipes in self.pipes for pipe in pipes.values())
            idle = idle + 1 if after == before else 0
        assert set(self.ends[0].streams.open) == set(self.ends[1].streams.open)
        for stream in self.ends[0].streams.open:
            for pipes in self.pipes:
                assert pipes[stream].came == pipes[stream].put
                assert pipes[stream].eof_came == pipes[stream].ended
        assert self.answered == len(self.asked)
        assert len(self.ends[1].datagrams.queries) == 0
        for end in self.ends:
            end.end()
            assert end.outbox.control_size == 0
        assert self.budget.used == 0


TestWire = Wire.TestCase
TestWire.settings = settings(
    max_examples=60, stateful_step_count=60, deadline=None, suppress_health_check=SLOW
)

# Hostile messages

IDS = st.integers(0, 4)
HOSTS = st.sampled_from(["192.0.2.1", "example.com", "é", "x" * 255])
PAYLOADS = st.binary(max_size=40) | st.sampled_from([NOISE[:1500], NOISE[:2000]])
CODES = st.integers(0, 65535)
FRAMES: st.SearchStrategy[Frame] = st.one_of(
    st.builds(Connect, IDS, HOSTS, CODES),
    st.builds(Data, IDS, PAYLOADS),
    st.builds(Close, IDS),
    st.builds(Error, IDS, CODES, st.text(max_size=20)),
    st.builds(Ping),
    st.builds(Pong),
    st.builds(Udp, IDS, HOSTS, CODES, PAYLOADS),
    st.builds(DnsQuery, IDS, PAYLOADS),
    st.builds(DnsResponse, IDS, PAYLOADS),
    st.builds(Connected, IDS),
    st.builds(Hello),
    st.builds(Eof, IDS),
    st.builds(Window, IDS, st.integers(0, 2**32 - 1)),
    st.builds(Ack, st.integers(0, 2**64 - 1) | IDS),
    st.builds(UdpClose, IDS),
    st.builds(Echo, IDS, HOSTS, PAYLOADS),
    st.builds(EchoReply, IDS, PAYLOADS),
    st.builds(GoAway, CODES, st.text(max_size=20)),
    st.builds(UdpError, IDS, CODES, HOSTS, CODES),
    st.builds(Unknown, st.integers(0x49, 0x7F), IDS, PAYLOADS),
)


@given(FRAMES)
@settings(deadline=None, suppress_health_check=SLOW)
def test_every_frame_comes_back(frame: Frame) -> None:
    assert parse(frame.encode()) == [frame]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Frames whose bytes were changed, cut, or were never frames."""
    data = bytearray(b"".join(f.encode() for f in draw(st.lists(FRAMES, max_size=6))))
    data += draw(st.binary(max_size=10))
    for _ in range(draw(st.integers(0, 4))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


@given(st.sampled_from(Role), st.booleans(), st.lists(mutated(), min_size=1, max_size=4))
@settings(max_examples=300, deadline=None, suppress_health_check=SLOW)
def test_hostile_messages(role: Role, greeted: bool, messages: list[bytes]) -> None:
    ours = Settings(window=3000, max_data=1500, streams=2, associations=2, requests=2, udp=True)
    end = Session(role, ours)
    end.attach()
    end.next_message()
    if greeted:
        end.receive(Hello(udp=True, dns=True).encode())
        end.next_message()
        if role is Role.CLIENT:
            end.connect("h", 1, Pipe())
            end.next_message()
            end.receive(Connected(1).encode())
    for message in messages:
        try:
            for event in end.receive(message):
                assert isinstance(event, Event)
                if isinstance(event, StreamOpened):
                    end.accept(event.stream, Pipe())
                    end.connected(event.stream)
                    end.mark_ready(event.stream)
                if isinstance(event, DnsQueryReceived):
                    end.dns_response(event.request, b"")
                if isinstance(event, DataReceived):
                    end.consumed(event.stream, len(event.payload))
        except ProtocolError as error:
            assert error.status in (1002, 1009) and str(error)
            assert not end.has_output and not end.open_streams
            break
        assert end.open_streams <= 2
        while (answer := end.next_message()) is not None:
            parse(answer)


@given(mutated())
@settings(deadline=None, suppress_health_check=SLOW)
def test_hostile_v1_messages(message: bytes) -> None:
    try:
        frame = parse_v1(message)
    except ProtocolError:
        return
    assert frame.encode() == message


@given(st.booleans(), st.lists(mutated() | FRAMES.map(lambda f: f.encode()), max_size=8))
@settings(max_examples=200, deadline=None, suppress_health_check=SLOW)
def test_hostile_v1_peers(client: bool, messages: list[bytes]) -> None:
    play_v1(not client, messages, NOISE[:40])
