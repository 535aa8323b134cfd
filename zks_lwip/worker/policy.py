"""Which addresses a worker refuses to reach (PROTOCOL.md §7: server-side request forgery).

Pure: no sockets, no look-ups; which addresses are this machine's own is asked of who is given for
it. A name is resolved elsewhere and *every address that is really connected to* is put through
:meth:`Policy.refusal`; there is no second look-up between check and connect, so DNS rebinding finds
no gap.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_network,
)
from typing import Protocol

from ..errors import ConfigError
from ..net.names import explain_network

__all__ = [
    "IPAddress",
    "IPNetwork",
    "InvalidHost",
    "Own",
    "Policy",
    "embedded_ipv4",
    "parse_address",
    "parse_network",
]

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

#: The cloud's metadata services that no wider class below covers or names well (AWS, Google, Azure,
#: Oracle, Alibaba, Scaleway, and AWS's container credentials). Azure's is a public address: only
#: its name protects it.
_METADATA: tuple[IPNetwork, ...] = tuple(
    ip_network(text)
    for text in (
        "169.254.169.254",
        "169.254.170.2",
        "169.254.170.23",
        "169.254.42.42",
        "168.63.129.16",
        "100.100.100.200",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
        "fd00:c1::a9fe:a9fe",
    )
)

# First match names the reason, so the narrow come before the wide. IANA's special-purpose
# registries, RFC 6890 and its updates.
_REFUSED_V4: tuple[tuple[str, IPv4Network], ...] = tuple(
    (reason, IPv4Network(text))
    for reason, text in (
        ("unspecified", "0.0.0.0/8"),
        ("private", "10.0.0.0/8"),
        ("carrier-grade NAT", "100.64.0.0/10"),
        ("loopback", "127.0.0.0/8"),
        ("link-local", "169.254.0.0/16"),
        ("private", "172.16.0.0/12"),
        ("reserved", "192.0.0.0/24"),
        ("documentation", "192.0.2.0/24"),
        ("reserved", "192.88.99.0/24"),
        ("private", "192.168.0.0/16"),
        ("benchmarking", "198.18.0.0/15"),
        ("documentation", "198.51.100.0/24"),
        ("documentation", "203.0.113.0/24"),
        ("multicast", "224.0.0.0/4"),
        ("broadcast", "255.255.255.255/32"),
        ("reserved", "240.0.0.0/4"),
    )
)

_REFUSED_V6: tuple[tuple[str, IPv6Network], ...] = tuple(
    (reason, IPv6Network(text))
    for reason, text in (
        ("unspecified", "::/128"),
        ("loopback", "::1/128"),
        ("IPv4-compatible", "::/96"),
        ("local-use NAT64", "64:ff9b:1::/48"),
        ("discard-only", "100::/64"),
        ("benchmarking", "2001:2::/48"),
        ("documentation", "2001:db8::/32"),
        ("reserved", "2001::/23"),
        ("documentation", "3fff::/20"),
        ("unique-local", "fc00::/7"),
        ("link-local", "fe80::/10"),
        ("site-local", "fec0::/10"),
        ("multicast", "ff00::/8"),
    )
)

_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR = IPv6Network("2002::/16")
_TEREDO = IPv6Network("2001::/32")
_COMPATIBLE = IPv6Network("::/96")
_TRANSLATED = IPv6Network("::ffff:0:0:0/96")  # SIIT, RFC 2765
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)  # the upper half of the interface identifier, RFC 5214

_OWN = "the worker's own address"

_HEX = frozenset(string.hexdigits)
_OCT = frozenset(string.octdigits)
_DEC = frozenset(string.digits)


class InvalidHost(ValueError):
    """A host that is neither an address, nor anything that could be a name."""


def parse_network(text: str) -> IPNetwork:
    """Read a network that may be reached, such as ``10.0.0.0/8``, or a single address.

    :raises ConfigError: it is neither, or has host bits set: a network that was mistyped would open
        more, or less, than was meant.
    """
    try:
        return ip_network(text)
    except ValueError as error:
        raise ConfigError(f"{text}: {explain_network(text, error)}", "allow") from None


def _ipv4_part(text: str) -> int | None:
    """A number as inet_aton reads it: 0x… hexadecimal, 0… octal, else decimal. None: not a
    number."""
    if not text:
        return None
    if text[:2] in ("0x", "0X"):
        digits = text[2:]
        return int(digits, 16) if digits and _HEX.issuperset(digits) else None
    if text[0] == "0":
        return int(text, 8) if _OCT.issuperset(text) else None
    return int(text) if _DEC.issuperset(text) else None


def _parse_ipv4(text: str) -> IPv4Address | None:
    """``a``, ``a.b``, ``a.b.c`` or ``a.b.c.d``, the last part filling what is left
    (inet_aton(3))."""
    parts = text.split(".")
    if len(parts) > 4 or len(text) > 64:
        return None
    value = 0
    last = len(parts) - 1
    for index, part in enumerate(parts):
        number = _ipv4_part(part)
        if number is None:
            return None
        bits = 8 * (4 - index) if index == last else 8
        if number >> bits:
            return None
        value = value << bits | number
    return IPv4Address(value)


def parse_address(host: str) -> IPAddress | None:
    """Return the address that a host denotes, in any spelling that the system would read as one.

    IPv4-mapped IPv6 is IPv4, as it is on the wire.

    :returns: None: it is a name.
    :raises InvalidHost: for what must never be looked up: an empty host, a zone (``fe80::1%eth0``),
        brackets, blanks and control characters, and a "name" whose last label is a number (no such
        top-level domain exists; resolvers disagree on what it means).
    """
    if not host or len(host) > 255:
        raise InvalidHost("an empty or overlong host")
    if ":" in host:
        if "%" in host:
            raise InvalidHost("an address with a zone")
        try:
            address = IPv6Address(host)
        except ValueError:
            raise InvalidHost("neither an IPv6 address nor a name") from None
        return address.ipv4_mapped or address
    ipv4 = _parse_ipv4(host)
    if ipv4 is not None:
        return ipv4
    if any(ord(char) <= 0x20 or ord(char) == 0x7F or char in "[]/%@\\" for char in host):
        raise InvalidHost("a character that no name has")
    label = host.removesuffix(".").rpartition(".")[2]
    if _ipv4_part(label) is not None or _DEC.issuperset(label):
        raise InvalidHost("neither an IPv4 address nor a name")
    return None


def embedded_ipv4(address: IPv6Address) -> Iterator[IPv4Address]:
    """Every IPv4 address that this IPv6 address carries inside, in a form that something on the way
    may unpack.

    IPv4-mapped, IPv4-compatible (RFC 4291), translated (RFC 2765), NAT64 (RFC 6052), 6to4 (RFC
    3056), Teredo (server and client, RFC 4380) and ISATAP (RFC 5214).
    """
    value = int(address)
    low = value & 0xFFFF_FFFF
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    elif address in _NAT64 or address in _TRANSLATED:
        yield IPv4Address(low)
    elif address in _COMPATIBLE:
        if low > 1:  # :: and ::1 are themselves
            yield IPv4Address(low)
    elif address in _SIX_TO_FOUR:
        yield IPv4Address(value >> 80 & 0xFFFF_FFFF)
    elif address in _TEREDO:
        yield IPv4Address(value >> 64 & 0xFFFF_FFFF)
        yield IPv4Address(low ^ 0xFFFF_FFFF)
    if (value >> 32 & 0xFFFF_FFFF) in _ISATAP:
        yield IPv4Address(low)


def _refusal_v4(address: IPv4Address) -> str | None:
    for reason, network in _REFUSED_V4:
        if address in network:
            return reason
    return None


def _refusal_v6(address: IPv6Address) -> str | None:
    if address in _TEREDO:
        return None  # what it embeds decides
    for reason, network in _REFUSED_V6:
        if address in network:
            return reason
    if address not in _GLOBAL_UNICAST and address not in _NAT64:
        return "reserved"
    return None


class Own(Protocol):
    """Who knows the addresses of the worker's own machine."""

    def owns(self, address: IPAddress) -> bool:
        """Return whether it is one of them now."""

    def owned_lately(self, address: IPAddress) -> bool:
        """The same, cheaper, and a little late: for each datagram."""


