"""The TCP bridge: what each side is told, and that no byte is lost, kept or paid for twice."""

from __future__ import annotations

import logging
import random
from typing import Any

import pytest
from zks_lwip._lwip import ffi

from tests.kits.gateway import FakeFlow, FakeStream, FakeTunnel
from tests.kits.session import connected_client, drain
from zks_lwip.gateway.counters import GatewayCounters
from zks_lwip.gateway.flow_table import HELD_SECONDS, FlowTable
from zks_lwip.gateway.policy import FlowPolicy
from zks_lwip.gateway.tcp import ORPHAN_SECONDS, TcpBridge
from zks_lwip.protocol import Data, DataReceived, Session
from zks_lwip.stack import Reject


class Bench:
    def __init__(self, limit: int = 10) -> None:
        self.counters = GatewayCounters()
        self.table = FlowTable(limit, self.counters, lambda: self.now)
        self.tunnel = FakeTunnel()
        self.now = 0.0

    def open(self, *, fast: bool = False) -> tuple[FakeFlow, FakeStream]:
        flow = FakeFlow()
        bridge = TcpBridge(flow, self.table)  # type: ignore[arg-type]
        bridge.start(self.tunnel, FlowPolicy(), fast_connect=fast)
        return flow, self.tunnel.streams[-1]

    def connected(self) -> tuple[FakeFlow, FakeStream]:
        flow, stream = self.open()
        stream.peer.on_connected()
        flow.handler.on_established()
        return flow, stream


def pull(stream: FakeStream, size: int = 4096) -> bytes | None:
    buffer = bytearray(size)
    count = stream.peer.pull_into(memoryview(buffer))
    return None if count is None else bytes(buffer[:count])


def test_the_syn_is_held_until_the_far_end_has_connected() -> None:
    bench = Bench()
    flow, stream = bench.open()
    assert (stream.host, stream.port) == ("192.0.2.1", 80)
    assert flow.log == [] and bench.table.held == 1
    flow.incoming += b"of a SYN that is only held"
    assert pull(stream) == b""
    stream.peer.on_connected()
    assert flow.log == ["accept"] and bench.table.held == 0 and len(bench.table) == 1


def test_fast_connect_accepts_first() -> None:
    bench = Bench()
    flow, stream = bench.open(fast=True)
    assert flow.log == ["accept"]
    flow.incoming += b"early"
    flow.handler.on_readable()
    assert stream.ready == 1 and pull(stream) == b"early"
    stream.peer.on_connected()
    assert flow.log == ["accept"]
    stream.peer.on_end(111, "refused")
    assert flow.log == ["accept", "abort"]


@pytest.mark.parametrize(
    ("code", "how"),
    [
        (101, Reject.NET_UNREACHABLE),
        (104, Reject.RST),
        (110, Reject.SILENT),
        (111, Reject.RST),
        (113, Reject.HOST_UNREACHABLE),
        (403, Reject.PROHIBITED),
        (429, Reject.SILENT),
        (502, Reject.HOST_UNREACHABLE),
        (503, Reject.SILENT),
        (0, Reject.RST),
        (999, Reject.HOST_UNREACHABLE),
    ],
)
def test_an_error_before_the_connection_is_seen_as_what_it_is(code: int, how: Reject) -> None:
    bench = Bench()
    flow, stream = bench.open()
    stream.peer.on_end(code, "why")
    assert flow.log == [how]
    assert len(bench.table) == 0 and bench.counters.refused == {code: 1}
    stream.peer.on_end(code, "again")
    assert flow.log == [how]


@pytest.mark.parametrize("code", [101, 503])
def test_a_tunnel_that_stays_down_is_a_network_that_is_down(code: int) -> None:
    """At once: what waits for a SYN that is sent again waits for nothing."""
    bench = Bench()
    flow, stream = bench.open()
    bench.tunnel.hopeless = True
    stream.peer.on_end(code, "no channel to the worker")
    assert flow.log == [Reject.NET_UNREACHABLE]


def test_a_tunnel_that_refuses_at_once_is_no_trouble() -> None:
    bench = Bench()
    bench.tunnel.end_at_once = 503
    flow, stream = bench.open()
    assert flow.log == [Reject.SILENT] and stream.closed == 1 and len(bench.table) == 0


