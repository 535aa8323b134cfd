"""Datagrams of applications as the tunnel's frames, and back."""

from __future__ import annotations

import random
from ipaddress import IPv4Address

import pytest

from zks_lwip.net.rounds import ROUND
from zks_lwip.protocol import Udp, parse
from zks_lwip.stack import Datagram, FramedDatagrams, FrameRules

from ...kits.packets import APP, FAR, Probe, echo_request, probe, udp

FAMILIES = pytest.mark.parametrize("family", [4, 6])
ALIAS = IPv4Address("198.18.0.3")


class Framed:
    """A stack whose datagrams become frames by these rules, and what it has given."""

    def __init__(self, p: Probe, rules: FrameRules | None) -> None:
        self.rules = rules
        self.runs: list[FramedDatagrams] = []
        self.others: list[Datagram] = []
        p.stack.on_frames = self.runs.append
        p.stack.on_datagrams = self.others.extend
        p.stack.frame_rules = lambda: self.rules

    @property
    def frames(self) -> list[Udp]:
        found = []
        for run in self.runs:
            inner = [frame for frame in parse(run.frames) if isinstance(frame, Udp)]
            assert len(inner) == run.count
            assert sum(len(frame.payload) for frame in inner) == run.size
            assert sorted({frame.association for frame in inner}) == sorted(run.associations)
            found += inner
        return [Udp(x.association, x.host, x.port, bytes(x.payload)) for x in found]


def encoded(*frames: Udp) -> memoryview:
    return memoryview(b"".join(frame.encode() for frame in frames))


@FAMILIES
async def test_of_bound_sockets_all_are_frames(family: int) -> None:
    here, there = (APP[family], 5000), (APP[family], 5001)
    async with probe() as p:
        framed = Framed(p, FrameRules([53]))
        assert p.stack.bind_datagrams(here, 7)
        datas = [random.Random(n).randbytes(n) for n in (0, 1, 1472)]
        packets = []
        for data in datas:
            packets += [udp(here, (FAR[family], 6000), data), udp(there, (FAR[family], 6000), data)]
        await p.send(*packets)
        assert framed.frames == [Udp(7, FAR[family], 6000, data) for data in datas]
        assert [(x.source, bytes(x.payload)) for x in framed.others] == [(there, x) for x in datas]
        assert p.stack.bind_datagrams(there, 8)
        await p.send(*packets[:4])
        assert [frame.association for frame in framed.frames[3:]] == [7, 8, 7, 8]
        p.stack.unbind_datagrams(7)
        p.stack.unbind_datagrams(7)
        await p.send(packets[0])
        assert framed.others[-1].source == here


async def test_the_rules_leave_the_others_to_python_in_their_order() -> None:
    here = (APP[4], 5000)
    async with probe(icmp="tunnel") as p:
        framed = Framed(p, FrameRules([53, 853, 65535], loopback_alias=ALIAS))
        echoes: list[int] = []
        p.stack.on_echo = lambda source, destination, ident, seq, payload: echoes.append(seq)
        p.stack.bind_datagrams(here, 1)
        ports = [52, 53, 54, 853, 65535, 65534, 0]
        await p.send(
            *(udp(here, (FAR[4], port), b"x") for port in ports),
            echo_request(APP[4], FAR[4], 1, 77, b""),
            udp(here, (str(ALIAS), 9), b"to the worker itself"),
        )
        assert [frame.port for frame in framed.frames] == [52, 54, 65534, 0, 9]
        assert framed.frames[-1].host == "127.0.0.1"
        assert [datagram.destination[1] for datagram in framed.others] == [53, 853, 65535]
        assert echoes == [77]
        framed.rules = None
        await p.send(udp(here, (FAR[4], 52), b"x"))
        assert framed.others[-1].destination[1] == 52


async def test_ipv6_may_be_left_out() -> None:
    async with probe() as p:
        framed = Framed(p, FrameRules(ipv6=False))
        p.stack.bind_datagrams((APP[6], 5000), 1)
        await p.send(udp((APP[6], 5000), (FAR[6], 1), b"x"))
        assert not framed.runs and len(framed.others) == 1


