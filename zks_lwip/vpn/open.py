"""The composition root: device, host, stack, gateway, DNS and tunnel, put together.

::

    async with open_vpn(VpnConfig(worker="wss://worker.example", token="...")) as vpn:
        stream = await vpn.open_tcp_stream("example.com", 443)

Everything runs inside the ``async with`` block of the caller, and is gone when it has been left.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from .. import _lwip  # noqa: F401 - that it was not built is known before anything is changed
from .._util import single_error
from ..config import DnsOptions, Protocol, VpnConfig
from ..dns.options import load_service
from ..host.platform import current
from .local_end import choose_local_end
from .worker_end import load_worker_end

if TYPE_CHECKING:
    from ..device import FdDevice, PacketDevice, RingDevice
    from ..gateway import Decide
    from ..host.ssh import SshConnection
    from .local_end import OnCaptured
    from .vpn import Vpn
    from .worker_process import WorkerProcess

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
    begun: WorkerProcess | None = None,
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
    :param begun: the embedded worker, if it has been begun (:mod:`.worker_process`); its maker
        closes it afterwards.
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
            if capture:
                current().check_privileges()
            # The embedded worker and our own modules load while the host is looked at and changed.
            loading_end = await enter(load_worker_end(config, begun=begun))
            loading = _Loading(config, beside=capture or config.embedded)
            nursery = await enter(trio.open_nursery())
            nursery.start_soon(loading.run)
            local = await choose_local_end(config, device, ssh, capture=capture)
            config = replace(config, host_loopback=local.host_loopback)
            # An embedded worker notes its name servers before the host changes.
            worker = await loading_end.ready(config, local)
            await enter(local.in_force())
            joined = await loading.wait()
            yield await enter(
                joined(config, local, worker, decide=decide, on_captured=on_captured, bodies=bodies)
            )


class _Loading:
    """Loads :mod:`.join`, and what it needs with these options.

    :param beside: in a thread, since there are other things to wait for.
    """

    def __init__(self, config: VpnConfig, *, beside: bool) -> None:
        self._config = config
        self._beside = beside
        self._done = trio.Event()

    async def run(self) -> None:
        """Load, if it is done beside; not cancelled half-way."""
        if self._beside:
            with suppress(Exception):  # raised again where it is waited for: the host is closed
                await trio.to_thread.run_sync(self._load)
        self._done.set()

    async def wait(self) -> Callable[..., AbstractAsyncContextManager[Vpn]]:
        """Return :func:`.join.join` when all is loaded."""
        await self._done.wait()
        return self._load()

    def _load(self) -> Callable[..., AbstractAsyncContextManager[Vpn]]:
        from .join import join

        config = self._config
        load_service(
            config.dns or DnsOptions(),
            embedded=config.embedded,
            v1=config.protocol is Protocol.V1,
        )
        return join


def _check_flows(device: bool, capture: bool, decide: bool) -> None:
    """Refuse flows from two places, and a decision of flows where there are none.

    :raises ValueError: either is asked for.
    """
    if device and capture:
        raise ValueError("give a device, or capture the host, not both")
    if decide and not device and not capture:
        raise ValueError("there are no flows to decide of: give a device, or capture the host")