@pytest.mark.parametrize("code", [0, 104, 503])
def test_an_end_after_the_connection_is_a_reset(code: int) -> None:
    bench = Bench()
    flow, stream = bench.connected()
    stream.peer.on_end(code, "")
    assert flow.log == ["accept", "abort"] and len(bench.table) == 0
    flow.handler.on_reset()
    assert stream.closed == 0


def test_credit_is_given_back_only_for_what_the_stack_took() -> None:
    bench = Bench()
    flow, stream = bench.connected()
    flow.room = 3
    stream.peer.on_data(memoryview(b"abcdef"))
    stream.peer.on_data(memoryview(b"ghi"))
    assert flow.delivered == b"abc" and stream.credit == 3
    flow.handler.on_writable()
    assert stream.credit == 3
    flow.room = 4
    flow.handler.on_writable()
    assert flow.delivered == b"abcdefg" and stream.credit == 7
    flow.room = 100
    flow.handler.on_writable()
    assert flow.delivered == b"abcdefghi" and stream.credit == 9
    assert bench.counters.bytes_down == 9


class SessionStream(FakeStream):
    """Stream 1 of a real session, in which C moves bytes as soon as it is told to."""

    session: Session

    def bind(self, target: Any, handle: int, **directions: bool) -> None:
        self.session.bind(1, target, handle, **directions)

    def unbind(self) -> None:
        self.session.unbind(1)

    def consumed(self, n: int) -> None:
        super().consumed(n)
        self.session.consumed(1, n)


def test_c_moves_bytes_as_soon_as_the_connection_is_accepted() -> None:
    bench = Bench()
    flow, stream = bench.open()
    flow.target = "what C calls", 7
    assert not stream.bound
    stream.peer.on_connected()
    assert stream.bound == {"pull": flow.target, "push": flow.target}


class SessionTunnel(FakeTunnel):
    def open_stream(self, host: str, port: int, peer: Any, *, marked: bool = True) -> FakeStream:
        self.streams.append(SessionStream(host, port, peer))
        return self.streams[-1]


@pytest.mark.parametrize("seed", range(10))
def test_bytes_stay_in_order_whether_c_moves_them_or_the_bridge(seed: int) -> None:
    """The stack's own thread makes room at any time, and tells of it later."""
    chance = random.Random(seed)
    bench = Bench()
    bench.tunnel = SessionTunnel()
    flow, stream = bench.connected()
    assert isinstance(stream, SessionStream)
    session = stream.session = connected_client()
    by_c = 0

    @ffi.callback("int64_t(void *, uint64_t, const uint8_t *, size_t)")
    def push(_context: object, _handle: int, data: Any, length: int) -> int:
        nonlocal by_c
        taken = flow.push(bytes(ffi.buffer(data, length)))
        by_c += taken
        return taken

    flow.target = ffi.new("struct zks_mux_target *", {"push": push}), 7
    sent = b""
    for _ in range(300):
        frames = []
        for _ in range(chance.randint(1, 5)):
            data = chance.randbytes(chance.choice([1, 20, 300]))
            frames.append(Data(1, data).encode())
            sent += data
        flow.room = chance.choice([0, 10, 200, 1000])
        for event in session.work_through(b"".join(frames)):
            if chance.random() < 0.5:
                flow.room = chance.choice([0, 10, 200, 1000])
            if isinstance(event, DataReceived):
                stream.peer.on_data(event.payload)
        if chance.random() < 0.5:
            flow.room = 1000
            flow.handler.on_writable()
        drain(session)
        assert sent.startswith(flow.delivered)
    flow.room = 1 << 30
    flow.handler.on_writable()
    assert flow.delivered == sent
    assert by_c and stream.credit


def test_what_is_kept_is_a_copy() -> None:
    bench = Bench()
    flow, stream = bench.connected()
    flow.room = 0
    message = bytearray(b"abc")
    stream.peer.on_data(memoryview(message))
    message[:] = b"xyz"
    flow.room = 10
    flow.handler.on_writable()
    assert flow.delivered == b"abc"


