"""Follow what happens to a host that has been set up: roaming, suspend, changes by others.

The kernel's news, which come on sockets of the system, say *that* something has changed; what, is
looked up. News that come in a burst are answered once.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import sys
import time
from collections.abc import Callable, Iterable

import trio

from ..errors import DeviceError, HostError
from ..net.descriptors import is_scarcity, warn_of_scarcity
from .base import BaseHost
from .plan.state import HostState

__all__ = ["follow_news", "seconds_slept", "watch_clock", "watch_news"]

_log = logging.getLogger(__name__)

# Seconds that a burst may take. The firewall holds meanwhile.
_BURST = 0.1
# Seconds until another look, where there was no descriptor for it.
_AGAIN = 1.0
# How often a step may fail before that counts, since the host has changed again after the look
# (what it goes by may be half of a change), and the seconds until the next.
_CHANGES, _CHANGE = 3, 0.1
# Seconds between two looks at what the kernel has no news of.
_ASK_EVERY = 2.0
# Seconds between two looks at the clocks, and by how much they must differ to call it a suspend.
_CLOCK_EVERY, _SUSPEND = 5.0, 10.0


async def watch_news(
    host: BaseHost,
    sockets: Iterable[trio.socket.SocketType],
    on_move: Callable[[bool], None],
    *,
    every: float | None = None,
    also: Callable[[], object] | None = None,
) -> None:
    """Keep a host as planned, until cancelled.

    :param sockets: of the kernel's news; closed at the end.
    :param on_move: called when the way to the outside may be another one: default routes or
        addresses have changed, or (with True) the machine has slept.
    :param every: seconds until another look where there are no news; None: none is needed.
    :param also: returns what else matters and is no news of the kernel's: it is asked every few
        seconds, and another answer is news.
    :raises DeviceError: another program has removed the TUN.
    :raises HostError: the host does not let itself be brought back to what is planned.
    """
    sockets = list(sockets)
    try:
        async with trio.open_nursery() as nursery:
            wake = _Wake(every)
            for one in sockets:
                nursery.start_soon(_receive, one, wake)
            nursery.start_soon(watch_clock, on_move)
            if also is not None:
                nursery.start_soon(_ask, also, wake)
            await _follow(host, wake, on_move)
    finally:
        for one in sockets:
            one.close()


async def follow_news(news: trio.socket.SocketType, on_move: Callable[[bool], None]) -> None:
    """Tell of changes on a host that is not set up, until cancelled.

    :param news: closed at the end.
    :param on_move: called as by :func:`watch_news`, but also for changes that do not matter.
    """
    with news:
        async with trio.open_nursery() as nursery:
            wake = _Wake()
            nursery.start_soon(_receive, news, wake)
            nursery.start_soon(watch_clock, on_move)
            while True:
                await wake.next()
                on_move(False)


class _Wake:
    """Whether there are news that have not been looked at."""

    def __init__(self, every: float | None = None) -> None:
        self.event = trio.Event()
        self._every = float("inf") if every is None else every

    async def next(self) -> None:
        """Wait for news, and for the end of their burst."""
        with trio.move_on_after(self._every):
            await self.event.wait()
        await trio.sleep(_BURST)
        self.event = trio.Event()


async def _receive(news: trio.socket.SocketType, wake: _Wake) -> None:
    while True:
        try:
            await news.recv(65536)
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # some were lost: reason enough to look
                raise
        wake.event.set()


async def _ask(also: Callable[[], object], wake: _Wake) -> None:
    before = also()
    while True:
        await trio.sleep(_ASK_EVERY)
        if (now := also()) != before:
            before = now
            wake.event.set()


async def _reassert(host: BaseHost) -> HostState:
    """Look at the host again, for as long as it takes to have what that needs.

    The firewall and the routes that are in force stay so meanwhile.
    """
    failed = 0
    while True:
        try:
            return await host.reassert()
        except (HostError, OSError) as error:
            if is_scarcity(error):
                warn_of_scarcity("a change of the network has to wait to be looked at", error)
                await trio.sleep(_AGAIN)
                continue
            failed += 1
            if isinstance(error, (DeviceError, OSError)) or failed > _CHANGES:
                raise
            _log.info("the host is looked at again: %s", error)
            await trio.sleep(_CHANGE)


async def _follow(host: BaseHost, wake: _Wake, on_move: Callable[[bool], None]) -> None:
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
    up = {link.name for link in state.links if link.up and link.name not in ("lo", "lo0", tun)}
    addresses = {str(a.interface) for a in state.addresses if a.link in up}
    return frozenset(up), frozenset(addresses), tuple(sorted(state.uplinks))


def seconds_slept() -> float:
    """Return how many seconds this machine has been suspended since its start."""
    if sys.platform == "darwin":
        return time.clock_gettime(time.CLOCK_MONOTONIC) - time.clock_gettime(time.CLOCK_UPTIME_RAW)
    if sys.platform == "win32":
        # The first counts sleep, the second does not.
        kernel, unbiased = ctypes.CDLL("kernel32.dll"), ctypes.c_uint64()
        kernel.GetTickCount64.restype = ctypes.c_uint64
        kernel.QueryUnbiasedInterruptTime(ctypes.byref(unbiased))
        return float(kernel.GetTickCount64()) / 1e3 - unbiased.value / 1e7
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
