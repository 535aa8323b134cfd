"""UDP and ICMP, packet by packet."""

from __future__ import annotations

import random
import struct

import pytest
import trio

from zks_lwip.stack import Datagram, Reject, UdpListener

from ...kits.packets import (
    APP,
    FAR,
    FRAGMENT,
    ICMP,
    ICMP6,
    UDP,
    Seen,
    checksum,
    echo_request,
    fragments,
    ip,
    parse,
    probe,
    pseudo,
    udp,
    udp_segment,
)

FAMILIES = pytest.mark.parametrize("family", [4, 6])
SIZES = [0, 1, 1472, 9000, 65507]


def whole(packets: list[Seen]) -> bytes:
    """The IP payload of fragments that came in any order."""
    parts = {}
    last = []
    for packet in packets:
        if packet.protocol == FRAGMENT:
            field = int.from_bytes(packet.payload[2:4], "big")
            at, more = field & 0xFFF8, field & 1
            parts[at] = packet.payload[8:]
        else:
            field = int.from_bytes(packet.raw[6:8], "big") if packet.raw[0] >> 4 == 4 else 0
            at, more = (field & 0x1FFF) * 8, field & 0x2000
            parts[at] = packet.payload
        if not more:
            last.append(at)
    result = b""
    for at in sorted(parts):
        assert at == len(result)
        result += parts[at]
    assert last in ([], [max(parts)])
    return result


