"""Follow what happens to a host that has been set up: roaming, suspend, changes by others.

The kernel's news (rtnetlink(7), nftables) say *that* something has changed; what, is looked up.
News that come in a burst are answered once.
"""

from __future__ import annotations

import errno
import logging
import socket
import time
from collections.abc import Callable

import trio

from ...errors import HostError
from ...net.descriptors import is_scarcity, warn_of_scarcity
from ..plan.state import HostState
from .host import Host

__all__ = ["follow", "seconds_slept", "watch", "watch_clock"]

_log = logging.getLogger(__name__)

_ROUTE, _NETFILTER = 0, 12  # of linux/netlink.h
# Groups of linux/rtnetlink.h: link, IPv4 and IPv6 addresses, routes and rules.
_GROUPS = 1 << 0 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 18
# NFNLGRP_NFTABLES: the ruleset is flushed, or our table changed.
_NFTABLES_GROUP = 1 << 6
# Seconds that a burst may take. The firewall holds meanwhile.
_BURST = 0.1
# Seconds until another look, where there was no descriptor for it.
_AGAIN = 1.0
# Seconds between two looks at the clocks, and by how much they must differ to call it a suspend.
_CLOCK_EVERY, _SUSPEND = 5.0, 10.0


async def watch(host: Host, on_move: Callable[[bool], None]) -> None:
    """Keep routes, rules and firewall as planned, until cancelled.

    :param on_move: called when the way to the outside may be another one: default routes or
        addresses have changed, or (with True) the machine has slept.
    :raises DeviceError: another program has removed the TUN.
    """
    sockets = await host.run(_listen)
    try:
        async with trio.open_nursery() as nursery:
            wake = _Wake()
            for one in sockets:
                nursery.start_soon(_receive, one, wake)
            nursery.start_soon(watch_clock, on_move)
            await _follow(host, wake, on_move)
    finally:
        for one in sockets:
            one.close()


async def follow(on_move: Callable[[bool], None]) -> None:
    """Tell of changes in the network namespace of this thread, until cancelled.

    :param on_move: called as by :func:`watch`, but also for changes that do not matter.
    """
    with _news(_ROUTE, _GROUPS) as news:
        async with trio.open_nursery() as nursery:
            wake = _Wake()
            nursery.start_soon(_receive, news, wake)
            nursery.start_soon(watch_clock, on_move)
            while True:
                await wake.next()
                on_move(False)


class _Wake:
    """Whether there are news that have not been looked at."""

    def __init__(self) -> None:
        self.event = trio.Event()

    async def next(self) -> None:
        """Wait for news, and for the end of their burst."""
        await self.event.wait()
        await trio.sleep(_BURST)
        self.event = trio.Event()


def _listen() -> list[trio.socket.SocketType]:
    """Open the sockets of the kernel's news, in the captured namespace, whose news they get."""
    return [_news(_ROUTE, _GROUPS), _news(_NETFILTER, _NFTABLES_GROUP)]


def _news(protocol: int, groups: int) -> trio.socket.SocketType:
    one = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    one.setblocking(False)
    one.bind((0, groups))
    return trio.socket.from_stdlib_socket(one)


async def _receive(news: trio.socket.SocketType, wake: _Wake) -> None:
    while True:
        try:
            await news.recv(65536)
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # some were lost: reason enough to look
                raise
        wake.event.set()


async def _reassert(host: Host) -> HostState:
    """Look at the host again, for as long as it takes to have what that needs.

    The firewall and the routes that are in force stay so meanwhile.
    """
    while True:
        try:
            return await host.reassert()
        except (HostError, OSError) as error:
            if not is_scarcity(error):
                raise
            warn_of_scarcity("a change of the network has to wait to be looked at", error)
            await trio.sleep(_AGAIN)


async def _follow(host: Host, wake: _Wake, on_move: Callable[[bool], None]) -> None:
    before = _outside(await _reassert(host), host.plan.config.tun)
    while True:
        await wake.next()
        after = _outside(await _reassert(host), host.plan.config.tun)
        if after != before:
            before = after
            _log.info("the network has changed")
            on_move(False)


def _outside(state: HostState, tun: str) -> tuple[object, ...]:
    """Return what a connection to the outside depends on; the TUN is never an uplink."""
    up = {link.name for link in state.links if link.up and link.name not in ("lo", tun)}
    addresses = {str(a.interface) for a in state.addresses if a.link in up}
    return frozenset(up), frozenset(addresses), tuple(sorted(state.uplinks))


def seconds_slept() -> float:
    """Return how many seconds this machine has been suspended since its start."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


async def watch_clock(
    on_move: Callable[[bool], None], slept: Callable[[], float] = seconds_slept
) -> None:
    """Call ``on_move(True)`` when the machine has slept, until cancelled.

    :param slept: see :func:`seconds_slept`.
    """
    before = slept()
    while True:
        await trio.sleep(_CLOCK_EVERY)
        now = slept()
        if now - before > _SUSPEND:
            _log.info("the machine has slept for %.0f s", now - before)
            on_move(True)
        before = now