async def test_many_associations_and_many_bytes() -> None:
    async with probe() as p:
        framed = Framed(p, FrameRules())
        for n in range(200):
            assert p.stack.bind_datagrams((APP[4], 1000 + n), n + 1)
        data = bytes(1400)
        order = [n % 200 for n in range(600)]
        await p.send(*(udp((APP[4], 1000 + n), (FAR[4], n), data) for n in order))
        assert [frame.association - 1 for frame in framed.frames] == order
        assert all(len(run.associations) <= 64 and run.count <= 256 for run in framed.runs)


async def test_a_burst_leaves_in_pieces_that_a_tunnel_has_room_for() -> None:
    rounds: list[int] = []
    ended = True

    def end() -> None:
        nonlocal ended
        ended = True

    def take(run: FramedDatagrams) -> None:
        nonlocal ended
        if ended:
            rounds.append(0)
            ended = not ROUND.at_end(end)
        rounds[-1] += run.count

    async with probe() as p:
        Framed(p, FrameRules())
        p.stack.on_frames = take
        assert p.stack.bind_datagrams((APP[4], 1000), 1)
        await p.send(*[udp((APP[4], 1000), (FAR[4], 1), bytes(1400))] * 1000)
        assert sum(rounds) == 1000 and max(rounds) * 1400 < 400 << 10


async def test_what_is_bound_twice() -> None:
    async with probe() as p:
        assert p.stack.bind_datagrams((APP[4], 1), 1)
        assert not p.stack.bind_datagrams((APP[4], 1), 2)
        assert not p.stack.bind_datagrams((APP[4], 2), 1)
        assert not p.stack.bind_datagrams((APP[4], 2), 0)
        with pytest.raises(ValueError):
            p.stack.bind_datagrams(("localhost", 1), 3)


@FAMILIES
async def test_frames_become_datagrams(family: int) -> None:
    here = (APP[family], 5000)
    async with probe() as p:
        p.stack.bind_datagrams(here, 7)
        datas = [random.Random(n).randbytes(n) for n in (1000, 1000, 1000, 3, 0, 1400, 1)]
        frames = encoded(*(Udp(7, FAR[family], 6000, data) for data in datas))
        done = p.stack.deliver_datagrams(frames, FrameRules())
        assert done == (len(datas), sum(map(len, datas)), 0, 0)
        for data in datas:
            packet = await p.receive()
            assert (packet.source, packet.destination) == (FAR[family], APP[family])
            assert packet.payload[:4] == (6000).to_bytes(2, "big") + (5000).to_bytes(2, "big")
            assert packet.payload[8:] == data


async def test_what_is_not_delivered() -> None:
    async with probe() as p:
        p.stack.bind_datagrams((APP[4], 5000), 7)
        frames = encoded(
            Udp(8, FAR[4], 1, b"no such association"),
            Udp(7, FAR[6], 1, b"of another family"),
            Udp(7, "1.2.3", 1, b"no address"),
            Udp(7, "01.2.3.4", 1, b"no address"),
            Udp(7, "1.2.3.256", 1, b"no address"),
            Udp(7, "::ffff:1.2.3.4", 1, b"to be written as IPv4"),
            Udp(8, "nonsense", 1, b"nowhere to go"),
        )
        assert p.stack.deliver_datagrams(frames[:-1], FrameRules()) == (0, 0, 1, 4)
        await p.silence()
        rules = FrameRules(loopback_alias=ALIAS)
        done = p.stack.deliver_datagrams(encoded(Udp(7, "127.0.0.1", 9, b"of the worker")), rules)
        assert done.datagrams == 1
        assert (await p.receive()).source == str(ALIAS)


async def test_one_look_takes_what_has_come_at_once() -> None:
    async with probe() as p:
        framed = Framed(p, FrameRules([53]))
        looks: list[FrameRules] = []

        def rules() -> FrameRules:
            looks.append(FrameRules([53]))
            return looks[-1]

        p.stack.frame_rules = rules
        await p.send(udp((APP[4], 5000), (FAR[4], 53), b"a query"))
        assert len(framed.others) == len(looks) == 1
        p.stack.bind_datagrams((APP[4], 5001), 1)
        await p.send(udp((APP[4], 5001), (FAR[4], 54), b"a frame"))
        assert len(framed.frames) == 1 and len(looks) == 2
