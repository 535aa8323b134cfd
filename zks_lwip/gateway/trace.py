"""What ``-vv`` shows of each connection: a line when it begins, and one when it ends, with why."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from ..net.names import join_host_port

__all__ = ["log_flow", "logs_flows"]

_log = logging.getLogger("zks_lwip.gateway")

_Address = tuple[str, int]


logs_flows: Callable[[], bool] = partial(_log.isEnabledFor, logging.DEBUG)
"""Return whether the lines are shown: ask before one is put together."""


def log_flow(kind: str, source: _Address, destination: _Address | None, what: str) -> None:
    """Log ``tcp 10.0.0.2:40000 -> [2001:db8::1]:443: what``.

    :param kind: ``tcp`` or ``udp``.
    :param destination: None for an association, which has many.
    """
    to = "" if destination is None else f" -> {join_host_port(*destination)}"
    _log.debug("%s %s%s: %s", kind, join_host_port(*source), to, what)
