"""Names to addresses for CONNECT: a stub resolver that never calls getaddrinfo.

libc would read nsswitch.conf, ask sockets of other daemons and block a thread; and beside a VPN
client its unmarked questions would come back through the tunnel. Here the hosts file is looked at,
then the name servers are asked for A and AAAA at once, and answers are kept for their TTL.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import dns.exception
import dns.message
import dns.rcode
import dns.rdatatype
import trio

from ..errors import DnsError
from ..net.names import InvalidName, to_ascii
from .dnsclient import DnsClient, Unanswered
from .limits import QueryBudget
from .nameservers import HostsFile
from .policy import InvalidHost, IPAddress, parse_address

__all__ = ["Family", "Lookup", "Resolver"]

_log = logging.getLogger(__name__)

MAX_CACHED = 2048
"""Names, times families."""
_MAX_TTL = 300.0
_NEGATIVE_TTL = 10.0
_MAX_ADDRESSES = 16


class Family:
    """What is known of one family of a name: pending until :attr:`done` is set."""

    __slots__ = ("addresses", "done", "late", "overload", "problem")

    def __init__(self, addresses: tuple[IPAddress, ...] | None = None) -> None:
        self.addresses: tuple[IPAddress, ...] = addresses or ()
        #: why there are no addresses, where that is an error (not: the name has none of these)
        self.problem: str | None = None
        #: it is a limit of the worker's, or that no server has answered in time
        self.overload = self.late = False
        self.done = trio.Event()
        if addresses is not None:
            self.done.set()


class Lookup:
    """A look-up under way, perhaps shared: both families, each done at its own time."""

    __slots__ = ("v4", "v6")

    def __init__(self, v4: Family, v6: Family) -> None:
        self.v4 = v4
        self.v6 = v6

    @property
    def done(self) -> bool:
        return self.v4.done.is_set() and self.v6.done.is_set()

    @property
    def problem(self) -> str:
        """Why there is no address at all, in a clause."""
        return self.v4.problem or self.v6.problem or "the name has no address"

    @property
    def overload(self) -> bool:
        """Whether an address may be missing because of a limit of the worker's."""
        return self.v4.overload or self.v6.overload

    @property
    def late(self) -> bool:
        """Whether an address may be missing because no server has answered in time."""
        return self.v4.late or self.v6.late


def _found(addresses: tuple[IPAddress, ...]) -> Lookup:
    return Lookup(
        Family(tuple(a for a in addresses if isinstance(a, IPv4Address))),
        Family(tuple(a for a in addresses if isinstance(a, IPv6Address))),
    )


def _literal(host: str) -> IPAddress | None:
    try:
        return parse_address(to_ascii(host).lower())
    except (InvalidName, InvalidHost):
        return None


class Resolver:
    """Looks names up. :meth:`run` must be running: look-ups live in its nursery, so that one is
    shared by all streams to the same name, and outlives the first, whose budget it takes.

    :param ipv6: whether to ask for AAAA at all.
    """

    def __init__(self, client: DnsClient, hosts: HostsFile, *, ipv6: bool = True) -> None:
        self.client = client
        self._hosts = hosts
        self._ipv6 = ipv6
        self._nursery: trio.Nursery | None = None
        self._pending: dict[tuple[str, str], Family] = {}
        self._cache: OrderedDict[tuple[str, str], tuple[float, tuple[IPAddress, ...]]] = (
            OrderedDict()
        )

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve look-ups until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    @staticmethod
    def literal(host: str) -> IPAddress | None:
        """Return the address that a host is, in any spelling; None: it is none."""
        return _literal(host)

    def lookup(self, host: str, budget: QueryBudget) -> Lookup:
        """Begin (or join) the look-up of a host, which may be an address in any spelling.

        :raises InvalidHost: it is neither an address nor a name.
        """
        # first to ASCII: what IDNA maps to digits and dots ("１２７.0.0.1") is an address after all
        try:
            host = to_ascii(host).lower()
        except InvalidName:
            raise InvalidHost("a name that is not valid (IDNA)") from None
        address = parse_address(host)
        if address is not None:
            return _found((address,))
        static = self._hosts.lookup(host)
        if static:
            return _found(static)
        name = host.removesuffix(".")
        return Lookup(
            self._family(name, "A", budget),
            self._family(name, "AAAA", budget) if self._ipv6 else Family(()),
        )

    def _family(self, name: str, kind: str, budget: QueryBudget) -> Family:
        key = (name, kind)
        cached = self._cache.get(key)
        if cached is not None:
            if time.monotonic() < cached[0]:
                self._cache.move_to_end(key)
                return Family(cached[1])
            del self._cache[key]
        family = self._pending.get(key)
        if family is None:
            if self._nursery is None:
                raise RuntimeError("Resolver.run() is not running")
            family = self._pending[key] = Family()
            self._nursery.start_soon(self._resolve, key, family, budget)
        return family

    async def _resolve(self, key: tuple[str, str], family: Family, budget: QueryBudget) -> None:
        name, kind = key
        try:
            family.addresses, ttl = await self._query(name, kind, budget)
            if ttl > 0:
                self._cache[key] = (time.monotonic() + ttl, family.addresses)
                if len(self._cache) > MAX_CACHED:
                    self._cache.popitem(last=False)
        except DnsError as error:
            family.problem = str(error)
            if isinstance(error, Unanswered):
                family.overload, family.late = error.overload, error.late
        finally:
            del self._pending[key]
            family.done.set()

    async def _query(
        self, name: str, kind: str, budget: QueryBudget
    ) -> tuple[tuple[IPAddress, ...], float]:
        try:
            # no EDNS: some servers still stumble over it, and what is too long comes by TCP
            wire = dns.message.make_query(name, kind, use_edns=False).to_wire()
        except dns.exception.DNSException as error:
            raise DnsError(f"the name cannot be asked for: {type(error).__name__}") from None
        answer = await self.client.ask(wire, budget)
        try:
            message = dns.message.from_wire(answer, ignore_trailing=True)
            rcode = message.rcode()
            if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                raise DnsError(f"the name server answered {dns.rcode.to_text(rcode)}")
            if not isinstance(message, dns.message.QueryMessage):
                raise DnsError("the name server's answer is no answer")
            chain = message.resolve_chaining()
        except dns.exception.DNSException as error:
            raise DnsError(
                f"the name server's answer is malformed: {type(error).__name__}"
            ) from None
        if chain.answer is None:
            return (), min(float(chain.minimum_ttl), _NEGATIVE_TTL)
        records: list[Any] = list(chain.answer)[:_MAX_ADDRESSES]
        addresses = tuple(ip_address(record.address) for record in records)
        return addresses, min(float(chain.minimum_ttl), _MAX_TTL)
