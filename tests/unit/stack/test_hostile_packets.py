"""Packets that no kernel sends: dropped before lwIP sees them, and counted by why."""

from __future__ import annotations

import random
import struct

import pytest
import trio

from zks_lwip.stack import Datagram, Reject, TcpListener

from ...kits.packets import (
    ACK,
    APP,
    FAR,
    FIN,
    FRAGMENT,
    ICMP6,
    RST,
    SYN,
    TCP,
    UDP,
    Recorder,
    checksum,
    connect,
    fragments,
    ip,
    probe,
    tcp,
    transport,
    udp,
    udp_segment,
)
from ...kits.wires import PUMPS, busy_probe, wire

SYN4 = tcp((APP[4], 1), (FAR[4], 2), SYN)
SYN6 = tcp((APP[6], 1), (FAR[6], 2), SYN)


def rewrite4(packet: bytes, **fields: int) -> bytes:
    """An IPv4 packet with header fields changed and its header checksum right again."""
    at = {"vhl": (0, "B"), "length": (2, "!H"), "frag": (6, "!H"), "protocol": (9, "B")}
    raw = bytearray(packet)
    for name, value in fields.items():
        struct.pack_into(at[name][1], raw, at[name][0], value)
    raw[10:12] = b"\0\0"
    header = max(20, (raw[0] & 15) * 4)
    raw[10:12] = struct.pack("!H", checksum(bytes(raw[:header])))
    return bytes(raw)


def segment(flags: int = SYN, offset: int = 5, options: bytes = b"", family: int = 4) -> bytes:
    raw = struct.pack("!HHIIBBHHH", 1, 2, 3, 4, offset << 4, flags, 1000, 0, 0) + options
    return ip(APP[family], FAR[family], TCP, transport(APP[family], FAR[family], TCP, raw, 16))


def v6(next_header: int, payload: bytes) -> bytes:
    return ip(APP[6], FAR[6], next_header, payload)


def fragment_header(inner: int, offset: int, more: bool, payload: bytes) -> bytes:
    return v6(FRAGMENT, struct.pack("!BBHI", inner, 0, offset | more, 1) + payload)


PADN8 = b"\x11\0\x01\x04" + bytes(4)  # a header of options that are padding; UDP follows
UDP4 = udp_segment((APP[4], 1), (FAR[4], 2), b"data")
UDP6 = udp_segment((APP[6], 1), (FAR[6], 2), b"data")

