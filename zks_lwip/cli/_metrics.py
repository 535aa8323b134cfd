"""The option ``--metrics``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import socket

__all__ = ["metrics_option", "open_metrics", "take_metrics_socket"]

metrics_option = click.option(
    "--metrics",
    metavar="[ADDRESS:]PORT",
    help="Serve numbers for Prometheus at http://ADDRESS:PORT/metrics, and /ready, which is 200 "
    "while it works and 503 while not. All who reach the port may read them.  [default ADDRESS: "
    "127.0.0.1]",
)


def open_metrics(text: str | None) -> socket.socket | None:
    """Listen where the option says, before anything else begins.

    :raises ConfigError: it cannot.
    :raises PrivilegeError: the port needs privilege.
    """
    if text is None:
        return None
    from ..metrics import listen_for_metrics, parse_metrics

    return listen_for_metrics(parse_metrics(text))


def take_metrics_socket(inherited: list[tuple[int, str]]) -> socket.socket | None:
    """Take the socket that systemd calls ``metrics`` out of those that it has opened, if any."""
    import socket

    for each in inherited:
        fd, name = each
        if name == "metrics":
            inherited.remove(each)
            sock = socket.socket(fileno=fd)
            sock.setblocking(False)
            return sock
    return None
