"""Addresses of the names that clients send datagrams to: the worker is asked, and keeps to its own.

For TCP nothing is looked up here: the worker is given the name.
"""

from __future__ import annotations

import ipaddress
import struct
from collections import OrderedDict
from functools import lru_cache
from typing import TYPE_CHECKING

import trio

from ..dns.message.addresses import addresses_in
from ..dns.message.wire import HEADER, RD, Type, WireError, encode_name, walk
from ..errors import DnsError
from ..net.names import InvalidName, ends_in_number, host_name

if TYPE_CHECKING:
    from ..dns import DnsTunnel

__all__ = ["MAX_NAMES", "Names", "literal"]

MAX_NAMES = 1024
"""Names whose addresses are remembered; the least recently used is forgotten first."""
_LIFETIME = (5.0, 300.0)
"""Seconds that an answer is remembered: the least, also of one that there is none, and the most."""
_IN = 1


@lru_cache(maxsize=1024)
def literal(host: str) -> str | None:
    """Return an address as PROTOCOL.md §5 wants it (an IPv4-mapped one as IPv4); None: a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return None
        address = address.ipv4_mapped or address
    return str(address)


class Names:
    """A cache of addresses."""

    def __init__(self, tunnel: DnsTunnel) -> None:
        self._tunnel = tunnel
        self._known: OrderedDict[str, tuple[str | None, float]] = OrderedDict()

    def known(self, name: str) -> tuple[str | None] | None:
        """Return the address that is remembered for a name, in a tuple; None: it is not known.

        The address is None where the name has none.
        """
        entry = self._known.get(name)
        if entry is None or entry[1] <= trio.current_time():
            return None
        self._known.move_to_end(name)
        return (entry[0],)

    async def find(self, name: str, *, ipv6: bool) -> str | None:
        """Return an address of a name, that of IPv4 if there is one; None: it has none.

        :param ipv6: the worker has IPv6.
        """
        address, seconds = None, _LIFETIME[0]
        try:
            plain = host_name(name)
            if not ends_in_number(plain):
                for kind in (Type.A, Type.AAAA) if ipv6 else (Type.A,):
                    address, seconds = await self._ask(plain, kind)
                    if address is not None:
                        break
        except (InvalidName, DnsError, WireError):
            address = None  # the datagram is dropped, and counted
        least, most = _LIFETIME
        self._known[name] = (address, trio.current_time() + min(max(seconds, least), most))
        self._known.move_to_end(name)
        if len(self._known) > MAX_NAMES:
            self._known.popitem(last=False)
        return address

    async def _ask(self, name: str, kind: Type) -> tuple[str | None, float]:
        """Return an address and for how long it holds, in seconds.

        :raises DnsError: there is no such name, or no name server could tell.
        :raises WireError: the answer is malformed.
        """
        question = encode_name(name) + struct.pack("!HH", kind, _IN)
        answer = await self._tunnel.dns_query(HEADER.pack(0, RD, 1, 0, 0, 0) + question)
        addresses = addresses_in(answer, kind)
        lifetimes = [ttl for _, ttl, section, _ in walk(answer).ttls if section == 1]
        return (addresses[0] if addresses else None), min(lifetimes, default=0)
