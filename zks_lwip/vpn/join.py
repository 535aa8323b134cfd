"""What carries a VPN's traffic, joined: stack, gateway, DNS and tunnel, over a local end in force.

This is what takes long to load: :func:`~.open.open_vpn` loads it while it waits for other things.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial

import trio

from .._memory import give_back
from ..config import DnsOptions, Protocol, VpnConfig
from ..device import FdDevice, PacketDevice, RingDevice
from ..dns import DnsService, make_service
from ..gateway import Decide, Gateway
from ..stack import PacketCache, Stack, open_stack
from ..tunnel import Tunnel
from .local_end import LocalEnd, OnCaptured
from .loop_detector import LoopDetector, open_loop_detector
from .vpn import Vpn
from .worker_end import WorkerEnd

__all__ = ["join"]


@asynccontextmanager
async def join(
    config: VpnConfig,
    local: LocalEnd,
    worker: WorkerEnd,
    *,
    decide: Decide | None,
    on_captured: OnCaptured | None,
    bodies: list[BaseException],
) -> AsyncIterator[Vpn]:
    """Run a VPN for the length of an ``async with``, see :func:`~.open.open_vpn`.

    :param local: in force.
    :param bodies: takes what the block ends by.
    """
    async with AsyncExitStack() as parts:
        enter = parts.enter_async_context
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
