"""Packets made and taken apart by hand, and a wire end that plays the application's kernel."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from zks_lwip.device import MemoryDevice, memory_device_pair
from zks_lwip.stack import Flow, Stack, open_stack

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
TCP, UDP, ICMP, ICMP6, FRAGMENT = 6, 17, 1, 58, 44
APP = {4: "198.18.0.1", 6: "fd00::1"}
FAR = {4: "203.0.113.7", 6: "2001:db8::7"}


def checksum(data: bytes) -> int:
    """RFC 1071."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def address(host: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)


def pseudo(source: bytes, destination: bytes, protocol: int, length: int) -> bytes:
    if len(source) == 4:
        return source + destination + struct.pack("!BBH", 0, protocol, length)
    return source + destination + struct.pack("!IHBB", length, 0, 0, protocol)


def ip(
    source: str, destination: str, protocol: int, payload: bytes, *, ident: int = 0, frag: int = 0
) -> bytes:
    """An IP packet; ``frag`` is IPv4's flags and offset field."""
    a, b = address(source), address(destination)
    if len(a) == 4:
        head = struct.pack(
            "!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), ident, frag, 64, protocol, 0, a, b
        )
        return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload
    size = min(len(payload), 0xFFFF)  # beyond that it is only to be cut into fragments
    return struct.pack("!IHBB16s16s", 6 << 28, size, protocol, 64, a, b) + payload


def transport(source: str, destination: str, protocol: int, segment: bytes, at: int) -> bytes:
    """The segment with its checksum written at ``at``."""
    a, b = address(source), address(destination)
    prefix = b"" if protocol == ICMP else pseudo(a, b, protocol, len(segment))
    value = checksum(prefix + segment)
    return segment[:at] + struct.pack("!H", value) + segment[at + 2 :]


def tcp(
    source: tuple[str, int],
    destination: tuple[str, int],
    flags: int,
    seq: int = 0,
    ack: int = 0,
    data: bytes = b"",
    *,
    window: int = 65535,
    options: bytes = b"",
) -> bytes:
    assert len(options) % 4 == 0
    segment = struct.pack(
        "!HHIIBBHHH",
        source[1],
        destination[1],
        seq & 0xFFFFFFFF,
        ack & 0xFFFFFFFF,
        (5 + len(options) // 4) << 4,
        flags,
        window,
        0,
        0,
    )
    segment = transport(source[0], destination[0], TCP, segment + options + data, 16)
    return ip(source[0], destination[0], TCP, segment)


def mss(value: int) -> bytes:
    """The option of a SYN (RFC 9293 §3.7.1)."""
    return struct.pack("!BBH", 2, 4, value)


def wscale(shift: int) -> bytes:
    """The option of a SYN (RFC 7323 §2)."""
    return bytes([3, 3, shift, 1])


def udp_segment(source: tuple[str, int], destination: tuple[str, int], data: bytes) -> bytes:
    segment = struct.pack("!HHHH", source[1], destination[1], 8 + len(data), 0) + data
    return transport(source[0], destination[0], UDP, segment, 6)


def udp(source: tuple[str, int], destination: tuple[str, int], data: bytes) -> bytes:
    return ip(source[0], destination[0], UDP, udp_segment(source, destination, data))


def echo_request(source: str, destination: str, ident: int, seq: int, data: bytes) -> bytes:
    four = ":" not in source
    protocol = ICMP if four else ICMP6
    message = struct.pack("!BBHHH", 8 if four else 128, 0, 0, ident, seq) + data
    return ip(source, destination, protocol, transport(source, destination, protocol, message, 2))


def fragments(packet: bytes, size: int, ident: int = 1) -> list[bytes]:
    """The packet in fragments of at most ``size`` bytes of payload (a multiple of 8)."""
    assert size % 8 == 0
    four = packet[0] >> 4 == 4
    body = packet[20:] if four else packet[40:]
    result = []
    for start in range(0, len(body), size):
        part = body[start : start + size]
        more = start + size < len(body)
        if four:
            source = socket.inet_ntoa(packet[12:16])
            destination = socket.inet_ntoa(packet[16:20])
            field = start // 8 | (0x2000 if more else 0)
            result.append(ip(source, destination, packet[9], part, ident=ident, frag=field))
        else:
            head = struct.pack("!BBHI", packet[6], 0, start | more, ident)
            source = socket.inet_ntop(socket.AF_INET6, packet[8:24])
            destination = socket.inet_ntop(socket.AF_INET6, packet[24:40])
            result.append(ip(source, destination, FRAGMENT, head + part))
    return result


@dataclass
class Seen:
    """A packet that the stack has sent."""

    source: str
    destination: str
    protocol: int
    payload: bytes
    raw: bytes

    @property
    def ports(self) -> tuple[int, int]:
        return struct.unpack("!HH", self.payload[:4])  # type: ignore[return-value]

    @property
    def seq(self) -> int:
        return int.from_bytes(self.payload[4:8], "big")

    @property
    def ack(self) -> int:
        return int.from_bytes(self.payload[8:12], "big")

    @property
    def flags(self) -> int:
        return self.payload[13] & 0x3F

    @property
    def window(self) -> int:
        return int.from_bytes(self.payload[14:16], "big")

    @property
    def options(self) -> bytes:
        return self.payload[20 : (self.payload[12] >> 4) * 4]

    @property
    def data(self) -> bytes:
        return self.payload[(self.payload[12] >> 4) * 4 :]


def parse(raw: bytes) -> Seen:
    """Take apart, and insist on right lengths and checksums."""
    if raw[0] >> 4 == 4:
        assert raw[0] == 0x45 and checksum(raw[:20]) == 0
        assert int.from_bytes(raw[2:4], "big") == len(raw)
        a, b, protocol, payload = raw[12:16], raw[16:20], raw[9], raw[20:]
        fragment = int.from_bytes(raw[6:8], "big") & 0x3FFF
    else:
        assert raw[0] >> 4 == 6 and int.from_bytes(raw[4:6], "big") == len(raw) - 40
        a, b, protocol, payload = raw[8:24], raw[24:40], raw[6], raw[40:]
        fragment = protocol == FRAGMENT
    if not fragment:
        prefix = b"" if protocol == ICMP else pseudo(a, b, protocol, len(payload))
        assert checksum(prefix + payload) == 0
    family = socket.AF_INET if len(a) == 4 else socket.AF_INET6
    return Seen(socket.inet_ntop(family, a), socket.inet_ntop(family, b), protocol, payload, raw)


@dataclass
class Probe:
    """The application's side of a stack, packet by packet."""

    stack: Stack
    device: MemoryDevice
    flows: list[Flow] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)

    async def send(self, *packets: bytes) -> None:
        await self.device.send(list(packets))
        await trio.testing.wait_all_tasks_blocked(0.001)

    async def receive(self, seconds: float = 10.0) -> Seen:
        """The stack's next packet."""
        if not self.seen:
            with trio.fail_after(seconds):
                self.seen.extend(parse(raw) for raw in await self.device.__anext__())
        return self.seen.pop(0)

    async def drain(self) -> Seen | None:
        """Take all that the stack has sent, and return the last of it."""
        last = None
        while self.seen or self.device.waiting:
            last = await self.receive()
        return last

    async def silence(self, seconds: float = 0.05) -> None:
        """The stack sends nothing for so long."""
        with trio.move_on_after(seconds):
            seen = await self.receive(seconds + 1)
            raise AssertionError(f"the stack has sent {seen}")

    def counter(self, name: str) -> int:
        return self.stack.stats()[name]


