"""The composition root: device, host, stack, gateway, DNS and tunnel, put together.

::

    async with open_vpn(VpnConfig(worker=parse_worker_url("wss://worker.example"))) as vpn:
        print(vpn.interface, "is up")
        await trio.sleep_forever()

Everything runs inside the ``async with`` block of the caller, and is gone when it has been left.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import trio

from ._groups import single_error
from .capture import Capture
from .config import Protocol, VpnConfig, WorkerUrl, parse_worker_url
from .device import FdDevice, PacketDevice
from .dns import DnsService
from .dns.options import DnsOptions, make_service
from .embedded import open_embedded_worker
from .gateway import Gateway
from .host.addresses import TUN_IPV4, TUN_IPV6
from .host.privilege import check_net_admin
from .loops import IsMarked, Loops
from .memory import give_back
from .roaming import Roaming, follow_uplinks
from .stack import HotAnswers, Stack, open_stack
from .tunnel.options import TunnelConfig
from .tunnel.pool import Tunnel

__all__ = ["Vpn", "open_vpn"]

_log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from .host.remote import SshConnection

#: Called when the host is closed, before there is a thread or a connection to the worker.
Prepared = Callable[[Capture, Tunnel], Awaitable[None]]

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
    config: VpnConfig,
    *,
    device: FdDevice | PacketDevice | None = None,
    ssh: SshConnection | None = None,
    prepared: Prepared | None = None,
) -> AsyncIterator[Vpn]:
    """Carry what comes from a device to a worker, for the length of an ``async with``.

    With ``device`` (an open TUN, or one of :mod:`zks_lwip.device` in memory) the host is left as
    it is, and the device stays the caller's. Without, a TUN is made and routed to, in the
    namespace of ``config.netns`` or in ours, before the worker is looked for; ``ssh`` is a
    connection that this must not cut, and ``prepared`` is awaited when it is done. Both are undone
    at the end; but once the tunnel was up, an error (also one of the caller's) leaves the host
    closed, until the next start or :func:`zks_lwip.host.recover.recover`.

    The block is entered when the worker has said HELLO. Until then
    :class:`~zks_lwip.errors.TunnelError` is raised for what does not pass by itself (a refused
    token, a bad certificate, no worker there), and an unreachable worker is tried again; later
    nothing of that is raised. Raises :class:`~zks_lwip.errors.ConfigError`,
    :class:`~zks_lwip.errors.HostError`, :class:`~zks_lwip.errors.PrivilegeError` and
    :class:`~zks_lwip.errors.StackError`, too.
    """
    with single_error():
        async with AsyncExitStack() as parts:
            enter = parts.enter_async_context
            capture = None
            if device is None:
                check_net_admin()
                capture = await Capture.planned(config, ssh=ssh)
                config = replace(config, host_loopback=capture.host_loopback)
            mark = None if capture is None else capture.mark
            # An embedded worker notes its name servers before the host changes.
            endpoint, watch = await enter(_worker(config, capture))
            if capture is not None:
                await enter(capture.in_force())
                device = capture.device
                own_addresses = capture.own_addresses
            else:
                own_addresses = (str(TUN_IPV4.network[2]), str(TUN_IPV6.network[2]))
            assert device is not None
            is_marked = await enter(_embedded_marks(mark)) if config.embedded else None
            loops = Loops(is_marked, mark)
            memory = config.max_memory << 20
            tunnel = Tunnel(replace(endpoint, configure_socket=loops.watch, max_memory=memory // 2))
            dns = make_service(
                config.dns or DnsOptions(),
                tunnel,
                embedded=config.embedded,
                v1=config.protocol is Protocol.V1,
                mark=mark,
                ca_file=config.ca_file,
                static=[str(item) for item in config.dns_static],
                grace=config.grace,
            )
            if capture is not None and prepared is not None:
                await prepared(capture, tunnel)
            stack = await enter(
                open_stack(
                    device,
                    # The gateway refuses what is over; the core counts those in TIME_WAIT, too.
                    max_flows=config.max_flows + 64,
                    max_memory=memory // 2,
                    icmp=config.icmp.value,
                    keepalive=config.keepalive,
                    own_addresses=own_addresses,
                )
            )
            dns.repeat_by(HotAnswers(stack))
            gateway = Gateway(stack, tunnel, dns, config, is_loop=loops.is_loop)
            nursery = await enter(trio.open_nursery())
            nursery.start_soon(give_back, lambda: stack.memory + tunnel.memory)
            if watch is not None:
                nursery.start_soon(watch)
            await nursery.start(dns.run)
            await nursery.start(gateway.run)
            _follow(nursery, tunnel, capture, config)
            await nursery.start(tunnel.run)
            if capture is not None:
                capture.host.hold = True
            try:
                interface = getattr(device, "name", "")
                yield Vpn(interface, endpoint.worker, stack, gateway, dns, tunnel)
            finally:
                nursery.cancel_scope.cancel()


@asynccontextmanager
async def _embedded_marks(mark: int | None) -> AsyncIterator[IsMarked | None]:
    """How to tell the embedded worker's sockets, where they are in the captured namespace."""
    if mark is None or sys.platform != "linux":
        yield None
        return
    from .host.socket_marks import SocketMarks

    with closing(SocketMarks()) as marks:
        yield lambda source, destination: marks.mark_of(source, destination) == mark


def _follow(
    nursery: trio.Nursery, tunnel: Tunnel, capture: Capture | None, config: VpnConfig
) -> None:
    """Keep the captured host as it is, and the tunnel where the network is."""
    if sys.platform != "linux":
        return
    roaming = Roaming(tunnel, None if capture is None else capture.mark)
    captured_here = capture is not None and capture.mark is not None
    if not config.embedded:  # that is on loopback
        nursery.start_soon(roaming.run)
        if not captured_here:
            nursery.start_soon(follow_uplinks, roaming.moved)
    if capture is not None:
        nursery.start_soon(capture.keep, roaming.moved if captured_here else _nothing)


def _nothing(slept: bool) -> None:
    """What happens in the captured namespace does not move a tunnel that is not in it."""


@asynccontextmanager
async def _worker(
    config: VpnConfig, capture: Capture | None
) -> AsyncIterator[tuple[TunnelConfig, Callable[[], Awaitable[None]] | None]]:
    """Where the worker is, how it is reached, and what watches it: the embedded one is started."""
    mark = None if capture is None else capture.mark
    if config.worker is not None:
        address = config.worker_address
        there = TunnelConfig(
            url=config.worker,
            token=config.token,
            ca_file=config.ca_file,
            plaintext=config.plaintext,
            protocol=config.protocol.value,
            mark=mark,
            address=None if address is None else str(address),
            proxy=config.proxy,
            resolve=None if capture is None else capture.resolve,
            grace=config.grace,
        )
        yield there, None
        return
    networks = _PRIVATE if config.loopback_alias is None else (*_PRIVATE, "127.0.0.1/32")
    arguments = [argument for network in networks for argument in ("--allow", network)]
    # It acts for programs of this machine, which reach its addresses without it as well (or, from
    # another namespace, its loopback by `host_loopback`).
    arguments.append("--allow-own")
    if config.user is not None:
        arguments += ["--user", config.user]
    # Not watched in here: its end is an error of the tunnel's, which keeps the host closed.
    async with open_embedded_worker(mark=mark, arguments=arguments, watched=False) as worker:
        here = TunnelConfig(
            url=parse_worker_url(worker.url),
            token=worker.token,
            protocol=config.protocol.value,
            grace=config.grace,
        )
        yield here, worker.watch
