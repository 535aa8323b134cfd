"""Inside: sockets of the command's namespace, and which address a client is connected to.

A client on the host's loopback arrives on the namespace's loopback, as if it ran there; any other
one at the TUN's address, and from it. So a program that trusts its loopback (a database, a
development server) trusts this machine alone, and one that listens on its loopback alone is
not reached from elsewhere.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Protocol

from ..plan.addresses import TUN_IPV4, TUN_IPV6

__all__ = ["SocketMaker", "addresses_inside"]


class SocketMaker(Protocol):
    """As :class:`~..rootless.sockets.NamespaceSockets`."""

    async def open(self, family: int, kind: int) -> socket.socket: ...


def addresses_inside(client: str, *, ipv6: bool) -> tuple[str, ...]:
    """Return the addresses to be tried in turn: first that of the client's own family.

    The other one is for a program that listens with one family only, such as on ``::1``.

    :param client: the client's address, in text; of a link-local one with its zone.
    :param ipv6: the namespace has IPv6.
    """
    address = ipaddress.ip_address(client.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    four, six = (
        ("127.0.0.1", "::1") if address.is_loopback else (str(TUN_IPV4.ip), str(TUN_IPV6.ip))
    )
    if not ipv6:
        return (four,)
    return (four, six) if address.version == 4 else (six, four)
