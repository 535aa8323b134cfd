"""Names of special use, which are never asked outside: there they would only tell of this network.

Names without a public meaning (RFC 6761, 6762, 7686, 9476), the zones that every resolver is to
serve itself (RFC 6303, 7793, 8375, 9462), and host names without a dot. ``test`` is not among them:
it says nothing of a network, and resolvers of one's own serve it.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from .message.answer import Answer, local_answer
from .message.query import Query
from .message.wire import Ede, Rcode, Type, ede_option, encode_name, soa_data

__all__ = [
    "ENDINGS",
    "SINGLE",
    "SPECIAL_TTL",
    "ZONES",
    "Zone",
    "answer_single",
    "answer_special",
    "is_single",
]

SPECIAL_TTL = 300
"""Seconds that a denial may be kept. RFC 6303 has three hours by default; but a name may be put
into /etc/hosts at any time.
"""

_DS = 43
_ROOT = b"\0"


@dataclass(frozen=True, slots=True)
class Zone:
    """A name of special use, and everything below it."""

    name: bytes
    """In wire form, in lower case."""
    reason: str
    """For the client (RFC 8914)."""
    served: bool = True
    """There is a zone of that name, with SOA and NS records. Not for top-level names: programs take
    an SOA record of ``local`` for a sign that it is not for multicast DNS.
    """
    empty: bool = False
    """Names below it exist, without records."""
    delegated: bool = True
    """The public tree has it, unsigned; only its parent can say so (the DS record)."""


def _reverse4(*networks: str) -> list[str]:
    return [".".join(reversed(network.split("."))) + ".in-addr.arpa" for network in networks]


def _zones() -> dict[bytes, Zone]:
    zones: dict[bytes, Zone] = {}

    def add(names: list[str], rfc: str, **arguments: bool) -> None:
        for name in names:
            text = f"not asked outside ({rfc}); --dns-forward can name a server for it"
            zone = Zone(encode_name(name), text, **arguments)
            zones[zone.name] = zone

    add(["local"], "RFC 6762", served=False, delegated=False)
    add(["invalid"], "RFC 6761", served=False, delegated=False)
    add(["onion"], "RFC 7686", served=False, delegated=False)
    add(["alt"], "RFC 9476", served=False, delegated=False)
    add(["localhost"], "RFC 6761", served=False, delegated=False, empty=True)
    add(["home.arpa"], "RFC 8375")
    add(["resolver.arpa"], "RFC 9462", empty=True)
    add(_reverse4("10", *(f"172.{n}" for n in range(16, 32)), "192.168"), "RFC 6761")
    add(_reverse4("0", "127", "169.254", "192.0.2", "198.51.100", "203.0.113"), "RFC 6303")
    add(_reverse4("255.255.255.255"), "RFC 6303")
    add(_reverse4(*(f"100.{n}" for n in range(64, 128))), "RFC 7793")
    # The tunnel's own addresses are among these (RFC 2544).
    add(_reverse4("198.18", "198.19"), "RFC 6890")
    add([ipaddress.IPv6Address(n).reverse_pointer for n in (0, 1)], "RFC 6303")
    add(["c.f.ip6.arpa", "d.f.ip6.arpa"], "RFC 6303")
    add([f"{digit}.e.f.ip6.arpa" for digit in "89ab"], "RFC 6303")
    add(["8.b.d.0.1.0.0.2.ip6.arpa"], "RFC 6303")
    return zones


ZONES = _zones()
"""By name in wire form."""

ENDINGS = tuple(map(encode_name, ("local", "invalid", "onion", "alt", "localhost", "arpa")))
"""How the names of all zones end: what to look for first."""

SINGLE = frozenset((Type.A, Type.AAAA, Type.HTTPS, Type.SVCB))
"""What is asked of a host's name. Other types of a name without a dot are those of a public
top-level domain (NS, DS, DNSKEY, SOA), and are asked.
"""

_LOCALHOST = encode_name("localhost")
_LOOPBACK = {Type.A: b"\x7f\0\0\1", Type.AAAA: bytes(15) + b"\1"}
_LOOPBACK_NAMES = frozenset(
    encode_name(ipaddress.ip_address(address).reverse_pointer) for address in ("127.0.0.1", "::1")
)
_SINGLE_REASON = ede_option(
    Ede.SYNTHESIZED,
    "a name without a dot is not asked outside; --dns-static or --dns-forward can give it",
)


def answer_special(query: Query, zone: Zone, *, known: bool = False) -> Answer | None:
    """Answer a query for a name in ``zone``; None for what only the zone's public parent knows.

    ``known``: the name has records of another type here (in the hosts file, say).
    """
    name, kind = query.name, query.kind
    apex = name == zone.name
    if apex and kind == _DS and zone.delegated:
        return None
    records: list[tuple[int, bytes]] = []
    if zone.name == _LOCALHOST:
        records += [one for one in _LOOPBACK.items() if kind in (one[0], Type.ANY)]
    elif name in _LOOPBACK_NAMES and kind in (Type.PTR, Type.ANY):
        records.append((Type.PTR, _LOCALHOST))
    if apex and zone.served and kind in (Type.SOA, Type.ANY):
        records.append((Type.SOA, soa_data(name, SPECIAL_TTL)))
    if apex and zone.served and kind in (Type.NS, Type.ANY):
        records.append((Type.NS, name))
    if records:
        return local_answer(query, records)
    exists = known or zone.empty or (apex and zone.served) or name in _LOOPBACK_NAMES
    return local_answer(
        query,
        rcode=Rcode.NOERROR if exists else Rcode.NXDOMAIN,
        ttl=SPECIAL_TTL,
        options=ede_option(Ede.SYNTHESIZED, zone.reason),
        denied_by=zone.name if zone.served else _ROOT,
    )


def is_single(query: Query) -> bool:
    """Return whether a host's name without a dot is asked for."""
    name = query.name
    return query.kind in SINGLE and name[0] > 0 and name[name[0] + 1] == 0


def answer_single(query: Query) -> Answer:
    """Answer such a query: no addresses.

    Not that there is no such name: it may be a top-level domain, below which there are names.
    """
    return local_answer(query, ttl=SPECIAL_TTL, options=_SINGLE_REASON, denied_by=query.name)
