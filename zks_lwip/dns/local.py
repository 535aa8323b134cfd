"""Names that are answered at once: static ones, /etc/hosts, blocked ones, those of special use.

Everything is looked up by the wire form of the name in lower case, so that a query costs a few
dictionary look-ups.
"""

from __future__ import annotations

import io
import ipaddress
import logging
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from .._util import open_file
from ..errors import ConfigError
from ..net.descriptors import is_scarcity, warn_of_scarcity
from ..net.names import InvalidName, host_name
from .message.answer import Answer, local_answer
from .message.query import Query
from .message.wire import Ede, Rcode, Type, WireError, ede_option, encode_name
from .special import ENDINGS, ZONES, answer_single, answer_special, is_single

__all__ = ["LocalNames", "StaticName", "parse_static_name"]

_log = logging.getLogger(__name__)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

STATIC_TTL = 60
HOSTS_TTL = 5
"""/etc/hosts may change at any time; resolvers that answer from it say 0 or little."""
BLOCK_TTL = 60

_IN = 1
_ANY_CLASS = 255
_ADDRESS_KINDS = frozenset((Type.A, Type.AAAA, Type.ANY, Type.HTTPS, Type.SVCB))
_UNSPECIFIED = frozenset(("0.0.0.0", "::", "127.0.0.1", "::1"))

# What a browser asks in order to bypass this resolver is answered "no" (Mozilla's canary): its
# queries would go through the tunnel, but past block lists, cache and local names.
_CANARY = encode_name("use-application-dns.net")


@dataclass(slots=True)
class _Names:
    """Addresses by name and names by address."""

    addresses: dict[bytes, list[Address]] = field(default_factory=dict)
    pointers: dict[bytes, list[bytes]] = field(default_factory=dict)

    def add(self, name: bytes, address: Address) -> None:
        known = self.addresses.setdefault(name, [])
        if address not in known:
            known.append(address)
        names = self.pointers.setdefault(encode_name(address.reverse_pointer), [])
        if name not in names:
            names.append(name)


@dataclass(slots=True)
class _Blocks:
    zeroed: set[bytes] = field(default_factory=set)
    denied: set[bytes] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class StaticName:
    """A name that is answered here and never asked for elsewhere."""

    name: str
    """Lower case, without the final dot."""
    address: Address

    def __str__(self) -> str:
        return f"{self.name}={self.address}"


def parse_static_name(text: str) -> StaticName:
    """Read ``NAME=ADDRESS``.

    :raises ConfigError: it is none.
    """
    name, equals, address = text.partition("=")
    if not equals:
        raise ConfigError(
            f"{text!r} is not NAME=ADDRESS, such as printer.lan=192.0.2.7.", "dns_static"
        )
    try:
        parsed = ipaddress.ip_address(address.strip("[] "))
    except ValueError:
        raise ConfigError(
            f"{text!r}: {address!r} is no IPv4 or IPv6 address. "
            "Write NAME=ADDRESS, such as printer.lan=192.0.2.7.",
            "dns_static",
        ) from None
    if getattr(parsed, "scope_id", None):
        raise ConfigError(
            f"{text!r}: an answer cannot carry a zone; leave out the %.", "dns_static"
        )
    try:
        return StaticName(host_name(name.strip()), parsed)
    except InvalidName:
        raise ConfigError(
            f"{text!r}: {name!r} is no host name; write it as printer.lan.", "dns_static"
        ) from None