@FAMILIES
@pytest.mark.parametrize("size", SIZES)
async def test_datagrams_come_in_whole(family: int, size: int) -> None:
    data = random.Random(size).randbytes(size)
    source, destination = (APP[family], 5000), (FAR[family], 6000)
    packet = udp(source, destination, data)
    for mtu in (1480, 576):
        async with probe() as p:
            got: list[Datagram] = []
            p.stack.on_datagrams = got.extend
            parts = fragments(packet, mtu // 8 * 8) if len(packet) > 1500 else [packet]
            random.Random(mtu).shuffle(parts)
            await p.send(*parts)
            assert [(d.source, d.destination, bytes(d.payload)) for d in got] == [
                (source, destination, data)
            ]


@FAMILIES
@pytest.mark.parametrize("size", SIZES)
async def test_datagrams_go_out_whole(family: int, size: int) -> None:
    data = random.Random(size).randbytes(size)
    source, destination = (FAR[family], 6000), (APP[family], 5000)
    async with probe() as p:
        assert p.stack.send_datagram(source, destination, data)
        packets = [await p.receive()]
        while len(whole(packets)) < size + 8:
            packets.append(await p.receive())
        assert all(len(packet.raw) <= 1500 for packet in packets)
        segment = whole(packets)
        assert segment[:8][:6] == struct.pack("!HHH", 6000, 5000, size + 8)
        assert segment[8:] == data
        first = packets[0].raw
        ends = (first[12:16], first[16:20]) if family == 4 else (first[8:24], first[24:40])
        assert checksum(pseudo(*ends, UDP, len(segment)) + segment) == 0


@FAMILIES
async def test_a_datagram_that_is_too_long_is_not_sent(family: int) -> None:
    async with probe() as p:
        assert not p.stack.send_datagram((FAR[family], 1), (APP[family], 2), bytes(65508))
        await p.silence()


async def test_two_families_are_an_error() -> None:
    async with probe() as p:
        with pytest.raises(ValueError):
            p.stack.send_datagram((FAR[4], 1), (APP[6], 2), b"")
        with pytest.raises(ValueError):
            p.stack.send_datagram(("localhost", 1), (APP[6], 2), b"")


async def test_a_checksum_of_zero_is_right_over_ipv4_only() -> None:
    async with probe() as p:
        got: list[Datagram] = []
        p.stack.on_datagrams = got.extend
        for family in (4, 6):
            segment = udp_segment((APP[family], 1), (FAR[family], 2), b"x")
            await p.send(ip(APP[family], FAR[family], UDP, segment[:6] + b"\0\0" + segment[8:]))
        assert [d.destination[0] for d in got] == [FAR[4]]
        assert p.counter("drop_checksum") == 1


@FAMILIES
async def test_a_wrong_checksum_in_fragments_is_seen(family: int) -> None:
    async with probe() as p:
        got: list[Datagram] = []
        p.stack.on_datagrams = got.extend
        packet = udp((APP[family], 1), (FAR[family], 2), bytes(3000))
        await p.send(*fragments(packet[:-1] + b"!", 1480))
        assert not got
        assert p.counter("drop_checksum") == 1


@FAMILIES
async def test_overlapping_fragments_are_not_a_datagram(family: int) -> None:
    async with probe() as p:
        got: list[Datagram] = []
        p.stack.on_datagrams = got.extend
        packet = udp((APP[family], 1), (FAR[family], 2), bytes(3000))
        small, large = fragments(packet, 800), fragments(packet, 1200)
        await p.send(small[0], large[1], small[1], small[2], small[3])
        assert not got


@FAMILIES
async def test_fragments_that_come_twice_do_no_harm(family: int) -> None:
    async with probe() as p:
        got: list[Datagram] = []
        p.stack.on_datagrams = got.extend
        data = random.Random(0).randbytes(3000)
        parts = fragments(udp((APP[family], 1), (FAR[family], 2), data), 800)
        await p.send(parts[0], parts[0], parts[3], parts[1], parts[3], parts[1], parts[2])
        assert [bytes(d.payload) for d in got] == [data]


@FAMILIES
@pytest.mark.parametrize("case", ["content", "length", "beyond", "two ends", "within"])
async def test_fragments_that_contradict_each_other_are_no_datagram(family: int, case: str) -> None:
    async with probe() as p:
        got: list[Datagram] = []
        p.stack.on_datagrams = got.extend
        source, destination = (APP[family], 1), (FAR[family], 2)
        parts = fragments(udp(source, destination, bytes(3000)), 800)
        shorter = fragments(udp(source, destination, bytes(2500)), 800)
        lies = {
            "content": [parts[0], fragments(udp(source, destination, b"x" * 3000), 800)[0]],
            "length": [parts[0], fragments(udp(source, destination, bytes(3000)), 1200)[0]],
            "beyond": [shorter[3], fragments(udp(source, destination, bytes(9000)), 800)[5]],
            "two ends": [parts[3], shorter[3]],
            "within": [fragments(udp(source, destination, bytes(9000)), 800)[5], parts[3]],
        }
        await p.send(*lies[case])
        assert p.counter("drop_fragment") == 1
        await p.send(*parts)
        assert not got and p.counter("drop_fragment") > 1  # nothing more of it is believed


@FAMILIES
async def test_fragments_that_never_become_whole_go(family: int, autojump_clock) -> None:
    """After 15 s; and the sender is told where the first of them has come."""
    source, destination = (APP[family], 1), (FAR[family], 2)
    async with probe() as p:
        packet = udp(source, destination, bytes(3000))
        for ident in range(100):
            parts = fragments(packet, 1480, ident)
            await p.send(*(parts[1:] if ident % 2 else parts[:-1]))
        await trio.sleep(14.5)
        assert p.counter("drop_reassembly") == 0
        await trio.sleep(1)
        assert p.counter("drop_reassembly") == 100
        for _ in range(50):
            answer = await p.receive()
            assert (answer.source, answer.destination) == (FAR[family], APP[family])
            assert answer.payload[:2] == (b"\x0b\x01" if family == 4 else b"\x03\x01")
            ip = 20 if family == 4 else 40
            assert answer.payload[8 + ip : 8 + ip + 8] == packet[ip : ip + 8]
        await p.silence()
        # What has not come is not quoted.
        parts = fragments(packet, 64, 100)
        await p.send(parts[0], parts[1], parts[3])
        await trio.sleep(16)
        assert (await p.receive()).payload[8 + ip :] == packet[ip : ip + 128]
        got: list[Datagram] = []
        p.stack.on_datagrams = got.extend
        await p.send(*fragments(packet, 1480, 999))
        assert len(got) == 1


@FAMILIES
async def test_a_torn_ping_is_told_of_but_not_a_torn_icmp_error(
    family: int, autojump_clock
) -> None:
    """RFC 1122 §3.2.2, RFC 4443 §2.4 (e): no error about an error."""
    at = 20 if family == 4 else 40
    ping = echo_request(APP[family], FAR[family], 1, 1, bytes(3000))
    unreachable = bytearray(ping)
    unreachable[at] = 3 if family == 4 else 1
    async with probe() as p:
        await p.send(fragments(bytes(unreachable), 1400, 1)[0], fragments(ping, 1400, 2)[0])
        await trio.sleep(16)
        assert p.counter("drop_reassembly") == 2
        assert (await p.receive()).payload[8 + at] == ping[at]
        await p.silence()


@FAMILIES
async def test_fragments_wait_15_seconds_whatever_else_comes(family: int, autojump_clock) -> None:
    """Others' fragments made the clock of reassembly run up to four times as fast."""
    async with probe() as p:
        got: list[Datagram] = []
        p.stack.on_datagrams = got.extend
        slow = fragments(udp((APP[family], 1), (FAR[family], 2), bytes(3000)), 1480, 1)
        fast = udp((APP[family], 3), (FAR[family], 4), bytes(2000))
        await p.send(*slow[:-1])
        for ident in range(2, 140):
            await p.send(*fragments(fast, 1480, ident))
            await trio.sleep(0.1)
        await p.send(slow[-1])
        assert [d.source[1] for d in got] == [3] * 138 + [1]


@FAMILIES
async def test_fragments_that_wait_are_bounded_in_bytes(family: int) -> None:
    """The oldest go first; large fragments count by their size."""
    async with probe(mtu=65535) as p:
        got: list[Datagram] = []
        p.stack.on_datagrams = got.extend
        parts = [
            fragments(udp((APP[family], 1), (FAR[family], 2), bytes([i]) * 65507), 65408, i)
            for i in range(200)
        ]
        for first, _ in parts:
            await p.send(first)
        dropped = p.counter("drop_reassembly")
        assert dropped >= 200 - (4 << 20) // 65515
        await p.send(*(second for _, second in parts[::-1]))
        assert [d.payload[0] for d in got] == list(range(199, dropped - 1, -1))
        await p.silence()


@FAMILIES
async def test_datagrams_that_wait_for_fragments_are_bounded_in_number(
    family: int, mock_clock
) -> None:
    async with probe() as p:
        for ident in range(1000):
            await p.send(fragments(udp((APP[family], 1), (FAR[family], 2), bytes(64)), 8, ident)[2])
        assert p.counter("drop_reassembly") == 1000 - 256


async def test_what_no_frame_can_hold_is_dropped_and_counted() -> None:
    """IPv6 has datagrams of up to 65,527 bytes."""
    async with probe() as p:
        got: list[Datagram] = []
        p.stack.on_datagrams = got.extend
        for ident, size in enumerate((65507, 65508, 65527)):
            segment = udp_segment((APP[6], 1), (FAR[6], 2), bytes(size))
            head = ip(APP[6], FAR[6], UDP, segment[:8])
            await p.send(*fragments(head + segment[8:], 1448, ident))
        assert [len(d.payload) for d in got] == [65507]
        assert p.counter("datagrams_dropped") == 2


@FAMILIES
async def test_a_large_ping_is_verified_when_it_is_whole(family: int) -> None:
    async with probe(icmp="reply") as p:
        packet = echo_request(APP[family], FAR[family], 1, 2, bytes(3000))
        await p.send(*fragments(packet[:-1] + b"!", 1480, 1))
        assert p.counter("drop_checksum") == 1
        await p.send(*fragments(packet, 1480, 2))
        answer = [await p.receive() for _ in range(3)]
        assert whole(answer)[8:] == bytes(3000)


async def test_an_atomic_fragment_is_a_datagram() -> None:
    async with probe() as p:
        got: list[Datagram] = []
        p.stack.on_datagrams = got.extend
        segment = udp_segment((APP[6], 1), (FAR[6], 2), b"whole")
        await p.send(ip(APP[6], FAR[6], FRAGMENT, struct.pack("!BBHI", UDP, 0, 0, 7) + segment))
        assert [bytes(d.payload) for d in got] == [b"whole"]


async def test_what_is_not_taken_is_dropped_oldest_first() -> None:
    async with probe(max_datagrams=10_000) as p:
        got: list[Datagram] = []
        p.stack.on_datagrams = got.extend
        packets = [udp((APP[4], 1), (FAR[4], 2), bytes([i]) * 900) for i in range(50)]
        await p.device.send(packets)  # one batch: the pump takes it before the test looks
        await trio.testing.wait_all_tasks_blocked(0.01)
        taken = [d.payload[0] for d in got]
        assert taken == list(range(50 - len(taken), 50))
        assert 5 <= len(taken) <= 11
        assert p.counter("datagrams_dropped") == 50 - len(taken)


@pytest.mark.parametrize(
    ("how", "family", "message"),
    [
        (Reject.PORT_UNREACHABLE, 4, (3, 3, 0)),
        (Reject.HOST_UNREACHABLE, 4, (3, 1, 0)),
        (Reject.NET_UNREACHABLE, 4, (3, 0, 0)),
        (Reject.PROHIBITED, 4, (3, 13, 0)),
        (Reject.TOO_BIG, 4, (3, 4, 1400)),
        (Reject.PORT_UNREACHABLE, 6, (1, 4, 0)),
        (Reject.HOST_UNREACHABLE, 6, (1, 3, 0)),
        (Reject.PROHIBITED, 6, (1, 1, 0)),
        (Reject.TOO_BIG, 6, (2, 0, 1400)),
    ],
)
async def test_icmp_errors(how: Reject, family: int, message: tuple[int, int, int]) -> None:
    async with probe() as p:
        got: list[Datagram] = []
        p.stack.on_datagrams = got.extend
        packet = udp((APP[family], 5000), (FAR[family], 6000), b"question")
        await p.send(packet)
        p.stack.refuse_datagram(got[0], how, mtu=1400 if how is Reject.TOO_BIG else 0)
        answer = await p.receive()
        assert answer.protocol == (ICMP if family == 4 else ICMP6)
        assert (answer.source, answer.destination) == (FAR[family], APP[family])
        kind, code, _, rest = struct.unpack("!BBHI", answer.payload[:8])
        assert (kind, code, rest & 0xFFFF) == message
        quoted = parse(answer.payload[8:][: len(packet)] if family == 6 else packet)
        assert quoted.ports == (5000, 6000)
        header = 20 if family == 4 else 40
        assert answer.payload[8 + header : 8 + header + 6] == packet[header : header + 6]


@FAMILIES
async def test_pings_of_our_own_address_are_answered(family: int) -> None:
    async with probe(own_addresses=["198.18.0.2", "fd00::2"]) as p:
        own = "198.18.0.2" if family == 4 else "fd00::2"
        data = bytes(range(56))
        await p.send(echo_request(APP[family], own, 7, 9, data))
        answer = await p.receive()
        assert (answer.source, answer.destination) == (own, APP[family])
        assert answer.payload[0] == (0 if family == 4 else 129)
        assert answer.payload[4:] == struct.pack("!HH", 7, 9) + data
        await p.send(echo_request(APP[family], FAR[family], 7, 9, data))
        await p.silence()  # not for the world


@FAMILIES
async def test_pings_of_the_world(family: int) -> None:
    async with probe(icmp="reply") as p:
        await p.send(echo_request(APP[family], FAR[family], 1, 2, bytes(4000)[:1000]))
        assert (await p.receive()).source == FAR[family]
    async with probe(icmp="tunnel") as p:
        asked = []
        p.stack.on_echo = lambda *echo: asked.append(echo)
        await p.send(echo_request(APP[family], FAR[family], 1, 2, b"data"))
        assert asked == [(APP[family], FAR[family], 1, 2, b"data")]
        await p.silence()
        assert p.stack.send_echo_reply(FAR[family], APP[family], 1, 2, b"data")
        answer = await p.receive()
        assert answer.source == FAR[family] and answer.payload[8:] == b"data"
        assert p.stack.send_echo_reply(FAR[family], APP[family], 1, 2, bytes(65507))
        assert not p.stack.send_echo_reply(FAR[family], APP[family], 1, 2, bytes(65508))


async def test_what_waits_for_a_flow_holds_nothing_of_its_batch() -> None:
    async with probe() as p:
        listener = UdpListener(p.stack)
        batch = bytearray(1 << 18)
        with memoryview(batch) as whole, whole[:1] as payload:
            listener.on_datagram(Datagram((APP[4], 1), (FAR[4], 53), payload))
        batch.clear()
        assert await (await listener.accept()).receive() == (b"\0", (FAR[4], 53))
        await listener.aclose()


async def test_udp_flows_for_embedding() -> None:
    async with probe() as p:
        listener = UdpListener(p.stack, queue=4)
        await p.send(*(udp((APP[4], 1), (FAR[4], 53), b"%d" % i) for i in range(6)))
        flow = await listener.accept()
        assert flow.source == (APP[4], 1)
        assert flow.dropped == 2
        assert await flow.receive() == (b"2", (FAR[4], 53))
        assert flow.send(b"answer", ("192.0.2.9", 99))  # from any host: full cone
        answer = await p.receive()
        assert (answer.source, answer.ports, answer.payload[8:]) == (
            "192.0.2.9",
            (99, 1),
            b"answer",
        )
        await flow.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await flow.receive()
        await p.send(udp((APP[4], 1), (FAR[4], 53), b"again"))
        assert await (await listener.accept()).receive() == (b"again", (FAR[4], 53))
        await listener.aclose()


async def test_every_datagram_is_taken_at_the_limits_of_flows_and_for_accept() -> None:
    """The flow that has been silent longest is closed; none is closed for one that is dropped."""
    async with probe() as p:
        listener = UdpListener(p.stack, flows=2)

        def send(port: int) -> None:
            listener.on_datagram(Datagram((APP[4], port), (FAR[4], 53), memoryview(b"%d" % port)))

        send(1)
        first = await listener.accept()
        send(2)
        assert first.send(b"", (FAR[4], 53)), "there is room for two"
        for port in (3, 4, 2):
            send(port)
        with pytest.raises(trio.ClosedResourceError):
            first.send(b"", (FAR[4], 53))
        assert [(await listener.accept()).source[1] for _ in range(2)] == [4, 2]
        send(4)
        send(5)  # 2 has to go
        send(4)
        assert await (await listener.accept()).receive() == (b"5", (FAR[4], 53))
        send(2)  # which closes 5: accept() gives the one that is new
        assert await (await listener.accept()).receive() == (b"2", (FAR[4], 53))
        await listener.aclose()


@pytest.mark.parametrize("limits", [{"flows": 0}, {"queue": 0}])
async def test_a_listener_without_room_is_refused(limits: dict[str, int]) -> None:
    async with probe() as p:
        with pytest.raises(ValueError, match="give 1 or more"):
            UdpListener(p.stack, **limits)
