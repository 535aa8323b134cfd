"""What a stack needs of a device: one of three protocols."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

__all__ = ["FdDevice", "PacketDevice", "RingDevice", "WintunRing"]


@runtime_checkable
class FdDevice(Protocol):
    """A device behind a descriptor: the C pump reads and writes it, a packet a call."""

    @property
    def fd(self) -> int:
        """A descriptor, non-blocking, that stays open as long as the stack runs."""
        ...

    @property
    def mtu(self) -> int:
        """Bytes, 576 to 65535."""
        ...

    @property
    def framing(self) -> Literal["raw", "vnet", "utun"]:
        """What precedes each packet.

        ``raw``: nothing. ``vnet``: Linux's virtio_net_hdr of 10 bytes, with checksum and TSO
        offloads. ``utun``: macOS's address family of 4 bytes.
        """
        ...


@dataclass(frozen=True, slots=True)
class WintunRing:
    """A session of Wintun: its handle, its events, and the addresses of what works on it.

    The functions are wintun.dll's and Windows' own, as ``native/core/zks_wintun.h`` names them.
    """

    session: int
    receive: int
    release: int
    allocate: int
    send: int
    last_error: int
    wait: int
    set: int
    readable: int
    stop: int
    """An auto-reset event of the device's own, by which the pump is stopped; ``kick`` wakes it."""
    kick: int


class RingDevice(Protocol):
    """A device of Wintun: the C pump works on its rings, and waits for its event."""

    @property
    def ring(self) -> WintunRing:
        """A session that stays open as long as the stack runs."""
        ...

    @property
    def mtu(self) -> int:
        """Bytes, 576 to 65535."""
        ...


class PacketDevice(Protocol):
    """A device that gives and takes whole IP packets: a trio task pumps them."""

    @property
    def mtu(self) -> int:
        """Bytes, 576 to 65535."""
        ...

    def __aiter__(self) -> AsyncIterator[list[bytes]]:
        """Iterate over batches of packets for the stack; the end means that the device has gone."""
        ...

    async def send(self, packets: list[bytes]) -> None:
        """Take packets of the stack. Waiting here is backpressure; TCP sends lost packets again."""
        ...
