"""The interfaces by which the tunnel's sockets leave, where a system has no marks of sockets.

On macOS and Windows a socket stays out of the TUN by being bound to the interface of the default
route. Which one that is changes as the machine moves; who captures the host looks, and says so
here, and every socket that is opened with a mark from then on is bound to it (:mod:`.sockets`).
There is one captured host for a process.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["set_uplinks", "uplink"]

_indexes: dict[int, int] = {}


def set_uplinks(indexes: Mapping[int, int]) -> None:
    """Say by which interface sockets leave.

    :param indexes: the interface's index, for each of 4 and 6 that has a default route.
    """
    global _indexes
    _indexes = dict(indexes)  # at once: other threads open sockets


def uplink(version: int) -> int | None:
    """Return the index of the interface by which sockets of IPv4 or IPv6 leave; None: by none."""
    return _indexes.get(version)