CASES = [
    (b"", "drop_short"),
    (b"\x45", "drop_short"),
    (SYN4[:19], "drop_short"),
    (SYN4[:-1], "drop_short"),
    (SYN6[:39], "drop_short"),
    (SYN6[:-1], "drop_short"),
    (b"\x05" + SYN4[1:], "drop_version"),
    (b"\xf5" + SYN4[1:], "drop_version"),
    (rewrite4(SYN4, vhl=0x44), "drop_header"),
    (rewrite4(SYN4, length=10), "drop_header"),
    (SYN4[:10] + b"\xff\xff" + SYN4[12:], "drop_header"),
    (rewrite4(SYN4, vhl=0x4F, length=40), "drop_header"),
    (v6(TCP, b""), "drop_header"),
    (rewrite4(SYN4[:20] + b"\x01\x01\x01\x00" + SYN4[20:], vhl=0x46, length=44), "drop_ip_options"),
    (v6(0, bytes(8) + UDP6), "drop_extension_header"),
    (v6(43, bytes(8) + UDP6), "drop_extension_header"),
    (v6(60, bytes(8) + UDP6), "drop_extension_header"),
    (fragment_header(44, 0, False, bytes(8) + UDP6), "drop_extension_header"),
    (fragment_header(60, 0, True, bytes(16)), "drop_extension_header"),
    (v6(0, b"\x11\0"), "drop_extension_header"),  # no whole header
    (v6(0, b"\x11\x09" + bytes(6) + UDP6), "drop_extension_header"),  # longer than the packet
    (v6(60, b"\0\0\x01\x04" + bytes(4) + PADN8 + UDP6), "drop_extension_header"),  # not the first
    (v6(0, b"\x11\0\xc2\x04\0\1\0\0" + UDP6), "drop_extension_header"),  # a jumbogram
    (v6(60, b"\x11\0\x01\x05" + bytes(4) + UDP6), "drop_extension_header"),  # option too long
    (v6(60, b"\x11\0" + bytes(5) + b"\x01" + UDP6), "drop_extension_header"),  # option cut off
    (v6(60, b"\x11\0\x5e\x04" + bytes(4) + UDP6), "drop_extension_header"),  # must be understood
    (v6(43, b"\x11\x02\x00\x01" + bytes(20) + UDP6), "drop_extension_header"),  # one more hop
    (v6(43, b"\x2b\0\0\0" + bytes(4) + b"\x11\0\0\0" + bytes(4) + UDP6), "drop_extension_header"),
    (v6(51, b"\x11\x01" + bytes(10) + UDP6), "drop_extension_header"),
    (
        v6(60, b"\x3c\0\x01\x04\0\0\0\0" * 60 + PADN8 + UDP6),
        "drop_extension_header",
    ),  # a long chain
    (ip("127.0.0.1", FAR[4], UDP, UDP4), "drop_martian"),
    (ip("0.0.0.0", FAR[4], UDP, UDP4), "drop_martian"),
    (ip("224.0.0.1", FAR[4], UDP, UDP4), "drop_martian"),
    (ip(APP[4], "127.0.0.53", UDP, UDP4), "drop_martian"),
    (ip(APP[4], "0.0.0.0", UDP, UDP4), "drop_martian"),
    (ip("::1", FAR[6], UDP, UDP6), "drop_martian"),
    (ip("::", FAR[6], UDP, UDP6), "drop_martian"),
    (ip("ff02::1", FAR[6], UDP, UDP6), "drop_martian"),
    (ip(APP[6], "::1", UDP, UDP6), "drop_martian"),
    (ip(APP[6], "::ffff:192.0.2.1", UDP, UDP6), "drop_martian"),
    (ip("::ffff:192.0.2.1", FAR[6], UDP, UDP6), "drop_martian"),
    (ip(APP[4], "224.0.0.251", UDP, UDP4), "drop_multicast"),
    (ip(APP[4], "239.255.255.255", UDP, UDP4), "drop_multicast"),
    (ip(APP[4], "255.255.255.255", UDP, UDP4), "drop_broadcast"),
    (ip(APP[4], "240.0.0.1", UDP, UDP4), "drop_martian"),
    (ip("255.255.255.255", FAR[4], UDP, UDP4), "drop_martian"),
    (ip(APP[6], "ff02::fb", UDP, UDP6), "drop_multicast"),
    (v6(59, bytes(8)), "drop_protocol"),
    (rewrite4(SYN4, frag=0x2000), "drop_fragment"),
    (fragments(tcp((APP[4], 1), (FAR[4], 2), ACK, data=bytes(64)), 40)[0], "drop_fragment"),
    (fragments(tcp((APP[6], 1), (FAR[6], 2), ACK, data=bytes(64)), 40)[0], "drop_fragment"),
    (ip(APP[4], FAR[4], UDP, bytes(13), frag=0x2000), "drop_fragment"),
    (ip(APP[4], FAR[4], UDP, bytes(64), frag=0x1FFF), "drop_fragment"),
    (ip(APP[4], FAR[4], UDP, b"", frag=0x2001), "drop_fragment"),
    (fragment_header(UDP, 0xFFF8, False, bytes(64)), "drop_fragment"),
    (fragment_header(UDP, 65528, False, bytes(8)), "drop_fragment"),  # 65536 bytes
    (fragment_header(UDP, 0, True, bytes(13)), "drop_fragment"),
    (fragment_header(UDP, 8, False, b""), "drop_fragment"),
    (v6(FRAGMENT, bytes(7)), "drop_fragment"),
    (segment(offset=4), "drop_tcp_header"),
    (segment(offset=15), "drop_tcp_header"),
    (segment(flags=SYN | FIN), "drop_tcp_header"),
    (segment(flags=SYN | RST), "drop_tcp_header"),
    (segment(flags=0), "drop_tcp_header"),
    (segment(flags=FIN), "drop_tcp_header"),
    (segment(offset=6, options=b"\x02\x03\x05\x00"), "drop_tcp_options"),
    (segment(offset=6, options=b"\x01\x01\x03\x03"), "drop_tcp_options"),
    (segment(offset=6, options=b"\x01\x01\x01\x03"), "drop_tcp_options"),
    (segment(offset=6, options=b"\x08\x0a\x00\x00"), "drop_tcp_options"),
    (segment(offset=6, options=b"\xfe\x00\x00\x00"), "drop_tcp_options"),
    (segment(offset=6, options=b"\xfe\x01\x00\x00"), "drop_tcp_options"),
    (ip(APP[4], FAR[4], UDP, UDP4[:4] + b"\x00\x07" + UDP4[6:]), "drop_udp_header"),
    (ip(APP[4], FAR[4], UDP, UDP4[:4] + b"\x00\xff" + UDP4[6:]), "drop_udp_header"),
    (ip(APP[4], FAR[4], 1, bytes(7)), "drop_icmp_header"),
    # Neighbour discovery with an option of length 0 or past its end: no ICMPv6 reaches lwIP.
    (
        v6(ICMP6, transport(APP[6], FAR[6], ICMP6, b"\x88\0\0\0" + bytes(20) + b"\x02\0", 2)),
        "drop_icmp_header",
    ),
    (
        v6(ICMP6, transport(APP[6], FAR[6], ICMP6, b"\x87\0\0\0" + bytes(20) + b"\x01\xff", 2)),
        "drop_icmp_header",
    ),
    (SYN4[:-1] + b"\x7f", "drop_checksum"),
    (SYN6[:-1] + b"\x7f", "drop_checksum"),
    (ip(APP[4], FAR[4], UDP, UDP4[:-1] + b"!"), "drop_checksum"),
]


