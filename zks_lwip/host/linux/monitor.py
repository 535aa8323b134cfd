"""The kernel's news of Linux, rtnetlink(7) and nftables, for :mod:`zks_lwip.host.monitor`."""

from __future__ import annotations

import socket
from collections.abc import Callable

import trio

from ..base import BaseHost
from ..monitor import follow_news, watch_news
from .find_resolver import find_name_servers

__all__ = ["follow", "watch"]

_ROUTE, _NETFILTER = 0, 12  # of linux/netlink.h
# Groups of linux/rtnetlink.h: link, IPv4 and IPv6 addresses, routes and rules.
_GROUPS = 1 << 0 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 18
# NFNLGRP_NFTABLES: the ruleset is flushed, or our table changed.
_NFTABLES_GROUP = 1 << 6


async def watch(host: BaseHost, on_move: Callable[[bool], None]) -> None:
    """Keep routes, rules and firewall as planned, until cancelled.

    :param on_move: called as :func:`~zks_lwip.host.monitor.watch_news` says.
    :raises DeviceError: another program has removed the TUN.
    """
    # (In which files name servers stand, only excluded programs are led by.)
    also = find_name_servers if host.plan.config.exclude else None
    await watch_news(host, await host.run(_listen), on_move, also=also)


async def follow(on_move: Callable[[bool], None]) -> None:
    """Tell of changes in the network namespace of this thread, until cancelled.

    :param on_move: called as by :func:`watch`, but also for changes that do not matter.
    :raises OSError: there is no socket for the news.
    """
    await follow_news(_news(_ROUTE, _GROUPS), on_move)


def _listen() -> list[trio.socket.SocketType]:
    """Open the sockets of the kernel's news, in the captured namespace, whose news they get."""
    return [_news(_ROUTE, _GROUPS), _news(_NETFILTER, _NFTABLES_GROUP)]


def _news(protocol: int, groups: int) -> trio.socket.SocketType:
    one = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    one.setblocking(False)
    one.bind((0, groups))
    return trio.socket.from_stdlib_socket(one)
