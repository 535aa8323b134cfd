"""The length of a TUN device's queue, which holds packets of the kernel until they are read."""

from __future__ import annotations

__all__ = ["queue_length_for"]

# In packets: what comes at once is lost beyond it. A program that is killed sends a RST for each of
# its connections, up to the 8,192 of `--max-flows`, and never again; applications send thousands of
# datagrams and DNS queries in one burst, faster than the pump wakes. Bulk does not stand in it: the
# pump empties it at memory's speed, and uploads wait in lwIP, each in its window.
_MAX_PACKETS = 8192
# Of packets as long as the MTU: what a flood of them may take of the kernel's memory.
_MAX_BYTES = 64 << 20


def queue_length_for(mtu: int) -> int:
    """Return how many packets a device should hold until they are read.

    :param mtu: bytes, 576 to 65535.
    :returns: 1024 to 8192.
    """
    return min(_MAX_PACKETS, _MAX_BYTES // mtu)
