"""From one network to another: the tunnel connects again when its next hop has changed.

A change elsewhere (a container's interface, an address that is renewed) does not disturb it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

import trio

from ..host.platform import current

if TYPE_CHECKING:
    from ..host.reports import NextHop

__all__ = ["Roaming", "follow_network", "follow_uplinks"]

_log = logging.getLogger(__name__)

LEARN_SECONDS = 1.0
"""Within which the next hop of a new channel is looked up, to be compared with later ones."""

LookUp = Callable[[str, int | None], "NextHop | None"]
"""Finds the next hop to an address for sockets with a mark. Blocks."""


class RoamingTunnel(Protocol):
    """What is needed of the tunnel."""

    @property
    def up(self) -> bool: ...
    @property
    def carriers(self) -> list[trio.socket.SocketType]: ...
    def reconnect(self, why: str) -> None: ...
    def retry(self) -> None: ...


class Roaming:
    """Looks after a tunnel; :meth:`run` must be running.

    :param mark: SO_MARK of the tunnel's sockets.
    :param look_up: finds next hops; None: the kernel's.
    :param learn_seconds: within which the next hop of a new channel is looked up.
    """

    def __init__(
        self,
        tunnel: RoamingTunnel,
        mark: int | None,
        *,
        look_up: LookUp | None = None,
        learn_seconds: float = LEARN_SECONDS,
    ) -> None:
        self._tunnel = tunnel
        self._mark = mark
        self._look_up = look_up
        self._learn_seconds = learn_seconds
        self._news = trio.Event()
        self._slept = False
        self._next_hops: dict[str, NextHop] = {}

    def moved(self, slept: bool) -> None:
        """Take note that the next hop may have changed.

        :param slept: this machine was suspended.
        """
        self._slept |= slept
        self._news.set()

    async def run(self) -> None:
        """Have the tunnel connect again when it must, until cancelled."""
        if self._look_up is None:
            # Not later: without a descriptor no module can be loaded.
            self._look_up = current().next_hop
        while True:
            with trio.move_on_after(self._learn_seconds):
                await self._news.wait()
            if not self._news.is_set():
                await self._learn(self._peers() - self._next_hops.keys())
                continue
            self._news = trio.Event()
            slept, self._slept = self._slept, False
            if slept:
                self._tunnel.reconnect("the machine has slept")
            elif not self._tunnel.up:
                self._tunnel.retry()
            else:
                await self._compare()

    async def _compare(self) -> None:
        before = self._next_hops.copy()
        await self._learn(self._peers())
        for carrier in self._tunnel.carriers:
            peer, own = _host(carrier.getpeername), _host(carrier.getsockname)
            hop = self._next_hops.get(peer)
            if hop and (hop.source not in ("", own) or before.get(peer, hop) != hop):
                self._tunnel.reconnect("the way to the worker has changed")
                return

    async def _learn(self, peers: set[str]) -> None:
        """Look the next hops to ``peers`` up; where there is none now, the last one is kept."""
        assert self._look_up is not None
        for peer in peers:
            look = partial(self._look_up, peer, self._mark)
            hop = await trio.to_thread.run_sync(look, abandon_on_cancel=True)
            if hop is not None:
                if hop != self._next_hops.get(peer):
                    _log.debug("the way to %s is %s", peer, hop)
                self._next_hops[peer] = hop
        known = self._peers()
        self._next_hops = {peer: hop for peer, hop in self._next_hops.items() if peer in known}

    def _peers(self) -> set[str]:
        """Return the addresses that the tunnel's channels go to."""
        return {_host(carrier.getpeername) for carrier in self._tunnel.carriers} - {""}


def _host(ask: Callable[[], tuple[object, ...]]) -> str:
    """Return the address of a socket's end, as an IPv4 one where it is; empty if it has gone."""
    try:
        host = str(ask()[0])
    except OSError:
        return ""
    return host.partition("%")[0].removeprefix("::ffff:")


async def follow_network(tunnel: RoamingTunnel, mark: int | None) -> None:
    """Keep a tunnel where the network is, in a namespace that is not captured, until cancelled."""
    roaming = Roaming(tunnel, mark)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(roaming.run)
        nursery.start_soon(follow_uplinks, roaming.moved)


async def follow_uplinks(moved: Callable[[bool], None]) -> None:
    """Call ``moved`` after changes in the namespace of this process, where that is not captured."""
    try:
        await current().follow(moved)
    except OSError as error:
        _log.info("changes of the network are not followed: %s", error.strerror)