@asynccontextmanager
async def probe(mtu: int = 1500, **options: Any) -> AsyncIterator[Probe]:
    """A stack that holds every SYN (``flows``), and the other end of its wire."""
    ours, theirs = memory_device_pair(mtu, queue=10_000)
    async with open_stack(ours, **options) as stack:
        result = Probe(stack, theirs)
        stack.on_flow = result.flows.append
        yield result


class Recorder:
    """A flow's handler that writes down what it is told."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.log: list[str] = []
        flow.handler = self

    def on_established(self) -> None:
        self.log.append("established")

    def on_readable(self) -> None:
        self.log.append("readable")

    def on_writable(self) -> None:
        self.log.append("writable")

    def on_reset(self) -> None:
        self.log.append("reset")

    def on_closed(self) -> None:
        self.log.append("closed")

    def read(self) -> bytes:
        buffer = bytearray(1 << 20)
        count = self.flow.pull_into(buffer)
        return bytes(buffer[: count or 0])


@dataclass
class Connection:
    """An established connection, seen from the application."""

    probe: Probe
    flow: Flow
    handler: Recorder
    source: tuple[str, int]
    destination: tuple[str, int]
    seq: int
    ack: int

    def segment(self, flags: int = ACK, data: bytes = b"", **more: Any) -> bytes:
        seq = more.pop("seq", self.seq)
        ack = more.pop("ack", self.ack)
        return tcp(self.source, self.destination, flags, seq, ack, data, **more)

    async def send(self, data: bytes, flags: int = ACK | PSH) -> None:
        packet = self.segment(flags, data)
        self.seq += len(data) + bool(flags & FIN)
        await self.probe.send(packet)


async def connect(
    p: Probe, family: int = 4, port: int = 40000, options: bytes = b"", **more: Any
) -> Connection:
    """SYN, SYN-ACK, ACK."""
    source, destination = (APP[family], port), (FAR[family], 80)
    await p.send(tcp(source, destination, SYN, 1000, options=options, **more))
    flow = p.flows.pop()
    handler = Recorder(flow)
    flow.accept()
    answer = await p.receive()
    assert answer.flags == SYN | ACK and answer.ack == 1001
    connection = Connection(p, flow, handler, source, destination, 1001, answer.seq + 1)
    await p.send(connection.segment(**more))
    assert handler.log == ["established"]
    handler.log.clear()
    return connection
