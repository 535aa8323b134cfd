"""What is kept of the messages that were sent, against a list of frames; and streams over cuts."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.property.test_session_property import SLOW
from zks_lwip.protocol import (
    Ack,
    Budget,
    Close,
    Connect,
    Connected,
    Data,
    DataReceived,
    Eof,
    EofReceived,
    Error,
    Event,
    Frame,
    Role,
    Session,
    SessionReady,
    Settings,
    StreamOpened,
    Unknown,
    Window,
    parse,
)
from zks_lwip.protocol.kept import Kept

COUNTED = st.one_of(
    st.builds(Connect, st.just(1), st.text("ab", min_size=1, max_size=9), st.just(80)),
    st.builds(Data, st.just(2), st.binary(max_size=20) | st.just(bytes(5000))),
    st.builds(Close, st.just(3)),
    st.builds(Error, st.just(4), st.just(104), st.text(max_size=9)),
    st.builds(Connected, st.just(5)),
    st.builds(Eof, st.just(6)),
    st.builds(Window, st.just(7), st.integers(0, 9)),
    st.builds(Unknown, st.integers(0x60, 0x7F), st.just(8), st.binary(max_size=9)),
)


@given(
    st.lists(st.tuples(st.lists(COUNTED, min_size=1, max_size=5), st.integers(0, 60))),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 9), st.integers(10, 6000)), max_size=6),
)
@settings(max_examples=300, deadline=None, suppress_health_check=SLOW)
def test_exactly_what_is_not_acknowledged_is_sent_again(
    messages: list[tuple[list[Frame], int]], cuts: list[tuple[float, int, int]]
) -> None:
    budget = Budget()
    kept = Kept(1 << 20, budget)
    frames: list[Frame] = []
    for number, (counted, before) in enumerate(messages):
        head = Ack(0).encode() * (before // 10) + b"\5" * (before % 10)
        message = bytearray(head + b"".join(frame.encode() for frame in counted))
        frames += counted
        kept.was_sent()
        kept.put(message, len(head), len(frames), float(number))
    acknowledged = 0
    for part, again, limit in cuts:
        acknowledged += int((len(frames) - acknowledged) * part)
        kept.resume(acknowledged)
        sent = acknowledged
        for _ in range(again):
            if not kept.unsent:
                break
            assert kept.next_length == len(frames[sent].encode())
            view, number = kept.send_again(limit, 100.0)
            assert len(view) <= limit or number == 1
            assert parse(view) == frames[sent : sent + number]
            sent += number
        assert kept.size == sum(len(frame.encode()) for frame in frames[acknowledged:])
        assert bool(kept.unsent) is (sent < len(frames))
        # An ACK, which may be for what was not sent again
        acknowledged += int((len(frames) - acknowledged) * part)
        kept.acknowledge(acknowledged, 101.0)
        if sent > acknowledged or sent == len(frames):
            assert bool(kept.unsent) is (sent < len(frames))
        if kept.unsent:
            assert kept.next_length == len(frames[max(sent, acknowledged)].encode())
    assert budget.used == kept.cost >= 0
    kept.acknowledge(len(frames), 102.0)
    assert kept.size == kept.cost == budget.used == 0 and kept.since is None and not kept.unsent


class Flow:
    """One direction of a stream whose bytes follow from their place."""

    def __init__(self, seed: int, total: int) -> None:
        self.data = random.Random(seed).randbytes(total)
        self.pulled = 0
        self.came = bytearray()
        self.ended = False

    def pull_into(self, view: memoryview) -> int | None:
        size = min(len(view), len(self.data) - self.pulled)
        view[:size] = self.data[self.pulled : self.pulled + size]
        self.pulled += size
        return size if size else None


def _invert(buffer: bytearray) -> None:
    buffer[:] = buffer.translate(_INVERTED)


_INVERTED = bytes(255 - byte for byte in range(256))


def _act(end: Session, flows: dict[int, Flow], answers: dict[int, Flow], event: Event) -> None:
    """Own one end: take what comes for ``flows``, send ``answers``."""
    if isinstance(event, StreamOpened):
        end.accept(event.stream, answers[event.stream])
        end.connected(event.stream)
        end.mark_ready(event.stream)
    elif isinstance(event, DataReceived):
        flows[event.stream].came += event.payload
        end.consumed(event.stream, len(event.payload))
    elif isinstance(event, EofReceived):
        assert not flows[event.stream].ended
        flows[event.stream].ended = True


@given(st.integers(0, 2**32))
@settings(max_examples=40, deadline=None, suppress_health_check=SLOW)
def test_bulk_streams_survive_every_cut(seed: int) -> None:
    """Both ends send, much is under way, and a message is taken, taken in part, or lost."""
    chance = random.Random(seed)
    now = [1.0]
    budget = Budget(chance.choice([0, 3_000_000]))
    ours = Settings(resume=60, max_kept=262144, window=chance.choice([9000, 500_000]))
    client = Session(Role.CLIENT, ours, clock=lambda: now[0], kept_budget=budget)
    worker = Session(Role.WORKER, ours, clock=lambda: now[0], kept_budget=budget)
    up = {n: Flow(n, chance.choice([10, 20_000, 1_500_000])) for n in (1, 2, 3)}
    down = {n: Flow(n + 9, chance.choice([0, 20_000, 1_500_000])) for n in (1, 2, 3)}
    cuts = 0
    limits = [4096, 16384, 131072, 262144]
    for round_ in range(3000):
        if not client.attached:
            client.attach()
            worker.attach()
        lose = round_ < 200 and not chance.randrange(8)
        for end, other in ((client, worker), (worker, client)):
            others = (up, down) if other is worker else (down, up)
            for _ in range(chance.randrange(1, 4)):
                message = end.next_message(chance.choice(limits))
                if message is None:
                    break
                work = other.work_through(bytes(message))
                if chance.randrange(2):  # as a client masks it
                    end.message_changed(_invert)
                    _invert(message)
                left = chance.randrange(4) if lose else None  # events; then it is cut
                for event in work:
                    if event is not None:
                        if isinstance(event, SessionReady) and other is client:
                            for n in up:
                                assert client.connect("h", n, up[n]) == n
                                client.mark_ready(n)
                        _act(other, *others, event)
                    if left is not None:
                        left -= 1
                        if left <= 0:
                            break
                if left is not None and client.resumable and worker.resumable:
                    assert client.detach() and worker.detach()
                    cuts += 1
                    for event in work:  # what was taken together with the last one
                        if event is not None:
                            _act(other, *others, event)
                    break
            if not client.attached:
                break
        now[0] += 0.03
        done = all(flow.ended for flows in (up, down) for flow in flows.values())
        if done and not (client.unacknowledged or worker.unacknowledged):
            break
    resends = client.stats.bytes_resent + worker.stats.bytes_resent
    for flows in (up, down):
        for flow in flows.values():
            assert flow.came == flow.data and flow.ended
    assert client.resumes <= cuts and (resends or not cuts or round_ < 200)
    assert not client.open_streams and not worker.open_streams and budget.used == 0
