"""What a stack needs of a device: one of two protocols."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal, Protocol, runtime_checkable

__all__ = ["FdDevice", "PacketDevice"]


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
