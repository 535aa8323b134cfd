"""The composition root: device, host, stack, gateway, DNS and tunnel, put together.

::

    async with open_vpn(VpnConfig(worker="wss://worker.example", token="...")) as vpn:
        stream = await vpn.open_tcp_stream("example.com", 443)

Everything runs inside the ``async with`` block of the caller, and is gone when it has been left.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import trio

from .._memory import give_back
from .._util import single_error
from ..config import DnsOptions, Protocol, VpnConfig
from ..device import FdDevice, PacketDevice, RingDevice
from ..dns import DnsService, make_service
from ..gateway import Decide, Gateway
from ..stack import PacketCache, Stack, open_stack
from ..tunnel import Tunnel
from .local_end import LocalEnd, OnCaptured, choose_local_end
from .loop_detector import LoopDetector, open_loop_detector
from .vpn import Vpn
from .worker_end import open_worker_end

if TYPE_CHECKING:
    from ..host.ssh import SshConnection

__all__ = ["open_vpn"]


@asynccontextmanager
async def open_vpn(
    config: VpnConfig,
    *,
    device: FdDevice | RingDevice | PacketDevice | None = None,
    capture: bool = False,
    decide: Decide | None = None,
    ssh: SshConnection | None = None,
    on_captured: OnCaptured | None = None,
) -> AsyncIterator[Vpn]:
    """Open a VPN for the length of an ``async with``.

    The program itself uses it by :meth:`Vpn.open_tcp_stream`, :meth:`Vpn.open_udp` and
    :meth:`Vpn.resolve`. With ``device``, what comes from there is carried to the worker, too; with
    ``capture``, all traffic of this machine. With neither, this machine is left as it is.

    With ``capture`` a TUN is made and the host led into it, in the namespace of ``config.netns`` or
    in ours, before the worker is looked for. That is undone at the end; but once the tunnel was up,
    an error (also one of the caller's) leaves the host closed, until the next start or
    :meth:`zks_lwip.host.platform.Platform.recover`.

    The block is entered when the worker has said HELLO. Until then TunnelError is raised for what
    does not pass by itself (a refused token, a bad certificate, no worker there; of several
    workers, with each of them), and an unreachable worker is tried again; later nothing of that is
    raised.

    :param device: an open TUN, or one of :mod:`zks_lwip.device` in memory: the host is then left as
        it is, and the device stays the caller's.
    :param capture: lead all traffic of this machine into the tunnel, and refuse what cannot go
        there, as ``zks-lwip connect`` does. Linux, as root or with CAP_NET_ADMIN; macOS, as root.
    :param decide: says of each flow of device or host whether it goes through the tunnel, leaves
        directly, is refused, or is given a stream of the program's: see
        :data:`zks_lwip.gateway.Decide`. None: all go through the tunnel.
    :param ssh: a connection that capturing the host must not cut.
    :param on_captured: awaited when the host has been captured, before there is a thread or a
        connection to the worker; only called with ``capture``.
    :raises ValueError: ``device`` and ``capture`` are both given, or ``decide`` with neither.
    :raises ConfigError: a value cannot be used on this host.
    :raises HostError: the host cannot be captured, or not be put back.
    :raises PrivilegeError: for want of a privilege.
    :raises DeviceError: the TUN cannot be made, or was removed.
    :raises StackError: the stack does not start.
    :raises TunnelError: as said above.
    """
    _check_flows(device is not None, capture, decide is not None)
    with single_error() as bodies:
        async with AsyncExitStack() as parts:
            enter = parts.enter_async_context
            local = await choose_local_end(config, device, ssh, capture=capture)
            config = replace(config, host_loopback=local.host_loopback)
            # An embedded worker notes its name servers before the host changes.
            worker = await enter(open_worker_end(config, local))
            await enter(local.in_force())
            loops = await enter(open_loop_detector(local.mark, embedded=config.embedded))
            tunnel = Tunnel(replace(worker.tunnel, configure_socket=loops.watch))
            dns = _make_dns(config, tunnel, local)
            await local.call_when_captured(on_captured, tunnel)
            stack = gateway = None
            if local.device is not None:
                stack = await enter(_open_stack(config, local, local.device))
                dns.use_packet_cache(PacketCache(stack))
                gateway = _make_gateway(config, stack, tunnel, dns, loops, decide, local.mark)
            vpn = Vpn(config, getattr(local.device, "name", ""), stack, gateway, dns, tunnel)
            parts.callback(vpn.end)
            nursery = await enter(trio.open_nursery())
            nursery.start_soon(give_back, partial(_memory, stack, tunnel))
            nursery.start_soon(worker.watch)
            await nursery.start(dns.run)
            if gateway is not None:
                await nursery.start(gateway.run)
            nursery.start_soon(local.follow, tunnel)
            await nursery.start(tunnel.run)
            local.hold()
            try:
                yield vpn
            except BaseException as error:
                bodies.append(error)
                raise
            finally:
                vpn.end()
                nursery.cancel_scope.cancel()


def _check_flows(device: bool, capture: bool, decide: bool) -> None:
    """Refuse flows from two places, and a decision of flows where there are none.

    :raises ValueError: either is asked for.
    """
    if device and capture:
        raise ValueError("give a device, or capture the host, not both")
    if decide and not device and not capture:
        raise ValueError("there are no flows to decide of: give a device, or capture the host")


def _memory(stack: Stack | None, tunnel: Tunnel) -> int:
    """Return the bytes that flows hold."""
    return (0 if stack is None else stack.memory) + tunnel.memory


def _make_dns(config: VpnConfig, tunnel: Tunnel, local: LocalEnd) -> DnsService:
    return make_service(
        config.dns or DnsOptions(),
        tunnel,
        embedded=config.embedded,
        v1=config.protocol is Protocol.V1,
        mark=local.mark,
        ca_file=config.ca_file,
        static=config.dns_static,
        grace=config.grace,
    )


def _open_stack(
    config: VpnConfig, local: LocalEnd, device: FdDevice | RingDevice | PacketDevice
) -> AbstractAsyncContextManager[Stack]:
    return open_stack(
        device,
        # The gateway refuses what is over; the core counts those in TIME_WAIT, too.
        max_flows=config.gateway.max_flows + 64,
        max_memory=config.half_memory,
        icmp=config.gateway.icmp.value,
        keepalive=config.stack.keepalive,
        own_addresses=local.own_addresses,
    )


def _make_gateway(
    config: VpnConfig,
    stack: Stack,
    tunnel: Tunnel,
    dns: DnsService,
    loops: LoopDetector,
    decide: Decide | None,
    mark: int | None,
) -> Gateway:
    return Gateway(
        stack,
        tunnel,
        dns,
        config.gateway,
        refuses=(config.dns or DnsOptions()).refuses,
        is_loop=loops.is_loop,
        decide=None if decide is None else _with_names(decide, dns),
        mark=mark,
    )


def _with_names(decide: Decide, dns: DnsService) -> Decide:
    """Return a callback that is told the name of what each flow goes to."""
    return lambda flow: decide(replace(flow, name=dns.names.name_of(flow.destination[0])))
