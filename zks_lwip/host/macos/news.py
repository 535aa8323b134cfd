"""The kernel's news of macOS: the routing socket, route(4), for :mod:`zks_lwip.host.monitor`."""

from __future__ import annotations

import socket

import trio

from ...net.darwin import AF_ROUTE

__all__ = ["LOOK_SECONDS", "open_news"]

LOOK_SECONDS = 15.0
"""Until another look where there are no news: pf does not tell that its rules have changed."""


def open_news() -> trio.socket.SocketType:
    """Open a routing socket.

    :raises OSError: there is none.
    """
    news = socket.socket(AF_ROUTE, socket.SOCK_RAW, 0)
    news.setblocking(False)
    return trio.socket.from_stdlib_socket(news)
