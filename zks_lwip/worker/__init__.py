"""The Python worker: opens the real connections for the clients of the tunnel (PROTOCOL.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from .limits import Limits
    from .listen import parse_origin
    from .nameservers import parse_resolver
    from .open import RunningWorker, open_worker
    from .options import WorkerConfig
    from .policy import Policy, parse_network
    from .served import ServedSession
    from .server import Worker
    from .stats import TokenStats, WorkerStats

__all__ = [
    "Limits",
    "Policy",
    "RunningWorker",
    "ServedSession",
    "TokenStats",
    "Worker",
    "WorkerConfig",
    "WorkerStats",
    "open_worker",
    "parse_network",
    "parse_origin",
    "parse_resolver",
]

if not TYPE_CHECKING:  # type checkers read the imports above
    __getattr__ = lazy_names(
        __name__,
        {
            "limits": "Limits",
            "listen": "parse_origin",
            "nameservers": "parse_resolver",
            "open": "RunningWorker open_worker",
            "options": "WorkerConfig",
            "policy": "Policy parse_network",
            "served": "ServedSession",
            "server": "Worker",
            "stats": "TokenStats WorkerStats",
        },
    )