def test_data_that_came_with_connected_waits_for_the_handshake() -> None:
    bench = Bench()
    flow, stream = bench.open()
    flow.room = 0
    stream.peer.on_connected()
    stream.peer.on_data(memoryview(b"SSH-2.0"))
    stream.peer.on_eof()
    assert flow.log == ["accept"]
    flow.room = 100
    flow.handler.on_established()
    assert flow.delivered == b"SSH-2.0" and flow.log == ["accept", "eof"]


def test_half_close_by_the_far_end_first() -> None:
    bench = Bench()
    flow, stream = bench.connected()
    flow.room = 1
    stream.peer.on_data(memoryview(b"ab"))
    stream.peer.on_eof()
    assert flow.log == ["accept"]  # FIN stays behind the byte that is kept
    flow.room = 1
    flow.handler.on_writable()
    assert flow.log == ["accept", "eof"]
    flow.incoming += b"still talking"
    flow.handler.on_readable()
    assert pull(stream) == b"still talking"
    flow.fin = True
    flow.handler.on_readable()
    assert pull(stream) is None
    assert len(bench.table) == 1
    flow.handler.on_closed()
    assert flow.log == ["accept", "eof", "close"]  # the stack may forget it
    assert len(bench.table) == 0 and stream.closed == 0


def test_half_close_by_the_application_first() -> None:
    bench = Bench()
    flow, stream = bench.connected()
    flow.incoming += b"request"
    flow.fin = True
    flow.handler.on_readable()
    assert pull(stream, 4) == b"requ" and pull(stream) == b"est"
    assert pull(stream) is None and pull(stream) is None
    stream.peer.on_data(memoryview(b"answer"))
    stream.peer.on_eof()
    assert flow.delivered == b"answer" and flow.log == ["accept", "eof"]
    flow.handler.on_closed()
    assert len(bench.table) == 0 and stream.closed == 0


def test_what_was_sent_before_the_fin_is_still_pulled_when_the_stack_is_done() -> None:
    bench = Bench()
    flow, stream = bench.connected()
    stream.peer.on_eof()
    flow.incoming += b"last words"
    flow.fin = True
    flow.handler.on_closed()
    assert stream.ready == 1 and len(bench.table) == 1
    assert pull(stream) == b"last words" and pull(stream) is None
    assert len(bench.table) == 0 and stream.closed == 0


def test_what_an_application_that_is_gone_has_left_is_pulled_before_the_stream_is_closed() -> None:
    """It has sent its FIN, and its kernel has forgotten it; the far end has not finished."""
    bench = Bench()
    flow, stream = bench.connected()
    flow.incoming += b"last words"
    flow.fin = True
    flow.handler.on_closed()
    for _ in range(3):
        bench.now += ORPHAN_SECONDS * 0.9
        bench.table.expire(bench.now)
        assert stream.closed == 0 and len(bench.table) == 1
        assert len(pull(stream, 2) or b"") == 2
    flow.room = 0
    stream.peer.on_data(memoryview(b"too late"))
    assert stream.credit == 0
    assert pull(stream) == b"ords" and pull(stream) is None
    assert stream.closed == 0  # its EOF has yet to leave
    bench.table.expire(bench.now)
    assert stream.closed == 1 and len(bench.table) == 0
    assert flow.log == ["accept", "close"]


def test_what_an_application_that_is_gone_has_left_is_not_kept_for_ever() -> None:
    bench = Bench()
    flow, stream = bench.connected()
    flow.incoming += b"never taken"
    flow.fin = True
    flow.handler.on_closed()
    bench.now += ORPHAN_SECONDS - 1
    bench.table.expire(bench.now)
    assert len(bench.table) == 1
    bench.now += 1
    bench.table.expire(bench.now)
    assert stream.closed == 1 and len(bench.table) == 0
    assert flow.log == ["accept", "abort"]


def test_the_end_of_a_stream_that_ended_both_ways_resets_nothing() -> None:
    bench = Bench()
    flow, stream = bench.connected()
    flow.fin = True
    assert pull(stream) is None
    flow.room = 0
    stream.peer.on_data(memoryview(b"rest"))
    stream.peer.on_eof()
    stream.peer.on_end(503, "session lost")
    assert "abort" not in flow.log
    flow.room = 10
    flow.handler.on_writable()
    assert flow.delivered == b"rest" and flow.log[-1] == "eof"


