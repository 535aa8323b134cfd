"""Numbers and structures of macOS that Python's socket module does not have everywhere.

They are compared with the SDK's headers by a compiler (``tests/unit/test_macos_headers.py``);
``UTUN_OPT_IFNAME``, of net/if_utun.h, only where that header is at hand.
"""

from __future__ import annotations

import struct

__all__ = [
    "AF_ROUTE",
    "AF_SYSTEM",
    "CTLIOCGINFO",
    "CTL_INFO",
    "IFREQ_MTU",
    "IPV6_BOUND_IF",
    "IP_BOUND_IF",
    "LOCAL_PEERCRED",
    "LOCAL_PEERPID",
    "SIOCSIFMTU",
    "SOL_LOCAL",
    "SYSPROTO_CONTROL",
    "UTUN_CONTROL_NAME",
    "UTUN_OPT_IFNAME",
    "XUCRED",
]

AF_SYSTEM = 32
"""Sockets of the kernel's own controls."""
AF_ROUTE = 17
"""Routing sockets, route(4)."""
SYSPROTO_CONTROL = 2
CTLIOCGINFO = 0xC0644E03
"""ioctl: the number of the kernel control of a name."""
CTL_INFO = struct.Struct("=I96s")
"""``struct ctl_info``: number and name of a kernel control."""
UTUN_CONTROL_NAME = "com.apple.net.utun_control"
UTUN_OPT_IFNAME = 2
"""Socket option of a utun: the name of its interface."""
SIOCSIFMTU = 0x80206934
IFREQ_MTU = struct.Struct("=16si12x")
"""``struct ifreq`` with an MTU."""
SOL_LOCAL, LOCAL_PEERCRED, LOCAL_PEERPID = 0, 1, 2
"""Options of a unix socket: who is at its other end."""
XUCRED = struct.Struct("=IIh2x16I")
"""``struct xucred``: version, user id, how many groups, and their ids, the effective one first."""
IP_BOUND_IF, IPV6_BOUND_IF = 25, 125
"""Socket options: the index of the only interface that a socket uses."""
