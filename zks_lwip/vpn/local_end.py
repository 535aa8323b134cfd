"""The local end of a VPN: where packets come from, and how sockets get past the capture."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Protocol

from ..config import VpnConfig
from ..device import FdDevice, PacketDevice, RingDevice
from ..host.plan.addresses import TUN_IPV4, TUN_IPV6
from ..host.platform import is_supported
from .roaming import follow_network

if TYPE_CHECKING:
    from ..host.ssh import SshConnection
    from ..tunnel import Tunnel
    from .capture import Capture

__all__ = ["GivenDevice", "LocalEnd", "OnCaptured", "Resolve", "choose_local_end"]

OnCaptured = Callable[["Capture", "Tunnel"], Awaitable[None]]
"""Called when the host is closed, before there is a thread or a connection to the worker."""

Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""Finds a name's addresses, or raises OSError where there are none."""


class LocalEnd(Protocol):
    """What :func:`~zks_lwip.vpn.open_vpn` needs of a captured host, or of a device in its place."""

    @property
    def mark(self) -> int | None:
        """SO_MARK of the tunnel's sockets; None: they need none."""
        ...

    @property
    def resolve(self) -> Resolve | None:
        """What finds the addresses of worker and proxy; None: the system's resolver."""
        ...

    @property
    def host_loopback(self) -> ipaddress.IPv4Address | None:
        """Which address in the tunnel stands for the host's own loopback; None: none does."""
        ...

    @property
    def device(self) -> FdDevice | RingDevice | PacketDevice | None:
        """Where packets come from, inside of :meth:`in_force`; None: there are none."""
        ...

    @property
    def own_addresses(self) -> tuple[str, str]:
        """The tunnel's own addresses, IPv4 and IPv6: their pings are answered by the stack."""
        ...

    def in_force(self) -> AbstractAsyncContextManager[None]:
        """Capture the host, if this is one, for the length of an ``async with``."""
        ...

    async def call_when_captured(self, on_captured: OnCaptured | None, tunnel: Tunnel) -> None:
        """Await ``on_captured`` if a host has been captured."""
        ...

    async def follow(self, tunnel: Tunnel) -> None:
        """Keep the host as it is, and the tunnel where the network is, until cancelled."""
        ...

    def hold(self) -> None:
        """Leave the host closed from now on, if an error ends the VPN."""
        ...


class GivenDevice:
    """A device of the caller's, or none: the host is left as it is."""

    def __init__(
        self, config: VpnConfig, device: FdDevice | RingDevice | PacketDevice | None
    ) -> None:
        self.mark = None
        self.resolve = None
        self.host_loopback = config.host_loopback
        self.device = device
        self.own_addresses = (str(TUN_IPV4.network[2]), str(TUN_IPV6.network[2]))
        self._config = config

    @asynccontextmanager
    async def in_force(self) -> AsyncIterator[None]:
        """Do nothing."""
        yield

    async def call_when_captured(self, on_captured: OnCaptured | None, tunnel: Tunnel) -> None:
        """Do nothing: no host has been closed."""

    async def follow(self, tunnel: Tunnel) -> None:
        """Keep the tunnel where the network is, until cancelled."""
        if is_supported() and not self._config.embedded:  # that is on loopback
            await follow_network(tunnel, self.mark)

    def hold(self) -> None:
        """Do nothing."""


async def choose_local_end(
    config: VpnConfig,
    device: FdDevice | RingDevice | PacketDevice | None,
    ssh: SshConnection | None,
    *,
    capture: bool,
) -> LocalEnd:
    """Return ``device`` (None: there is none) as a local end, or the host, which is looked at.

    :param capture: the host is to be captured.

    :raises ConfigError: the SSH connection would be cut, or there is no such namespace.
    :raises HostError: the host cannot be captured as it is.
    """
    if not capture:
        return GivenDevice(config, device)
    from .capture import Capture

    return await Capture.planned(config, ssh=ssh)
