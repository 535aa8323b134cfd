"""Numbers of rtnetlink(7) that several kinds of step use."""

from __future__ import annotations

import errno
import socket

PROTOCOL = 122
"""Who made a route or a rule (rtnetlink's "protocol"): marks ours, for every look at the host."""
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
UNICAST = 1
"""The type of a route that leads somewhere (RTN_UNICAST)."""
UNREACHABLE = 7
"""The type of a route (RTN_UNREACHABLE) and the action of a rule (FR_ACT_UNREACHABLE)."""
TO_TABLE = 1
"""The action of a rule that leads to a table (FR_ACT_TO_TBL)."""

THERE = frozenset({errno.EEXIST})
"""Refusals of what is there already."""
GONE = frozenset(
    # EINVAL: what the kernel does not understand now, it cannot have taken before.
    {
        errno.ENOENT,
        errno.ESRCH,
        errno.ENODEV,
        errno.EADDRNOTAVAIL,
        errno.EAFNOSUPPORT,
        errno.EINVAL,
    }
)
"""Refusals to delete what has gone already."""
