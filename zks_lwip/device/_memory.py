"""Devices in memory, in pairs: a wire between two stacks."""

from __future__ import annotations

from collections.abc import Callable

import trio

__all__ = ["MemoryDevice", "memory_device_pair"]


class MemoryDevice:
    """One end of a wire: takes packets from the stack and gives it those of its peer.

    :param mtu: bytes, 576 to 65535.
    :param queue: batches that wait for the stack, 1 or more; a full wire makes the sender wait.
    """

    def __init__(self, mtu: int = 1500, queue: int = 64) -> None:
        self.mtu = mtu
        self.filter: Callable[[list[bytes]], list[bytes]] | None = None
        """Given each batch that this end sends; returns the batch that leaves: loss, reordering,
        duplication for tests.
        """
        self._send, self._receive = trio.open_memory_channel[list[bytes]](queue)
        self._peer: MemoryDevice | None = None

    async def send(self, packets: list[bytes]) -> None:
        """Take packets that the stack has made; wait while the wire is full."""
        if self.filter is not None:
            packets = self.filter(packets)
        if self._peer is not None and packets:
            await self._peer._send.send(packets)

    def inject(self, packets: list[bytes]) -> None:
        """Give the stack packets, as if the peer had sent them.

        :raises trio.WouldBlock: the wire is full.
        """
        self._send.send_nowait(packets)

    @property
    def waiting(self) -> int:
        """Batches, sent by the peer or injected, that the stack has not taken."""
        return self._receive.statistics().current_buffer_used

    def __aiter__(self) -> MemoryDevice:
        return self

    async def __anext__(self) -> list[bytes]:
        return await self._receive.receive()


def memory_device_pair(mtu: int = 1500, queue: int = 64) -> tuple[MemoryDevice, MemoryDevice]:
    """Make the two ends of one wire.

    :param mtu: bytes, 576 to 65535.
    :param queue: batches that wait at each end, 1 or more.
    """
    a, b = MemoryDevice(mtu, queue), MemoryDevice(mtu, queue)
    a._peer, b._peer = b, a
    return a, b
