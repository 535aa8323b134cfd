"""The host as ``connect`` needs it: captured before the worker is looked for, and kept so.

::

    capture = await Capture.planned(config)      # looks, changes nothing
    async with capture.in_force():               # from here on nothing leaves but by the TUN
        ...  # sockets of the tunnel carry capture.mark and ask capture.resolve for addresses
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from .._util import leaves
from ..config import DEFAULT_HOST_LOOPBACK, Ipv6, VpnConfig
from ..dns.options import Dot
from ..errors import HostError
from ..host.plan.config import HostConfig
from ..host.platform import current
from .allowed_addresses import AllowedAddresses, known_peers, to_network
from .lookups import LookUps
from .roaming import Roaming, follow_uplinks

if TYPE_CHECKING:
    from ..host.base import BaseHost, HostDevice
    from ..host.plan.plan import Plan
    from ..host.ssh import SshConnection
    from ..tunnel import Tunnel

__all__ = ["Capture"]

_log = logging.getLogger(__name__)

_ASKED = (trio.Cancelled, KeyboardInterrupt, SystemExit, GeneratorExit)
"""What ends a block because its end is wanted."""


class Capture:
    """A namespace whose traffic is led into a TUN; made by :meth:`planned`.

    :class:`~zks_lwip.vpn.lookups.LookUps` finds addresses of names, and
    :class:`~zks_lwip.vpn.allowed_addresses.AllowedAddresses` has them let out; here is the life of
    the host.
    """

    def __init__(self, config: VpnConfig, plan: Plan) -> None:
        self.config = config
        self.plan = plan
        """What is done at first; :attr:`host` knows what is in force."""
        self._host: BaseHost | None = None
        self._allowed = AllowedAddresses(config, plan.mark, lambda: self.host)
        self._lookups = LookUps(config, plan.mark, self._allowed.add_peers)

    @classmethod
    async def planned(cls, config: VpnConfig, *, ssh: SshConnection | None = None) -> Capture:
        """Look at the host and decide what to change; nothing is changed.

        :param ssh: the connection that must not be cut, see :mod:`zks_lwip.host.ssh`.
        :raises ConfigError: that would cut it, or there is no such namespace.
        :raises HostError: the host cannot be captured as it is.
        """
        from ..host.ssh import check_ssh

        platform = current()
        wishes = config.host
        wanted = HostConfig(
            tun=config.device.tun,
            mtu=config.device.mtu,
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
            exclude=bool(config.allow_exclude),
            user=config.user,
            block_dot=config.dns is not None and config.dns.dot is Dot.BLOCK,
            peers=known_peers(config),
            persistent=wishes.always_on,
        )
        state = await platform.observe(config.netns)
        check_ssh(wanted, state, ssh)
        return cls(config, platform.make_plan(wanted, state))

    @property
    def mark(self) -> int | None:
        """What our sockets carry to stay out of the TUN; None where they need nothing."""
        return self.plan.mark

    @property
    def resolve(self) -> Callable[[str], Awaitable[Sequence[str]]]:
        """What finds the addresses of worker and proxy, or raises OSError where there are none.

        When it returns, the firewall lets the tunnel's sockets go to them.
        """
        return self._lookups.resolve

    @property
    def notes(self) -> tuple[str, ...]:
        """What the plan does not show yet: addresses that have still to be looked up."""
        if self.mark is None:
            return ()
        config, notes = self.config, []
        ways = [
            each.proxy or each.url
            for each in config.endpoints
            if each.proxy is not None or each.address is None
        ]
        for host in dict.fromkeys(way.host for way in ways if way.address is None):
            notes.append(f"the addresses of {host} join `peers` when they have been looked up")
        notes += [f"the addresses of {name} are let out, too" for name in config.host.bypass_hosts]
        return tuple(notes)

    @property
    def host(self) -> BaseHost:
        """The host as it is set up, inside of :meth:`in_force`.

        :raises HostError: outside of it.
        """
        if self._host is None:
            raise HostError("the host is not set up")
        return self._host

    @property
    def device(self) -> HostDevice:
        """The TUN."""
        return self.host.device

    @property
    def own_addresses(self) -> tuple[str, str]:
        """Addresses of the tunnel's own, next to the interface's: their pings are answered."""
        return str(self.plan.peer4), str(self.plan.ipv6.network[2])

    @property
    def host_loopback(self) -> ipaddress.IPv4Address | None:
        """What stands for the host's loopback: by default it moves with the TUN's addresses."""
        wished = self.config.host_loopback
        return self.plan.peer4 if wished == DEFAULT_HOST_LOOPBACK else wished

    @asynccontextmanager
    async def in_force(self) -> AsyncIterator[None]:
        """Capture the host for the length of an ``async with``.

        Afterwards it is as before, if the block ends normally or is cancelled. If it ends by an
        error, and ``host.hold`` is set, the host stays closed.

        :raises HostError: a step failed, or another instance runs in this namespace.
        :raises PrivilegeError: for want of a privilege.
        """
        from ..host.plan.conflicts import LEAVES_HERE

        platform = current()
        if proxy := await self._lookups.find_proxy():
            peers = (self.plan.config.peers or ()) + tuple(map(to_network, proxy))
            config = replace(self.plan.config, peers=peers)
            self.plan = platform.make_plan(config, self.plan.state)
        for note in self.plan.notes:
            if note != LEAVES_HERE:  # the user who names no worker has been told
                _log.warning("%s", note)
        always_on = self.config.host.always_on
        async with (
            platform.applied(self.plan, hold=always_on) as self._host,
            trio.open_nursery() as nursery,
        ):
            # What an instance that died has left closed is not opened by our failure, either.
            self.host.hold = always_on or self.plan.state.leftover is not None
            try:
                await self._lookups.start(nursery)
                yield
            except BaseException as error:
                if all(isinstance(leaf, _ASKED) for leaf in leaves(error)):
                    self.host.hold = False
                raise
            self.host.hold = False
            nursery.cancel_scope.cancel()

    async def call_when_captured(
        self, on_captured: Callable[[Capture, Tunnel], Awaitable[None]] | None, tunnel: Tunnel
    ) -> None:
        """Await ``on_captured`` now that the host is closed, and before there is a thread."""
        if on_captured is not None:
            await on_captured(self, tunnel)

    def hold(self) -> None:
        """Leave the host closed from now on, if an error ends the block."""
        self.host.hold = True

    async def follow(self, tunnel: Tunnel) -> None:
        """Keep the host as it is, and the tunnel where the network is, until cancelled.

        :raises DeviceError: the TUN has been removed.
        """
        roaming = Roaming(tunnel, self.mark)
        async with trio.open_nursery() as nursery:
            if not self.config.embedded:  # that is on loopback
                nursery.start_soon(roaming.run)
                if self.mark is None:
                    nursery.start_soon(follow_uplinks, roaming.moved)
            on_move = _ignore if self.mark is None else roaming.moved
            nursery.start_soon(current().watch, self.host, on_move)
            nursery.start_soon(self._allowed.follow_bypassed, self._lookups.look_up)


def _ignore(slept: bool) -> None:
    """What happens in the captured namespace does not move a tunnel that is not in it."""
