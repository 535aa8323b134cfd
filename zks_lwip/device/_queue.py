"""How long the queue of a TUN device is, from the kernel to whoever reads it."""

from __future__ import annotations

__all__ = ["queue_length_for"]

# In packets: what comes at once is lost beyond it. A program that is killed sends a RST for each of
# its connections, up to the 8,192 of `--max-flows`, and never again; applications send thousands of
# datagrams and DNS queries in one burst, faster than the pump wakes. Bulk does not stand in it: the
# pump empties it at memory's speed, and uploads wait in lwIP, each in its window.
_MOST_PACKETS = 8192
# Of packets as long as the MTU: what a flood of them may take of the kernel's memory.
_MOST_BYTES = 64 << 20


def queue_length_for(mtu: int) -> int:
    """Packets of ``mtu`` bytes that a device should hold until they are read: 1024 to 8192."""
    return min(_MOST_PACKETS, _MOST_BYTES // mtu)
