"""Addresses that the firewall lets out beside the TUN: of the workers, and of names to bypass."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import trio

from ..config import DnsOptions, VpnConfig
from ..config import Protocol as ProtocolVersion
from ..dns.bootstrap import Bootstrap
from ..errors import HostError
from ..host.plan.config import HostConfig, Network
from ..net.backoff import Backoff
from ..net.happy_eyeballs import interleave

if TYPE_CHECKING:
    from ..host.plan.plan import Plan

__all__ = ["MAX_PEERS", "AllowedAddresses", "known_peers", "needs_names", "to_network"]

_log = logging.getLogger(__name__)

MAX_PEERS = 32
"""Addresses of a worker's name that marked sockets may go to; those found last stay. Of several
workers' names, so many times as many."""

_BYPASS_EVERY = 300.0
"""Seconds between two looks at the addresses of a name to bypass."""
_BYPASS_RETRY = (0.5, 30.0)
"""Seconds until the next look where one has failed: the least and the most."""


class AllowedHost(Protocol):
    """What is needed of the captured host."""

    @property
    def plan(self) -> Plan: ...
    async def update(self, config: HostConfig) -> None: ...


class AllowedAddresses:
    """Tells a captured host which addresses to let out, as names are looked up.

    :param host: returns the host that is in force.
    :param mark: SO_MARK of the tunnel's sockets; None: they need no exception.
    """

    def __init__(
        self, config: VpnConfig, mark: int | None, host: Callable[[], AllowedHost]
    ) -> None:
        self._config = config
        self._mark = mark
        self._host = host
        self._found: dict[Network, None] = {}
        self._most = MAX_PEERS * max(1, len(config.endpoints))
        self._changing = trio.Lock()

    async def add_peers(self, addresses: Sequence[str]) -> None:
        """Let the tunnel's sockets go to ``addresses``, those of a worker or a proxy.

        :param addresses: in the order to try them; of very many, those that are tried first.
        :raises OSError: the firewall could not be changed.
        """
        networks = [to_network(address) for address in addresses]
        first = [each for each in networks if each.version == networks[0].version]
        other = [each for each in networks if each.version != networks[0].version]
        found = interleave(first, other)[:MAX_PEERS]
        async with self._changing:
            for network in found:  # the latest last
                self._found.pop(network, None)
                self._found[network] = None
            while len(self._found) > self._most:
                del self._found[next(iter(self._found))]
            known = known_peers(self._config)
            if self._mark is None or known is None:
                return
            peers = (*known, *(network for network in self._found if network not in known))
            if set(peers) != set(self._host().plan.config.peers or ()):
                await self._update(peers=peers)

    async def follow_bypassed(self, look_up: Callable[[str], Awaitable[Sequence[str]]]) -> None:
        """Let the addresses of the names to bypass out, and follow them, until cancelled.

        :param look_up: finds a name's addresses, or raises OSError.
        """
        names = self._config.host.bypass_hosts
        known: dict[str, Sequence[str]] = {}
        backoff = Backoff(*_BYPASS_RETRY, jitter=0.0)
        while names:
            failed = False
            for name in names:
                try:
                    known[name] = await look_up(name)
                    await self._let_out(known.values())
                except OSError as error:
                    _log.warning("`host.bypass` %s: it has no addresses now: %s", name, error)
                    failed = True
            if not failed:
                backoff.succeeded()
            await trio.sleep(backoff.failed() if failed else _BYPASS_EVERY)

    async def _let_out(self, known: Iterable[Sequence[str]]) -> None:
        networks = list(self._config.host.bypass)
        for text in dict.fromkeys(address for addresses in known for address in addresses):
            address = ipaddress.ip_address(text.partition("%")[0])
            if not any(address in network for network in networks):
                networks.append(to_network(text))
        async with self._changing:
            await self._update(bypass=tuple(networks))

    async def _update(self, **changes: tuple[Network, ...]) -> None:
        """Change what is in force.

        :raises OSError: it could not be changed; the same error as of a look-up or a connection.
        """
        host = self._host()
        before = host.plan.config
        try:
            wanted = replace(before, **changes)  # type: ignore[arg-type]
            if wanted != before:
                await host.update(wanted)
        except HostError as error:
            raise OSError(str(error)) from error


def needs_names(config: VpnConfig) -> bool:
    """Return whether a name has to be looked up that only DNS knows."""
    workers = config.endpoints
    known = all(each.url.address or each.address or each.proxy for each in workers)
    return not known or bool(config.host.bypass_hosts)


def known_peers(config: VpnConfig) -> tuple[Network, ...] | None:
    """Return where our sockets may go, as far as it is known from the start; None: anywhere."""
    if config.embedded:
        return None
    options = config.dns or DnsOptions()
    v1 = config.protocol is ProtocolVersion.V1
    peers = list(options.outside(embedded=False, v1=v1))
    if needs_names(config):
        peers += Bootstrap.outside(options)
    for each in config.endpoints:
        if each.proxy is not None:
            address = each.proxy.address
        else:
            address = each.address or each.url.address
        if address is not None:
            peers.append(to_network(str(address)))
    return tuple(dict.fromkeys(peers))


def to_network(address: str) -> Network:
    """Return an address, without its zone, as a network of one."""
    return ipaddress.ip_network(address.partition("%")[0])