@pytest.mark.parametrize("connected", [False, True])
def test_a_reset_by_the_application_closes_the_stream(connected: bool) -> None:
    bench = Bench()
    flow, stream = bench.connected() if connected else bench.open()
    flow.handler.on_reset()
    assert stream.closed == 1 and len(bench.table) == 0
    before = list(flow.log)
    stream.peer.on_connected()
    stream.peer.on_data(memoryview(b"late"))
    stream.peer.on_eof()
    stream.peer.on_end(0, "")
    assert pull(stream) == b"" and flow.log == before and flow.delivered == b""
    assert stream.credit == 0


@pytest.mark.parametrize("fast", [False, True])
def test_a_stack_without_memory_ends_one_connection_only(fast: bool) -> None:
    bench = Bench()
    flow = FakeFlow()
    flow.memory = False
    bridge = TcpBridge(flow, bench.table)  # type: ignore[arg-type]
    bridge.start(bench.tunnel, FlowPolicy(), fast_connect=fast)
    if not fast:
        bench.tunnel.streams[0].peer.on_connected()
        assert bench.tunnel.streams[0].closed == 1
    assert len(bench.table) == 0 and len(bench.tunnel.streams) == (0 if fast else 1)


def test_over_the_limit_the_oldest_held_one_makes_room() -> None:
    bench = Bench(limit=2)
    first, first_stream = bench.open()
    second, second_stream = bench.open()
    assert bench.table.make_room()
    assert first.log == [Reject.SILENT] and first_stream.closed == 1
    bench.open()[1].peer.on_connected()
    second_stream.peer.on_connected()
    assert not bench.table.make_room()
    assert second.log == ["accept"] and bench.counters.flows_over_limit == 2


def test_a_syn_is_not_held_for_ever() -> None:
    bench = Bench()
    old, old_stream = bench.open()
    bench.now = HELD_SECONDS / 2
    young, _ = bench.open()
    bench.table.expire(HELD_SECONDS)
    assert old.log == [Reject.SILENT] and old_stream.closed == 1
    assert young.log == [] and len(bench.table) == 1


def test_each_connection_has_a_line_for_its_beginning_and_one_for_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def lines(level: int = logging.DEBUG) -> list[str]:
        caplog.clear()
        caplog.set_level(level, "zks_lwip")
        bench = Bench()
        ended = [bench.connected() for _ in range(3)]
        bench.now += 2.5
        ended[0][1].peer.on_end(104, "reset")
        ended[1][0].handler.on_reset()
        ended[2][0].fin = True
        assert pull(ended[2][1]) is None
        ended[2][1].peer.on_eof()
        ended[2][0].handler.on_closed()
        bench.open()[1].peer.on_end(111, "refused")
        bench.open()[0].handler.on_reset()
        bench.open()
        bench.now += HELD_SECONDS
        bench.table.expire(bench.now)
        assert len(bench.table) == 0
        left, stream = bench.connected()
        left.incoming += b"left"
        left.fin = True
        bench.now += 2.5
        left.handler.on_closed()
        bench.now += 2.5
        assert pull(stream) == b"left" and pull(stream) is None
        bench.table.expire(bench.now)
        assert len(bench.table) == 0
        return [record.message for record in caplog.records if "192.0.2.1:80" in record.message]

    told = lines()
    assert len(told) == 14 and sum("asked for" in line for line in told) == 7
    ends = [line.partition("192.0.2.1:80: ")[2] for line in told if "asked for" not in line]
    assert ends == [
        "reset by the far end (104 reset), after 2.5 s",
        "reset by the application, after 2.5 s",
        "closed, after 2.5 s",
        "refused by the far end (111 refused), after 0.0 s",
        "given up by the application, after 0.0 s",
        f"without an answer for too long, or too many wait, after {HELD_SECONDS} s",
        "closed, after 5.0 s",
    ]
    assert lines(logging.INFO) == []
