"""SCTP, GRE, ESP and whatever else is not carried: their sender is told at once."""

from __future__ import annotations

import struct

import pytest

from ...kits.packets import APP, FAR, FRAGMENT, ICMP, ICMP6, fragments, ip, probe

GRE, ESP, SCTP, UNASSIGNED = 47, 50, 132, 253
PROTOCOLS = pytest.mark.parametrize("protocol", [GRE, ESP, SCTP, UNASSIGNED])


@PROTOCOLS
async def test_protocol_unreachable(protocol: int) -> None:
    """RFC 1122 §3.2.2.1, with the packet as it was."""
    async with probe() as p:
        packet = ip(APP[4], FAR[4], protocol, bytes(range(200)))
        await p.send(packet)
        answer = await p.receive()
        assert (answer.source, answer.destination, answer.protocol) == (FAR[4], APP[4], ICMP)
        assert answer.payload[:2] == b"\x03\x02"
        assert answer.payload[8:] == packet


@PROTOCOLS
@pytest.mark.parametrize("options", [0, 8, 24])
async def test_unrecognized_next_header(protocol: int, options: int) -> None:
    """RFC 4443 §3.4: it points at the field that named it, also behind other headers."""
    async with probe() as p:
        first, payload, at = protocol, bytes(range(200)), 6
        if options:  # of the destination: padding
            first, at = 60, 40
            pad = b"\x01" + bytes([options - 4]) + bytes(options - 4)
            payload = bytes([protocol, options // 8 - 1]) + pad + payload
        packet = ip(APP[6], FAR[6], first, payload)
        await p.send(packet)
        answer = await p.receive()
        assert (answer.source, answer.destination, answer.protocol) == (FAR[6], APP[6], ICMP6)
        assert answer.payload[:2] == b"\x04\x01"
        assert struct.unpack("!I", answer.payload[4:8]) == (at,)
        assert packet[at] == protocol
        assert answer.payload[8:] == packet


async def test_a_large_one_is_quoted_in_part() -> None:
    async with probe(mtu=9000) as p:
        for family, most in ((4, 576), (6, 1280)):
            await p.send(ip(APP[family], FAR[family], SCTP, bytes(4000)))
            assert len((await p.receive()).raw) == most


@pytest.mark.parametrize("family", [4, 6])
async def test_of_fragments_the_first_is_answered(family: int) -> None:
    async with probe() as p:
        parts = fragments(ip(APP[family], FAR[family], SCTP, bytes(3000)), 1000)
        await p.send(*parts)
        answer = await p.receive()
        assert answer.payload[8 : 8 + len(parts[0])] == parts[0][: len(answer.payload) - 8]
        if family == 6:
            assert parts[0][6] == FRAGMENT and answer.payload[4:8] == bytes([0, 0, 0, 40])
        await p.silence()
        assert p.counter("drop_protocol") == len(parts)


async def test_a_flood_gets_a_hundred_answers_a_second(autojump_clock) -> None:
    async with probe() as p:
        packet = ip(APP[4], FAR[4], GRE, bytes(20))
        for _ in range(2):
            await p.send(*[packet] * 500)
            for _ in range(100):
                assert (await p.receive()).payload[:2] == b"\x03\x02"
            await p.silence(2)
        assert p.counter("drop_protocol") == 1000


async def test_the_wrong_icmp_and_no_next_header_at_all() -> None:
    async with probe() as p:
        await p.send(ip(APP[4], FAR[4], ICMP6, bytes(20)))
        assert (await p.receive()).payload[:2] == b"\x03\x02"
        await p.send(ip(APP[6], FAR[6], ICMP, bytes(20)))
        assert (await p.receive()).payload[:2] == b"\x04\x01"
        await p.send(ip(APP[6], FAR[6], 59, bytes(20)))
        await p.silence()