@pytest.mark.parametrize(("packet", "counter"), CASES, ids=range(len(CASES)))
async def test_dropped_and_counted(packet: bytes, counter: str) -> None:
    async with probe(icmp="reply") as p:
        got: list[object] = []
        p.stack.on_datagrams = got.extend
        await p.send(packet)
        drops = {name: n for name, n in p.stack.stats().items() if name.startswith("drop_") and n}
        assert drops == {counter: 1}
        assert not got and not p.flows
        await p.silence(0.01)
        # And it has broken nothing.
        await connect(p)


CHAIN = {
    "hop-by-hop": (0, b"%c\0\x05\x02\0\0\x01\0"),
    "routing": (43, b"%c\x02\x04\0" + bytes(20)),
    "destination": (60, b"%c\x01\x01\x04\0\0\0\0\x1e\x04\0\0\0\0\0\0"),
    "atomic fragment": (FRAGMENT, b"%c\0\0\0\0\0\0\x07"),
}


@pytest.mark.parametrize(
    "names",
    [[name] for name in CHAIN]
    + [
        ["hop-by-hop", "destination", "routing", "atomic fragment", "destination"],
        ["destination"] * 29,
    ],
    ids=len,
)
async def test_extension_headers_that_ask_for_nothing_are_passed_over(names: list[str]) -> None:
    def chain(protocol: int, payload: bytes) -> bytes:
        for name in reversed(names):
            number, header = CHAIN[name]
            payload = header.replace(b"%c", bytes([protocol])) + payload
            protocol = number
        return v6(protocol, payload)

    async with probe() as p:
        got: list[Datagram] = []
        p.stack.on_datagrams = got.extend
        await p.send(chain(UDP, UDP6), chain(TCP, SYN6[40:]))
        assert [bytes(d.payload) for d in got] == [b"data"]
        (flow,) = p.flows
        flow.accept()
        answer = await p.receive()
        assert answer.flags == SYN | ACK
        data = tcp((APP[6], 1), (FAR[6], 2), ACK, 1, answer.seq + 1, b"more")
        await p.send(chain(TCP, data[40:]))
        assert Recorder(flow).read() == b"more"


async def test_an_option_list_that_ends_early_is_right() -> None:
    async with probe() as p:
        await p.send(segment(offset=7, options=b"\x02\x04\x05\xb4\x00\xff\xff\xff"))
        assert len(p.flows) == 1


