"""The composition root: device, host, stack, gateway, DNS and tunnel, put together.

::

    async with open_vpn(VpnConfig(worker=parse_worker_url("wss://worker.example"))) as vpn:
        print(vpn.interface, "is up")
        await trio.sleep_forever()

Everything runs inside the ``async with`` block of the caller, and is gone when it has been left.
"""

from __future__ import annotations

import ipaddress
import logging
import random
import socket
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import trio

from ._groups import single_error
from .config import DEFAULT_HOST_LOOPBACK, Ipv6, Protocol, VpnConfig, WorkerUrl, parse_worker_url
from .device import FdDevice, PacketDevice
from .dns import DnsService
from .dns.options import DnsOptions, make_service
from .embedded import open_embedded_worker
from .gateway import Gateway
from .host.addresses import TUN_IPV4, TUN_IPV6
from .stack import HotAnswers, Stack, open_stack
from .tunnel.options import TunnelConfig
from .tunnel.pool import Tunnel

__all__ = ["Vpn", "open_vpn"]

_log = logging.getLogger(__name__)

Resolve = Callable[[str], Awaitable[Sequence[str]]]
_T = TypeVar("_T")


class _Enter(typing.Protocol):
    """``AsyncExitStack.enter_async_context``."""

    async def __call__(self, part: AbstractAsyncContextManager[_T], /) -> _T: ...


#: Seconds between two attempts to resolve the worker's name before the host is set up.
_RESOLVE_FIRST, _RESOLVE_LAST = 0.5, 30.0

#: What the embedded worker may reach besides the public internet: this machine's own networks,
#: which it is in anyway. Loopback only by its alias in the tunnel.
_PRIVATE = (
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "fc00::/7",
)


class Vpn:
    """A tunnel that is up, or was and will be again."""

    def __init__(
        self,
        interface: str,
        worker: WorkerUrl,
        stack: Stack,
        gateway: Gateway,
        dns: DnsService,
        tunnel: Tunnel,
    ) -> None:
        self.interface = interface
        """The name of the network device; empty if it has none."""
        self.worker = worker
        """The worker's URL; the embedded one's has the port that it got."""
        self._stack = stack
        self._gateway = gateway
        self._dns = dns
        self._tunnel = tunnel

    def flush_dns(self) -> int:
        """Forget cached answers; how many. Hosts file and block lists are read again soon after."""
        return self._dns.flush()

    @property
    def up(self) -> bool:
        """Whether the worker can be reached at this moment."""
        return self._tunnel.up

    def stats(self) -> dict[str, Any]:
        """Counters and gauges of each part: ``gateway``, ``stack``, ``tunnel``, ``dns``.

        ``tasks`` is how many tasks trio runs in all; to be read in the trio thread.
        """
        return {
            "tasks": trio.lowlevel.current_statistics().tasks_living,
            "gateway": self._gateway.stats(),
            "stack": self._stack.stats(),
            "tunnel": self._tunnel.stats(),
            "dns": self._dns.stats(),
        }


@asynccontextmanager
async def open_vpn(
    config: VpnConfig, *, device: FdDevice | PacketDevice | None = None
) -> AsyncIterator[Vpn]:
    """Carry what comes from a device to a worker, for the length of an ``async with``.

    With ``device`` (an open TUN, or one of :mod:`zks_lwip.device` in memory) the host is left as
    it is, and the device stays the caller's. Without, a TUN is made and routed to, in the
    namespace of ``config.netns`` or in ours, and both are undone at the end.

    The block is entered when the worker has said HELLO. Until then
    :class:`~zks_lwip.errors.TunnelError` is raised for what does not pass by itself (a refused
    token, a bad certificate, no worker there), and an unreachable worker is tried again; later
    nothing of that is raised. Raises :class:`~zks_lwip.errors.HostError`,
    :class:`~zks_lwip.errors.PrivilegeError` and :class:`~zks_lwip.errors.StackError`, too.
    """
    with single_error():
        async with AsyncExitStack() as parts:
            enter = parts.enter_async_context
            if device is None:
                way, endpoint, config = await _set_up_host(config, enter)
            else:
                own = (str(TUN_IPV4.network[2]), str(TUN_IPV6.network[2]))
                way = _Way(device, getattr(device, "name", ""), own)
                endpoint = await enter(_worker(config))
            stack = await enter(
                open_stack(
                    way.device,
                    # The gateway refuses what is over; the core counts those in TIME_WAIT, too.
                    max_flows=config.max_flows + 64,
                    icmp=config.icmp.value,
                    own_addresses=way.own_addresses,
                )
            )
            tunnel = Tunnel(endpoint)
            dns = make_service(
                config.dns or DnsOptions(),
                tunnel,
                embedded=config.embedded,
                v1=config.protocol is Protocol.V1,
                mark=way.mark,
                ca_file=config.ca_file,
                static=[str(item) for item in config.dns_static],
                grace=config.grace,
            )
            dns.repeat_by(HotAnswers(stack))
            gateway = Gateway(stack, tunnel, dns, config)
            nursery = await enter(trio.open_nursery())
            await nursery.start(dns.run)
            await nursery.start(gateway.run)
            await nursery.start(tunnel.run)
            try:
                yield Vpn(way.interface, endpoint.worker, stack, gateway, dns, tunnel)
            finally:
                nursery.cancel_scope.cancel()


