"""Two sessions whose WebSocket is lost at any moment, at either end first, and resumed or not."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from tests.property.test_session_property import NOISE, SLOW, Wire
from zks_lwip.protocol import (
    Budget,
    DatagramReceived,
    DnsAnswerReceived,
    EofReceived,
    Event,
    Role,
    Session,
    SessionReady,
    SessionResumed,
    Settings,
    StreamClosed,
    StreamConnected,
    StreamOpened,
    StreamReset,
    first_hello,
)

_ONCE = (StreamOpened, StreamConnected, EofReceived, StreamClosed, StreamReset)
_LARGEST = 262144


class Lossy(Wire):
    """As :class:`Wire`, over one WebSocket after another. Each is a number and has two queues."""

    @initialize(
        windows=st.tuples(st.integers(500, 5000), st.integers(500, 400_000)),
        max_data=st.integers(1024, 100_000),
        streams=st.integers(1, 6),
        spare=st.sampled_from([0, 1_000_000, 4_000_000]),
    )
    def start(  # type: ignore[override]
        self, windows: tuple[int, int], max_data: int, streams: int, spare: int
    ) -> None:
        self.now = 1.0
        self.budget = Budget(500_000)
        self.kept_budget = Budget(spare)
        self.settings = [
            Settings(
                window=window,
                max_data=max_data,
                max_message=131072,
                streams=streams,
                udp=True,
                dns=True,
                associations=2,
                requests=2,
                resume=60,
                max_kept=262144,
            )
            for window in windows
        ]
        self.ends = [self.make(role) for role in Role]
        self.awake = [False, False]
        self.pipes = [{}, {}]
        self.asked: set[int] = set()
        self.unanswered: set[int] = set()
        self.answered = 0
        self.on: list[int | None] = [None, None]  # the WebSocket that an end is attached to
        self.last = 0
        self.calls: list[int] = []  # those that the worker has not seen a HELLO on
        self.queues: dict[tuple[int, int], deque[bytes]] = {}  # by the WebSocket and who receives
        self.half: list[Iterator[Event | None] | None] = [None, None]
        self.happened: list[Counter[tuple[type, int]]] = [Counter(), Counter()]
        self.rebuild()

    def make(self, role: Role) -> Session:
        return Session(
            role,
            self.settings[list(Role).index(role)],
            clock=lambda: self.now,
            budget=self.budget,
            kept_budget=self.kept_budget,
        )

    # The WebSockets

    def attach(self, n: int, socket: int) -> None:
        self.on[n] = socket
        self.awake[n] = n == 0
        self.ends[n].attach(lambda: self.wake(n))

    @precondition(lambda self: self.on[0] is None)
    @rule()
    def dial(self) -> None:
        self.last += 1
        self.queues[self.last, 0] = deque()
        self.queues[self.last, 1] = deque()
        self.calls.append(self.last)
        self.attach(0, self.last)

    @rule()
    def answer(self) -> None:
        """A HELLO reaches the worker, which may not have noticed that the old WebSocket is lost."""
        if not self.calls:
            return
        socket = self.calls[0]
        queue = self.queues[socket, 1]
        if not queue:
            if self.on[0] != socket:
                self.calls.pop(0)  # it was lost before it said a thing
            return
        self.calls.pop(0)
        message = queue.popleft()
        hello = first_hello(message)
        if hello.session is not None and hello.session == self.ends[1].id:
            if self.ends[1].detach():
                self.half[1] = None
                self.attach(1, socket)
                self.take_all(1, self.ends[1].receive(message))
                return
        self.ends[1].end()
        self.ends[1] = self.make(Role.WORKER)
        self.pipes[1] = {}
        self.happened[1].clear()
        self.half[1] = None
        self.attach(1, socket)
        self.take_all(1, self.ends[1].receive(message))

    @rule(n=st.integers(0, 1))
    def lose(self, n: int) -> None:
        """End n finds its WebSocket lost, with all that is on the way to it."""
        socket = self.on[n]
        end = self.ends[n]
        if socket is None or not end.resumable:
            return
        assert end.detach() and not end.attached and end.resumable
        assert not end.has_output and end.next_message() is None and not end.ready
        self.on[n] = None
        for message in self.queues.pop((socket, n), ()):
            assert end.receive(message) == []
        self.queues[socket, n] = deque()
        if (half := self.half[n]) is not None:
            self.half[n] = None
            left = list(half)  # of the frame that was taken last; what came behind it is not taken
            assert not left or isinstance(left[-1], SessionReady | DatagramReceived)
            self.take_all(n, left)

    @rule(often=st.integers(0, 15))
    def forget(self, often: int) -> None:
        """The worker does not hold the session any more; this is rare."""
        if often:
            return
        self.ends[1].end()
        self.on[1] = None
        self.half[1] = None

    @rule(
        rounds=st.integers(1, 6),
        lost=st.tuples(*[st.integers(0, 3)] * 2),
        limit=st.sampled_from([4096, 16384, 262144]),
        open_up=st.booleans(),
    )
    def go_on(self, rounds: int, lost: tuple[int, int], limit: int, open_up: bool) -> None:
        """Much happens, then a WebSocket is lost with some messages on it, and resumed."""
        if self.on[0] is None:
            self.dial()
        for step in range(rounds):
            for n in (0, 1):
                for _ in range(2):
                    self.transmit(n, limit)
                self.answer()
                if open_up:
                    for stream in list(self.ends[1].streams.open):
                        self.connect_far_end(stream)
                if step < rounds - 1:
                    self.drain(1 - n)
        for n in (0, 1):
            self.arrive_in_part(n, 1 + lost[n])
            if lost[n] > 1:
                self.lose(n)

    # What goes over them

    def transmit(self, n: int, limit: int) -> None:
        end = self.ends[n]
        socket = self.on[n]
        if end.has_output:
            assert socket is not None and (self.awake[n] or end.deadline is not None)
        message = end.next_message(limit)
        if message is not None:
            assert socket is not None and len(message) <= 131072
            self.queues[socket, 1 - n].append(bytes(message))
        if not end.has_output:
            self.awake[n] = False
        if message is None:
            assert not end.has_output

    def deliver(self, n: int) -> None:
        if (half := self.half[n]) is not None:
            self.half[n] = None
            self.take_all(n, half)
            return
        socket = self.on[n]
        if socket is not None and (queue := self.queues[socket, n]):
            self.take_all(n, self.ends[n].receive(queue.popleft()))

    @rule(n=st.integers(0, 1), events=st.integers(1, 5))
    def arrive_in_part(self, n: int, events: int) -> None:
        socket = self.on[n]
        if self.half[n] is not None or socket is None or not (queue := self.queues[socket, n]):
            return
        work = self.ends[n].work_through(queue.popleft())
        self.half[n] = work
        for _ in range(events):
            event = next(work, self)
            if event is self:
                self.half[n] = None
                return
            self.take_all(n, [event])  # type: ignore[list-item]

    def take_all(self, n: int, events: Iterator[Event | None] | list[Event]) -> None:
        for event in events:
            if event is not None:
                self.happen(n, event)

    def happen(self, n: int, event: Event) -> None:
        if isinstance(event, _ONCE):
            self.happened[n][type(event), event.stream] += 1
            assert self.happened[n][type(event), event.stream] == 1
        if n == 0 and isinstance(event, SessionReady):
            end = self.ends[0]
            self.pipes[0] = {id: pipe for id, pipe in self.pipes[0].items() if end.is_open(id)}
        if n == 0 and isinstance(event, SessionReady | SessionResumed) and self.ends[0].ready:
            for request in self.unanswered:
                assert self.ends[0].dns_query(request, NOISE[:40])
        if isinstance(event, DnsAnswerReceived):
            self.unanswered.discard(event.request)
        super().happen(n, event)

    @rule(request=st.integers(1, 2**32 - 1))
    def ask(self, request: int) -> None:
        if request not in self.asked and self.ends[0].dns_query(request, NOISE[:40]):
            self.asked.add(request)
            self.unanswered.add(request)

    @invariant()
    def bounded(self) -> None:
        super().bounded()
        for end in getattr(self, "ends", ()):
            assert end.unacknowledged <= end.kept_limit + (1 << 20) + _LARGEST
            assert end.kept_limit <= 262144
            assert (end.unacknowledged_since or 0.0) <= self.now
        if hasattr(self, "kept_budget"):
            kept = sum(end.unacknowledged for end in self.ends)
            assert (
                kept
                <= self.kept_budget.used
                <= kept * 4 + 300 * self.ends[0].counted_sent + (300 * self.ends[1].counted_sent)
            )

    # The end

    def rebuild(self) -> None:
        """Have both ends on one WebSocket, with their HELLOs exchanged."""
        if self.on[0] is None or self.on[0] != self.on[1]:
            self.lose(0)
            if self.on[0] is None:
                self.dial()
        for _ in range(4):
            for n in (0, 1):
                while self.ends[n].has_output:
                    self.transmit(n, _LARGEST)
                while self.calls:
                    self.answer()
                self.drain(1 - n)
        assert self.ends[0].ready and self.ends[1].ready
        assert self.ends[0].id == self.ends[1].id

    def drain(self, n: int) -> None:
        socket = self.on[n]
        while socket is not None and (self.half[n] is not None or self.queues[socket, n]):
            self.deliver(n)

    def teardown(self) -> None:
        if not hasattr(self, "ends"):
            return
        self.rebuild()
        idle = 0
        while idle < 3:
            before = sum(len(pipe.came) for pipes in self.pipes for pipe in pipes.values())
            self.now += 0.2
            for n in (0, 1):
                while self.ends[n].has_output:
                    self.transmit(n, _LARGEST)
                self.drain(1 - n)
                for stream in list(self.ends[n].streams.open):
                    self.connect_far_end(stream)
                    if stream in self.pipes[1 - n]:
                        self.take(n, stream, 1.0)
            after = sum(len(pipe.came) for pipes in self.pipes for pipe in pipes.values())
            idle = idle + 1 if after == before else 0
        assert set(self.ends[0].streams.open) == set(self.ends[1].streams.open)
        for stream, theirs in self.ends[1].streams.open.items():
            ours = self.ends[0].streams.open[stream]
            for receiver, sender in ((ours, theirs), (theirs, ours)):
                if not receiver.eof_taken:
                    assert sender.credit == receiver.window.available
            for pipes in self.pipes:
                assert pipes[stream].came == pipes[stream].put
                assert pipes[stream].eof_came == pipes[stream].ended
        assert not self.unanswered and len(self.ends[1].datagrams.queries) == 0
        for end, other in ((self.ends[0], self.ends[1]), (self.ends[1], self.ends[0])):
            assert end.counted_sent == other.counted_taken
            assert end.unacknowledged == 0 and end.unacknowledged_since is None
        for end in self.ends:
            end.end()
        assert self.budget.used == 0 and self.kept_budget.used == 0


TestLossy = Lossy.TestCase
TestLossy.settings = settings(
    max_examples=200, stateful_step_count=60, deadline=None, suppress_health_check=SLOW
)
