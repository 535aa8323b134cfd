"""A capture that looks for plain DNS."""

from __future__ import annotations

import select
import socket
import struct
import threading

from tests.netns.lab import Namespace

__all__ = ["Watch"]

_RCVBUFFORCE = 33  # SO_RCVBUFFORCE, SOL_PACKET and PACKET_STATISTICS have no names in Python
_SOL_PACKET, _STATISTICS = 263, 6


class Watch:
    """Counts packets of port 53 in a namespace, on every interface but TUN and loopback."""

    def __init__(self, namespace: Namespace) -> None:
        with namespace.entered():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._socket.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, 64 << 20)
        self.seen: list[str] = []
        self.frames = 0
        """How many packets there were at all."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        _, dropped = struct.unpack("=II", self._socket.getsockopt(_SOL_PACKET, _STATISTICS, 8))
        self._socket.close()
        assert not dropped, f"{dropped} frames went by unseen"

    def _run(self) -> None:
        while not self._stop.is_set():
            if not select.select([self._socket], [], [], 0.1)[0]:
                continue
            frame, address = self._socket.recvfrom(65535)
            if address[0] in ("lo", "zks0"):
                continue
            self.frames += 1
            ports = _ports(frame[14:], int.from_bytes(frame[12:14], "big"))
            if 53 in ports:
                self.seen.append(f"{address[0]}: {frame[14:54].hex()}")


def _ports(packet: bytes, ethertype: int) -> tuple[int, ...]:
    if ethertype == 0x0800 and packet[9] in (6, 17):
        start = (packet[0] & 15) * 4
    elif ethertype == 0x86DD and packet[6] in (6, 17):
        start = 40
    else:
        return ()
    return (
        int.from_bytes(packet[start : start + 2], "big"),
        int.from_bytes(packet[start + 2 : start + 4], "big"),
    )