async def test_padding_behind_the_packet_is_no_data() -> None:
    async with probe() as p:
        c = await connect(p)
        await p.send(c.segment(data=b"x") + bytes(20))
        assert c.handler.read() == b"x"


@pytest.mark.parametrize("seed", range(8))
async def test_mutated_packets_break_nothing(seed: int) -> None:
    """Bits flipped, bytes cut, checksums made right again: the stack goes on."""
    rng = random.Random(seed)
    async with probe(icmp="reply") as p:
        p.stack.on_datagrams = lambda batch: None
        c = await connect(p)
        whole_udp = udp((APP[6], 7), (FAR[6], 8), bytes(3000))
        for _ in range(300):
            base = rng.choice(
                [
                    SYN4,
                    SYN6,
                    c.segment(data=rng.randbytes(rng.randrange(100)), seq=c.seq + rng.randrange(9)),
                    c.segment(ACK, ack=c.ack + rng.randrange(-5, 5)),
                    *fragments(whole_udp, 1200, rng.randrange(3)),
                    *fragments(udp((APP[4], 7), (FAR[4], 8), bytes(3000)), 1200, rng.randrange(3)),
                ]
            )
            raw = bytearray(base)
            for _ in range(rng.randrange(4)):
                raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
            if rng.random() < 0.2:
                del raw[rng.randrange(len(raw)) :]
            if len(raw) >= 40 and raw[0] >> 4 == 4:
                raw = bytearray(rewrite4(bytes(raw)))
                if raw[9] == TCP:
                    raw[36:38] = b"\0\0"
                    fixed = transport(
                        ".".join(map(str, raw[12:16])),
                        ".".join(map(str, raw[16:20])),
                        TCP,
                        bytes(raw[20:]),
                        16,
                    )
                    raw[20:] = fixed
            await p.device.send([bytes(raw)])
            while p.flows:
                Recorder(p.flows[-1])
                rng.choice([p.flows[-1].accept, p.flows[-1].abort])()
                p.flows.pop()
        await trio.testing.wait_all_tasks_blocked()
    async with probe() as p:
        await connect(p)


async def test_a_flood_of_syns_is_bounded_and_passes() -> None:
    """20,000 SYNs against 500 held ones: the oldest are dropped, and nothing is left of them."""
    async with probe(max_flows=1000, max_held=500) as p:
        for start in range(0, 20_000, 500):
            await p.device.send(
                [
                    tcp((f"10.{i >> 8 & 255}.{i & 255}.1", 1000 + i % 50_000), (FAR[4], 80), SYN)
                    for i in range(start, start + 500)
                ]
            )
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert p.counter("flows_held") == 500
        assert p.counter("flows") == 500
        assert p.counter("flows_over_limit") == 19_500
        for flow in p.flows:
            flow.abort()
        assert p.counter("flows") == 0
        assert p.stack.open_flows == 0


@pytest.mark.skipif("thread" not in PUMPS, reason="no C pump here")
async def test_a_flow_that_gave_way_can_still_be_rejected() -> None:
    """Its holder decides before it hears that the SYN has been refused: nothing is left of it."""
    async with busy_probe(max_held=1) as p:
        first, second = (tcp(("10.0.0.1", port), (FAR[4], 80), SYN) for port in (1001, 1002))
        p.send(first, until=lambda: p.counter("flows") == 1)
        with trio.fail_after(60):
            while not p.flows:
                await trio.sleep(0.001)
        p.send(second, until=lambda: p.counter("flows_over_limit") == 1)
        p.flows[0].reject(Reject.RST)
        with trio.fail_after(60):
            while len(p.flows) < 2:
                await trio.sleep(0.001)
        assert p.counter("flows") == p.counter("flows_held") == 1


async def test_single_bytes_cost_their_number() -> None:
    """A peer that sends a million single bytes and is not read fills its window, and no more."""
    async with wire("task") as w:
        client, server = await w.connect(TcpListener(w.b))
        sent = sum(client.flow.push(b"x") for _ in range(20_000))
        assert sent > 5_000
        with trio.move_on_after(60):
            while client.flow.unacked():
                await trio.sleep(0.01)
        assert client.flow.unacked() == 0
        got = 0
        while got < sent:
            got += len(await server.receive_some(1 << 20))
