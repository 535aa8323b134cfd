"""A capture that looks for plain DNS."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading

from tests.kits.netns.lab import Namespace

__all__ = ["Watch"]

_RCVBUFFORCE = 33  # SO_RCVBUFFORCE, SOL_PACKET and PACKET_STATISTICS have no names in Python
_SOL_PACKET, _STATISTICS = 263, 6


class Watch:
    """Counts packets of port 53 in a namespace, on every interface but TUN and loopback.

    A frame is in the capture's queue before its sender goes on: to have looked at all that is there
    is to have seen all that was sent.
    """

    def __init__(self, namespace: Namespace) -> None:
        with namespace.entered():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._socket.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, 64 << 20)
        self._socket.setblocking(False)
        self._looking = threading.Lock()
        self._seen: list[str] = []
        self._frames = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()
        _, dropped = struct.unpack("=II", self._socket.getsockopt(_SOL_PACKET, _STATISTICS, 8))
        self._socket.close()
        assert not dropped, f"{dropped} frames went by unseen"

    @property
    def seen(self) -> list[str]:
        """Those packets, up to now."""
        self._look()
        return self._seen

    @property
    def frames(self) -> int:
        """How many packets there were at all."""
        self._look()
        return self._frames

    def _run(self) -> None:
        while not self._stop.is_set():
            if select.select([self._socket], [], [], 0.1)[0]:
                self._look()

    def _look(self) -> None:
        """At all that is there now."""
        with self._looking, contextlib.suppress(BlockingIOError):
            while self._socket.fileno() >= 0:
                frame, address = self._socket.recvfrom(65535)
                if address[0] in ("lo", "zks0"):
                    continue
                self._frames += 1
                ports = _ports(frame[14:], int.from_bytes(frame[12:14], "big"))
                if 53 in ports:
                    self._seen.append(f"{address[0]}: {frame[14:54].hex()}")


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
