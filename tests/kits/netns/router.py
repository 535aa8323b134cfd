"""Router advertisements (RFC 4861 §4.2, RFC 4191), of a router or of a hostile neighbour."""

from __future__ import annotations

import ipaddress
import socket
import struct

from tests.kits.netns.lab import Namespace
from zks_lwip.net.netns import run_in_netns

_ADVERTISEMENT = 134
_PREFIX, _ROUTE = 3, 24
_ON_LINK_AND_AUTONOMOUS = 0xC0
_HIGH = 0x08  # preference


def advertise(
    net: Namespace, interface: str, *, prefixes: tuple[str, ...] = (), routes: tuple[str, ...] = ()
) -> None:
    """Send one: the sender is a default router; hosts take addresses of ``prefixes``, which are on
    the link, and reach ``routes`` through the sender.
    """
    packet = struct.pack("!BBHBBHII", _ADVERTISEMENT, 0, 0, 64, _HIGH, 1800, 0, 0)
    for text in prefixes:
        prefix = ipaddress.IPv6Network(text)
        flags = _ON_LINK_AND_AUTONOMOUS
        packet += struct.pack("!BBBBIII", _PREFIX, 4, prefix.prefixlen, flags, 3600, 3600, 0)
        packet += prefix.network_address.packed
    for text in routes:
        prefix = ipaddress.IPv6Network(text)
        packet += struct.pack("!BBBBI", _ROUTE, 3, prefix.prefixlen, _HIGH, 1800)
        packet += prefix.network_address.packed
    icmp = run_in_netns(
        net.path, socket.socket, socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6
    )
    with icmp:
        icmp.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        icmp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        icmp.sendto(packet, ("ff02::1", 0))