@dataclass(frozen=True, slots=True)
class _Way:
    """How packets come in."""

    device: FdDevice | PacketDevice
    interface: str
    own_addresses: tuple[str, ...]
    """Addresses of the tunnel's own, next to the interface's: their pings are answered here."""
    mark: int | None = None
    """What our sockets carry to stay out of the TUN; None where they need nothing."""


async def _set_up_host(config: VpnConfig, enter: _Enter) -> tuple[_Way, TunnelConfig, VpnConfig]:
    """Make a TUN and lead the traffic into it, after everything that needs the old routes.

    The embedded worker notes its name servers and the worker's name is resolved before, since
    both would come back through the TUN afterwards.
    """
    from .host.config import HostConfig
    from .host.linux import applied, make_plan, observe
    from .host.privilege import check_net_admin

    check_net_admin()
    host_config = HostConfig(
        tun=config.tun,
        mtu=config.mtu,
        vnet_hdr=True,
        netns=config.netns,
        ipv6=config.ipv6 is not Ipv6.BLOCK,
        kill_switch=config.kill_switch,
    )
    state = await observe(config.netns)
    plan = make_plan(host_config, state)
    resolve = None
    if config.worker is not None and plan.mark is not None:
        addresses = await _resolve_worker(config.worker)
        resolve = _Known(config.worker.host, addresses)
        resolvers = (config.dns or DnsOptions()).outside(
            embedded=False, v1=config.protocol is Protocol.V1
        )
        peers = (*(ipaddress.ip_network(address) for address in addresses), *resolvers)
        plan = make_plan(replace(host_config, peers=peers), state)
    endpoint = await enter(_worker(config, plan.mark, resolve))
    host = await enter(applied(plan))
    for note in plan.notes:
        _log.info("%s", note)
    if config.host_loopback == DEFAULT_HOST_LOOPBACK:  # it moves with the TUN's addresses
        config = replace(config, host_loopback=plan.peer4)
    own = (str(plan.peer4), str(plan.ipv6.network[2]))
    return _Way(host.device, host.device.name, own, plan.mark), endpoint, config


@asynccontextmanager
async def _worker(
    config: VpnConfig, mark: int | None = None, resolve: Resolve | None = None
) -> AsyncIterator[TunnelConfig]:
    """Where the worker is, and how it is reached; the embedded one is started."""
    if config.worker is not None:
        yield TunnelConfig(
            url=config.worker,
            token=config.token,
            ca_file=config.ca_file,
            plaintext=config.plaintext,
            protocol=config.protocol.value,
            mark=mark,
            resolve=resolve,
            grace=config.grace,
        )
        return
    networks = _PRIVATE if config.loopback_alias is None else (*_PRIVATE, "127.0.0.1/32")
    allow = [argument for network in networks for argument in ("--allow", network)]
    async with open_embedded_worker(mark=mark, arguments=allow) as worker:
        yield TunnelConfig(
            url=parse_worker_url(worker.url),
            token=worker.token,
            protocol=config.protocol.value,
            grace=config.grace,
        )


class _Known:
    """Gives the addresses that a name had before the tunnel was set up, and asks nobody."""

    def __init__(self, name: str, addresses: Sequence[str]) -> None:
        self._name = name
        self._addresses = addresses

    async def __call__(self, name: str) -> Sequence[str]:
        await trio.lowlevel.checkpoint()
        if name != self._name:
            raise OSError(f"{name} was not resolved before the tunnel was set up")
        return self._addresses


async def _resolve_worker(worker: WorkerUrl) -> list[str]:
    """The worker's addresses, in the system's order; asked for until there are any."""
    if worker.address is not None:
        return [str(worker.address)]
    pause = _RESOLVE_FIRST
    while True:
        try:
            found = await trio.socket.getaddrinfo(worker.host, worker.port, type=socket.SOCK_STREAM)
        except OSError as error:
            wait = pause * random.uniform(0.5, 1.0)
            _log.warning(
                "the worker's name %s does not resolve (%s); trying again in %.1f s",
                worker.host,
                error.strerror,
                wait,
            )
            await trio.sleep(wait)
            pause = min(pause * 2, _RESOLVE_LAST)
        else:
            return list(dict.fromkeys(str(item[4][0]).split("%")[0] for item in found))
