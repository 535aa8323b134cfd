"""From one network to another: the tunnel connects again when its way to the worker has changed.

A change elsewhere (a container's interface, an address that is renewed) disturbs nobody.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

import trio

if TYPE_CHECKING:
    from .host.ways import Way

__all__ = ["Roaming", "follow_uplinks"]

_log = logging.getLogger(__name__)

#: Seconds within which the way of a new channel is looked up, to be compared with later ones.
_LEARN_EVERY = 1.0


class RoamingTunnel(Protocol):
    """What is needed of the tunnel."""

    @property
    def up(self) -> bool: ...
    @property
    def carriers(self) -> list[trio.socket.SocketType]: ...
    def reconnect(self, why: str) -> None: ...
    def retry(self) -> None: ...


class Roaming:
    """Looks after a tunnel whose sockets carry ``mark``; :meth:`run` must be running."""

    def __init__(self, tunnel: RoamingTunnel, mark: int | None) -> None:
        self._tunnel = tunnel
        self._mark = mark
        self._news = trio.Event()
        self._slept = False
        self._ways: dict[str, Way] = {}
        self._way_to: Callable[[str, int | None], Way | None]

    def moved(self, slept: bool) -> None:
        """The way to the outside may be another one; ``slept``: this machine was suspended."""
        self._slept |= slept
        self._news.set()

    async def run(self) -> None:
        """Until cancelled."""
        # Not later: without a descriptor no module can be loaded.
        from .host.ways import way_to

        self._way_to = way_to
        while True:
            with trio.move_on_after(_LEARN_EVERY):
                await self._news.wait()
            if not self._news.is_set():
                await self._learn(self._peers() - self._ways.keys())
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
        before = self._ways.copy()
        await self._learn(self._peers())
        for carrier in self._tunnel.carriers:
            peer, own = _host(carrier.getpeername), _host(carrier.getsockname)
            way = self._ways.get(peer)
            if way and (way.source not in ("", own) or before.get(peer, way) != way):
                self._tunnel.reconnect("the way to the worker has changed")
                return

    async def _learn(self, peers: set[str]) -> None:
        """Look for the ways there; where there is none now, the last one is kept."""
        for peer in peers:
            look = partial(self._way_to, peer, self._mark)
            way = await trio.to_thread.run_sync(look, abandon_on_cancel=True)
            if way is not None:
                if way != self._ways.get(peer):
                    _log.debug("the way to %s is %s", peer, way)
                self._ways[peer] = way
        self._ways = {peer: way for peer, way in self._ways.items() if peer in self._peers()}

    def _peers(self) -> set[str]:
        """Where the tunnel's channels go."""
        return {_host(carrier.getpeername) for carrier in self._tunnel.carriers} - {""}


def _host(ask: Callable[[], tuple[object, ...]]) -> str:
    """The address of an end of a socket, as an IPv4 one where it is; empty if it has gone."""
    try:
        host = str(ask()[0])
    except OSError:
        return ""
    return host.partition("%")[0].removeprefix("::ffff:")


async def follow_uplinks(moved: Callable[[bool], None]) -> None:
    """Tell of changes in the namespace that we are in, where it is not the captured one."""
    from .host.monitor import follow

    try:
        await follow(moved)
    except OSError as error:
        _log.info("changes of the network are not followed: %s", error.strerror)
