"""DNS: every query of the captured applications, answered here. See :class:`DnsService`."""

from __future__ import annotations

from zks_lwip.dns.cache import Cache
from zks_lwip.dns.conversation import Conversation, serve_stream
from zks_lwip.dns.framing import Deframer, frame
from zks_lwip.dns.resolver import DnsTunnel, Gate, Resolver, ResolverError, WorkerResolver
from zks_lwip.dns.service import DnsService

__all__ = [
    "Cache",
    "Conversation",
    "Deframer",
    "DnsService",
    "DnsTunnel",
    "Gate",
    "Resolver",
    "ResolverError",
    "WorkerResolver",
    "frame",
    "serve_stream",
]