class Policy:
    """What may be reached: everything public that is not the worker's own machine, and what the
    operator allows.

    :param allow: networks that are allowed whatever they are. An allowed IPv4 network is allowed in
    every IPv6 form
        that embeds it; an allowed IPv6 network is allowed as it is, whatever its addresses embed.
    :param own: tells this machine's own addresses; None: they are not asked about.
    """

    def __init__(self, allow: Iterable[IPNetwork] = (), own: Own | None = None) -> None:
        self.allow: tuple[IPNetwork, ...] = tuple(allow)
        self._own = own
        # A datagram costs a check each way, a connection one: but for what is our own, the answer
        # does not change.
        self._cached = lru_cache(maxsize=4096)(self._check_literal)
        self._cached_networks = lru_cache(maxsize=4096)(self._by_network)

    def _allowed(self, address: IPAddress) -> bool:
        return any(
            network.version == address.version and address in network for network in self.allow
        )

    def refusal(self, address: IPAddress) -> str | None:
        """Return why the address is refused, in a word or two; None: it may be reached."""
        reason, open_addresses = self._cached_networks(address)
        if reason is None and self._own is not None and any(map(self._own.owns, open_addresses)):
            return _OWN
        return reason

    def _by_network(self, address: IPAddress) -> tuple[str | None, tuple[IPAddress, ...]]:
        """Return why the networks forbid it, or None, and which addresses must not be our own.

        Those are the address and what it embeds, but for what is allowed.
        """
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if self._allowed(address):
            return None, ()
        for network in _METADATA:
            if network.version == address.version and address in network:
                return "cloud metadata", ()
        if isinstance(address, IPv4Address):
            return _refusal_v4(address), (address,)
        inner = list(embedded_ipv4(address))
        open_addresses: tuple[IPAddress, ...] = (address,)
        for carried in inner:
            reason, more = self._by_network(carried)
            if reason is not None:
                return f"{reason} (embedded {carried})", ()
            open_addresses += more
        if inner and all(map(self._allowed, inner)):
            return None, ()
        return _refusal_v6(address), open_addresses

    def _check_literal(
        self, host: str
    ) -> tuple[IPAddress | None, str | None, tuple[IPAddress, ...]]:
        try:
            address = parse_address(host)
        except InvalidHost as error:
            return None, str(error), ()
        if address is None:
            return None, "not an address", ()
        return address, *self._by_network(address)

    def check_literal(self, host: str) -> tuple[IPAddress | None, str | None]:
        """Return the address of a host that must be a literal (UDP, ECHO), and a reason. Cached.

        :returns: the address is None when the host is no literal, the reason when it may be
            reached.
        """
        address, reason, open_addresses = self._cached(host)
        if reason is None and self._own is not None:
            for one in open_addresses:
                if self._own.owned_lately(one):
                    return address, _OWN
        return address, reason

    def permits(self, host: str) -> bool:
        """Return whether the literal may be reached; False for a refused address and for what is no
        literal."""
        return self.check_literal(host)[1] is None
