"""The Python worker: opens the real connections for the clients of the tunnel (PROTOCOL.md)."""

from __future__ import annotations

from .limits import Limits
from .listen import parse_listen, parse_origin
from .nameservers import parse_resolver
from .policy import Policy, parse_network
from .server import Worker, WorkerConfig

__all__ = [
    "Limits",
    "Policy",
    "Worker",
    "WorkerConfig",
    "parse_listen",
    "parse_network",
    "parse_origin",
    "parse_resolver",
]
