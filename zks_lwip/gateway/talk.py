"""What ``-vv`` shows of each connection: a line when it begins, and one when it ends, with why."""

from __future__ import annotations

import logging

__all__ = ["tell", "told"]

_log = logging.getLogger("zks_lwip.gateway")

_Address = tuple[str, int]


def told() -> bool:
    """Whether anybody is to see it: ask before a line is put together."""
    return _log.isEnabledFor(logging.DEBUG)


def tell(kind: str, source: _Address, destination: _Address | None, what: str) -> None:
    """``tcp 10.0.0.2:40000 -> [2001:db8::1]:443: what``"""
    to = "" if destination is None else f" -> {_shown(destination)}"
    _log.debug("%s %s%s: %s", kind, _shown(source), to, what)


def _shown(address: _Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