class LocalNames:
    """The tables, and the look-up.

    :param static: names that are answered here, several times with several addresses.
    :param hosts: a hosts file, which counts as empty when it cannot be read; None: none.
    :param block: lists, one entry a line: ``0.0.0.0 NAME...`` (hosts style: that name has the
        unspecified address) or ``NAME`` (neither it nor anything below it exists).
    :param forward: domains that have a server of their own, whatever their names are used for.
    :raises ConfigError: a static name is none of DNS, or a list cannot be read.
    """

    def __init__(
        self,
        *,
        static: Iterable[StaticName] = (),
        hosts: str | os.PathLike[str] | None = "/etc/hosts",
        block: Iterable[str | os.PathLike[str]] = (),
        forward: Iterable[str] = (),
    ) -> None:
        self._static = _Names()
        for item in static:
            try:
                self._static.add(encode_name(item.name), item.address)
            except WireError as error:
                raise ConfigError(f"{item}: {error}", "dns_static") from error
        self._hosts_path = hosts
        self._block_paths = tuple(block)
        self._forward = frozenset(encode_name(domain) for domain in forward)
        self._hosts = _Names()
        self._hosts_stamp: object = None
        self._blocks = _Blocks()
        self._read_all(given=True)

    def reload(self) -> bool:
        """Read the block lists and the hosts file again.

        :returns: True.
        :raises ConfigError: a list cannot be read.
        """
        self._read_all(given=False)
        return True

    def _read_all(self, *, given: bool) -> None:
        blocks = _Blocks()
        for path in self._block_paths:
            _read_blocks(path, blocks, given=given)
        self._blocks = blocks
        self._hosts_stamp = None
        self.refresh_hosts()

    def refresh_hosts(self) -> bool:
        """Read the hosts file if it has changed since it was last read; return whether it had.

        May run in any thread.
        """
        stamp = _stamp(self._hosts_path)
        if stamp == self._hosts_stamp:
            return False
        try:
            self._hosts = _read_hosts(self._hosts_path)
        except OSError as error:
            if is_scarcity(error):  # it is there: what was read before stays in force
                warn_of_scarcity(f"{self._hosts_path} is not read again yet", error)
                return False
            reason = error.strerror
            _log.warning(
                "%s cannot be read (%s); no name in it is answered", self._hosts_path, reason
            )
            self._hosts = _Names()
        self._hosts_stamp = stamp
        return True

    @property
    def blocked_names(self) -> int:
        """How many names the block lists hold."""
        return len(self._blocks.zeroed) + len(self._blocks.denied)

    def lookup(self, query: Query) -> tuple[Answer, str] | None:
        """Return the answer and its origin: "static", "hosts", "special" or "blocked".

        None: the query has to be asked.
        """
        name, kind = query.name, query.kind
        if query.klass != _IN and query.klass != _ANY_CLASS:
            return None
        addresses = self._static.addresses.get(name)
        if addresses is not None:
            return _addresses(query, addresses, STATIC_TTL), "static"
        addresses = self._hosts.addresses.get(name)
        if addresses is not None and kind in _ADDRESS_KINDS:
            return _addresses(query, addresses, HOSTS_TTL), "hosts"
        if kind == Type.PTR:
            names = self._static.pointers.get(name)
            if names is not None:
                return _pointers(query, names, STATIC_TTL), "static"
            names = self._hosts.pointers.get(name)
            if names is not None:
                return _pointers(query, names, HOSTS_TTL), "hosts"
        blocks = self._blocks
        if name in blocks.zeroed:
            return _zeroed(query), "blocked"
        denied = blocks.denied
        if denied and _in(name, denied):
            return local_answer(
                query, rcode=Rcode.NXDOMAIN, ttl=BLOCK_TTL, options=_BLOCKED
            ), "blocked"
        special = self._special(query)
        if special is None or (self._forward and _in(name, self._forward)):
            return None
        return special, "special"

    def _special(self, query: Query) -> Answer | None:
        """Return the answer to a query that is not to be asked outside, if it is one."""
        name = query.name
        if name == _CANARY:
            return local_answer(query, rcode=Rcode.NXDOMAIN)
        position = 0
        while name[position] and name.endswith(ENDINGS):
            zone = ZONES.get(name[position:])
            if zone is not None:
                hosts = self._hosts
                known = name in hosts.addresses or name in hosts.pointers
                return answer_special(query, zone, known=known or name in self._static.pointers)
            position += name[position] + 1
        return answer_single(query) if is_single(query) else None


_BLOCKED = ede_option(Ede.BLOCKED, "on a block list")
_ZERO: list[Address] = [ipaddress.IPv4Address(0), ipaddress.IPv6Address(0)]


def _in(name: bytes, domains: Collection[bytes]) -> bool:
    """Return whether a name is one of ``domains``, or below one."""
    position = 0
    while name[position]:
        if name[position:] in domains:
            return True
        position += name[position] + 1
    return False


def _zeroed(query: Query) -> Answer:
    return local_answer(query, _address_records(query, _ZERO), ttl=BLOCK_TTL, options=_BLOCKED)


def _address_records(query: Query, addresses: list[Address]) -> list[tuple[int, bytes]]:
    records: list[tuple[int, bytes]] = []
    for address in addresses:
        kind = Type.A if address.version == 4 else Type.AAAA
        if query.kind in (kind, Type.ANY):
            records.append((kind, address.packed))
    return records


def _addresses(query: Query, addresses: list[Address], ttl: int) -> Answer:
    return local_answer(query, _address_records(query, addresses), ttl=ttl)


def _pointers(query: Query, names: list[bytes], ttl: int) -> Answer:
    return local_answer(query, [(Type.PTR, name) for name in names], ttl=ttl)


def _stamp(path: str | os.PathLike[str] | None) -> object:
    if path is None:
        return ()
    try:
        status = os.stat(path)
    except OSError as error:
        return error.errno
    return status.st_mtime_ns, status.st_size, status.st_ino


def _read_hosts(path: str | os.PathLike[str] | None) -> _Names:
    names = _Names()
    if path is None:
        return names
    with io.TextIOWrapper(open_file(path), "utf-8", "replace") as file:
        for line in file:
            fields = line.partition("#")[0].split()
            if len(fields) < 2:
                continue
            try:
                address = ipaddress.ip_address(fields[0].partition("%")[0])
                for name in fields[1:]:
                    names.add(encode_name(name), address)
            except (ValueError, WireError):
                _log.debug("%s: a line that is not understood: %r", path, line)
    return names


def _read_blocks(path: str | os.PathLike[str], blocks: _Blocks, *, given: bool) -> None:
    wrong = 0
    try:
        with io.TextIOWrapper(open_file(path, given=given), "utf-8", "replace") as file:
            for line in file:
                fields = line.partition("#")[0].split()
                try:
                    if len(fields) == 1:
                        blocks.denied.add(encode_name(fields[0].removeprefix("*.")))
                    elif fields and fields[0] in _UNSPECIFIED:
                        # Such lists begin with the lines of an ordinary hosts file: localhost is
                        # not to be blocked.
                        blocks.zeroed.update(
                            encode_name(name) for name in fields[1:] if "." in name
                        )
                    elif fields:
                        wrong += 1
                except WireError:
                    wrong += 1
    except OSError as error:
        raise ConfigError(f"{path}: it cannot be read: {error.strerror}", "dns.block") from error
    blocks.denied.discard(b"\0")
    if wrong:
        _log.warning(
            "%s: %d lines are neither NAME nor 0.0.0.0 NAME; they block nothing",
            os.fspath(path),
            wrong,
        )
