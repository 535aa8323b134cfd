"""A far host behind a link of its own: slow, with a small MTU, and a mirror.

It gives back every UDP datagram and every ping, after a delay. The link is a TUN device in the
namespace that the thread is started in; what does not fit into its MTU, that namespace's router
answers by ICMP.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import threading
import time
from collections import deque

_TUNSETIFF = 0x400454CA
_TUN_WITHOUT_INFORMATION = 0x1001
_ICMP, _UDP, _FRAGMENT, _ICMP6 = 1, 17, 44, 58


class Mirror(threading.Thread):
    """Made while its namespace is entered; ``close`` removes the device."""

    def __init__(self, name: str, delay: float) -> None:
        super().__init__(daemon=True)
        self._delay = delay
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        request = struct.pack("16sH22x", name.encode(), _TUN_WITHOUT_INFORMATION)
        fcntl.ioctl(self._tun, _TUNSETIFF, request)
        self._stop_read, self._stop_write = os.pipe()

    def run(self) -> None:
        while True:
            pause = None
            if self._waiting:
                pause = max(0.0, self._waiting[0][0] - time.monotonic())
            ready, _, _ = select.select([self._tun, self._stop_read], [], [], pause)
            if self._stop_read in ready:
                return
            if self._tun in ready:
                answer = reflected(os.read(self._tun, 65536))
                if answer is not None:
                    self._waiting.append((time.monotonic() + self._delay, answer))
            while self._waiting and self._waiting[0][0] <= time.monotonic():
                os.write(self._tun, self._waiting.popleft()[1])

    def close(self) -> None:
        os.write(self._stop_write, b"x")
        self.join()
        for descriptor in (self._tun, self._stop_read, self._stop_write):
            os.close(descriptor)


def reflected(packet: bytes) -> bytes | None:
    """The packet on its way back: ports and addresses change places, which no checksum minds."""
    data = bytearray(packet)
    if data[0] >> 4 == 4:
        data[12:16], data[16:20] = packet[16:20], packet[12:16]
        start, protocol = (data[0] & 15) * 4, data[9]
        first = not struct.unpack("!H", packet[6:8])[0] & 0x1FFF
    else:
        data[8:24], data[24:40] = packet[24:40], packet[8:24]
        start, protocol, first = 40, data[6], True
        if protocol == _FRAGMENT:
            protocol, start = data[40], 48
            first = not struct.unpack("!H", packet[42:44])[0] & 0xFFF8
    if not first and protocol in (_UDP, _ICMP, _ICMP6):
        return bytes(data)
    if protocol == _UDP:
        data[start : start + 2], data[start + 2 : start + 4] = (
            packet[start + 2 : start + 4],
            packet[start : start + 2],
        )
        return bytes(data)
    if (protocol, data[start]) in ((_ICMP, 8), (_ICMP6, 128)):
        reply = 0 if protocol == _ICMP else 129
        _retype(data, start, reply)
        return bytes(data)
    return None


def _retype(data: bytearray, start: int, kind: int) -> None:
    """Another ICMP type, the checksum kept true (RFC 1624 §3)."""
    (checksum,) = struct.unpack_from("!H", data, start + 2)
    total = (~checksum & 0xFFFF) + (~(data[start] << 8) & 0xFFFF) + (kind << 8)
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    data[start] = kind
    struct.pack_into("!H", data, start + 2, ~total & 0xFFFF)
