"""The host as ``connect`` needs it: captured before the worker is looked for, and kept so.

::

    capture = await Capture.planned(config)      # looks, changes nothing
    async with capture.in_force():               # from here on nothing leaves but by the TUN
        ...  # sockets of the tunnel carry capture.mark and ask capture.resolve for addresses
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from ._groups import leaves
from .config import DEFAULT_HOST_LOOPBACK, Ipv6, Protocol, VpnConfig
from .dns.bootstrap import Bootstrap
from .dns.options import DnsOptions, Dot
from .errors import HostError
from .host.config import HostConfig, Network

if TYPE_CHECKING:
    from .device import TunDevice
    from .host.linux import Host
    from .host.plan import Plan
    from .host.remote import SshConnection

__all__ = ["Capture"]

_log = logging.getLogger(__name__)

#: Addresses of the worker's name that marked sockets may go to; those found last come first.
_MOST_PEERS = 32
#: Seconds between two looks at the addresses of ``--bypass HOST``; at first, the least and most.
_BYPASS_EVERY, _BYPASS_FIRST, _BYPASS_LAST = 300.0, 0.5, 30.0
#: What ends a block because somebody wants it to end.
_ASKED = (trio.Cancelled, KeyboardInterrupt, SystemExit, GeneratorExit)


class Capture:
    """A namespace whose traffic is led into a TUN; made by :meth:`planned`."""

    def __init__(self, config: VpnConfig, plan: Plan) -> None:
        self.config = config
        self.plan = plan
        """What is done at first; :attr:`host` knows what is in force."""
        self._host: Host | None = None
        self._found: dict[Network, None] = {}
        self._changing = trio.Lock()
        self._names: Bootstrap | None = None
        self._before: dict[str, Sequence[str]] = {}
        self._last: dict[str, Sequence[str]] = {}

    @classmethod
    async def planned(cls, config: VpnConfig, *, ssh: SshConnection | None = None) -> Capture:
        """Look at the host and decide what to change; nothing is changed.

        ``ssh`` is the connection that must not be cut, see :mod:`zks_lwip.host.remote`.

        :raises ConfigError: that would cut it, or there is no such namespace.
        :raises HostError: the host cannot be captured as it is.
        """
        from .host.linux import make_plan, observe
        from .host.remote import check_remote

        wishes = config.host
        wanted = HostConfig(
            tun=config.tun,
            mtu=config.mtu,
            vnet_hdr=True,
            netns=config.netns,
            ipv6=config.ipv6 is not Ipv6.BLOCK,
            kill_switch=config.kill_switch,
            lan=wishes.lan,
            bypass=wishes.bypass,
            bypass_users=wishes.bypass_users,
            only=wishes.only,
            forward=wishes.forward,
            inbound=wishes.inbound,
            mark=wishes.mark,
            block_dot=config.dns is not None and config.dns.dot is Dot.BLOCK,
            peers=_known_peers(config),
        )
        state = await observe(config.netns)
        check_remote(wanted, state, ssh)
        return cls(config, make_plan(wanted, state))

    @property
    def mark(self) -> int | None:
        """What our sockets carry to stay out of the TUN; None where they need nothing."""
        return self.plan.mark

    @property
    def notes(self) -> tuple[str, ...]:
        """What the plan does not show yet: addresses that have still to be looked up."""
        if self.mark is None:
            return ()
        config, notes = self.config, []
        way = config.proxy or (None if config.worker_address else config.worker)
        if way is not None and way.address is None:
            notes.append(f"the addresses of {way.host} join `peers` when they have been looked up")
        notes += [f"the addresses of {name} are let out, too" for name in config.host.bypass_hosts]
        return tuple(notes)

    @property
    def host(self) -> Host:
        """What is in force, inside of :meth:`in_force`."""
        if self._host is None:
            raise HostError("the host is not set up")
        return self._host

    @property
    def device(self) -> TunDevice:
        """The TUN."""
        return self.host.device

    @property
    def own_addresses(self) -> tuple[str, ...]:
        """Addresses of the tunnel's own, next to the interface's: their pings are answered."""
        return str(self.plan.peer4), str(self.plan.ipv6.network[2])

    @property
    def host_loopback(self) -> ipaddress.IPv4Address | None:
        """What stands for the host's loopback: by default it moves with the TUN's addresses."""
        wished = self.config.host_loopback
        return self.plan.peer4 if wished == DEFAULT_HOST_LOOPBACK else wished

    @asynccontextmanager
    async def in_force(self) -> AsyncIterator[None]:
        """Capture the host for the length of a ``with`` block.

        Afterwards it is as before, if it ends normally or is cancelled. If it ends by an error, and
        ``host.hold`` is set, the host stays closed.
        """
        from .host.linux import applied
        from .host.plan import LEAVES_HERE

        await self._look_proxy_up()
        for note in self.plan.notes:
            if note != LEAVES_HERE:  # who asked for no worker has been told
                _log.warning("%s", note)
        always_on = self.config.host.always_on
        async with (
            applied(self.plan, hold=always_on) as self._host,
            trio.open_nursery() as nursery,
        ):
            # What an instance that died has left closed is not opened by our failure, either.
            self.host.hold = always_on or self.plan.state.leftover is not None
            try:
                if self._asks:
                    self._names = Bootstrap(
                        self.config.dns or DnsOptions(),
                        mark=self.mark,
                        ca_file=self.config.ca_file,
                        static=[str(item) for item in self.config.dns_static],
                    )
                    await nursery.start(self._names.run)
                yield
            except BaseException as error:
                if all(isinstance(leaf, _ASKED) for leaf in leaves(error)):
                    self.host.hold = False
                raise
            self.host.hold = False
            nursery.cancel_scope.cancel()

    async def keep(self, on_move: Callable[[bool], None]) -> None:
        """Keep it so, whoever else changes what: until cancelled.

        ``on_move`` is called when the way to the outside may be another one; with True if the
        machine has slept.

        :raises DeviceError: somebody has removed the TUN.
        """
        from .host.monitor import watch

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, self.host, on_move)
            if self.config.host.bypass_hosts:
                nursery.start_soon(self._follow_bypassed)

    # addresses of names

    @property
    def _asks(self) -> bool:
        """Whether names are looked up from here, past the capture."""
        return self.mark is not None and _needs_names(self.config)

    async def resolve(self, name: str) -> Sequence[str]:
        """The addresses of the worker, or the proxy; when it returns, the firewall knows them.

        Those of before are given where they cannot be looked up now. Raises OSError.
        """
        if name in self._before:
            return self._before[name]
        try:
            addresses = self._last[name] = await self._look_up(name)
        except OSError as error:
            if name not in self._last:
                raise
            _log.info("%s cannot be looked up now (%s): trying where it was", name, error)
            return self._last[name]
        found = [_network(address) for address in addresses]
        async with self._changing:
            for network in found:  # the latest last
                self._found.pop(network, None)
                self._found[network] = None
            while len(self._found) > _MOST_PEERS:
                del self._found[next(iter(self._found))]
            peers = _known_peers(self.config)
            if self.mark is not None and peers is not None:
                await self._update(peers=(*peers, *(n for n in self._found if n not in peers)))
        return addresses

    async def _look_up(self, name: str) -> Sequence[str]:
        if self._names is not None:
            return await self._names.addresses(name)
        return await system_addresses(name)

    async def _update(self, **changes: tuple[Network, ...]) -> None:
        """Change what is in force. Raises OSError, for who wants to connect."""
        before = self.host.plan.config
        try:
            wanted = replace(before, **changes)  # type: ignore[arg-type]
            if wanted != before:
                await self.host.update(wanted)
        except HostError as error:
            raise OSError(str(error)) from error

    async def _follow_bypassed(self) -> None:
        """Let the addresses of ``--bypass HOST`` out, and follow them."""
        known: dict[str, Sequence[str]] = {}
        pause = _BYPASS_FIRST
        while True:
            failed = False
            for name in self.config.host.bypass_hosts:
                try:
                    known[name] = await self._look_up(name)
                    await self._let_out(known.values())
                except OSError as error:
                    _log.warning("--bypass %s: it has no addresses now: %s", name, error)
                    failed = True
            await trio.sleep(pause if failed else _BYPASS_EVERY)
            pause = min(pause * 2, _BYPASS_LAST) if failed else _BYPASS_FIRST

    async def _let_out(self, known: Iterable[Sequence[str]]) -> None:
        networks = list(self.config.host.bypass)
        for text in dict.fromkeys(address for addresses in known for address in addresses):
            address = ipaddress.ip_address(text.partition("%")[0])
            if not any(address in network for network in networks):
                networks.append(_network(text))
        async with self._changing:
            await self._update(bypass=tuple(networks))

    async def _look_proxy_up(self) -> None:
        """A proxy's name is one of the local network's: ask as the system does, while we can."""
        proxy = self.config.proxy
        if proxy is None or proxy.address is not None or self.mark is None:
            return
        try:
            addresses = await system_addresses(proxy.host)
        except OSError as error:
            raise HostError(
                f"HTTPS_PROXY: the name {proxy.host} does not resolve ({error.strerror}), and once "
                "the host is closed only its address can be used: write http://ADDRESS:PORT."
            ) from None
        self._before[proxy.host] = addresses
        peers = (self.plan.config.peers or ()) + tuple(map(_network, addresses))
        self.plan = self._again(replace(self.plan.config, peers=peers))

    def _again(self, wanted: HostConfig) -> Plan:
        from .host.linux import make_plan

        return make_plan(wanted, self.plan.state)


def _needs_names(config: VpnConfig) -> bool:
    """Whether a name has to be looked up that only DNS knows."""
    worker = config.worker
    known = worker is None or worker.address or config.worker_address or config.proxy
    return not known or bool(config.host.bypass_hosts)


def _known_peers(config: VpnConfig) -> tuple[Network, ...] | None:
    """Where our sockets may go, as far as it is known from the start; None: anywhere."""
    if config.worker is None:
        return None
    options = config.dns or DnsOptions()
    peers = list(options.outside(embedded=False, v1=config.protocol is Protocol.V1))
    if _needs_names(config):
        peers += Bootstrap.outside(options)
    if config.proxy is not None:
        address = config.proxy.address
    else:
        address = config.worker_address or config.worker.address
    if address is not None:
        peers.append(_network(str(address)))
    return tuple(dict.fromkeys(peers))


def _network(address: str) -> Network:
    return ipaddress.ip_network(address.partition("%")[0])


async def system_addresses(name: str) -> list[str]:
    """What the system's resolver says. Raises OSError."""
    found = await trio.socket.getaddrinfo(name, None, type=trio.socket.SOCK_STREAM)
    return list(dict.fromkeys(str(item[4][0]) for item in found))
