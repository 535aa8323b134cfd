"""DNS: every query of the captured applications, answered here. See :class:`DnsService`."""

from __future__ import annotations

from zks_lwip.dns.cache import Cache
from zks_lwip.dns.conversation import Conversation, serve_stream
from zks_lwip.dns.framing import Deframer, frame
from zks_lwip.dns.resolver import DnsTunnel, Gate, Resolver, ResolverError, WorkerResolver
from zks_lwip.dns.servers import DEFAULT_SERVERS, Server, parse_forward, parse_server
from zks_lwip.dns.service import DnsService
from zks_lwip.dns.upstreams import Upstreams, Via, choose_via, make_upstreams

__all__ = [
    "DEFAULT_SERVERS",
    "Cache",
    "Conversation",
    "Deframer",
    "DnsService",
    "DnsTunnel",
    "Gate",
    "Resolver",
    "ResolverError",
    "Server",
    "Upstreams",
    "Via",
    "WorkerResolver",
    "choose_via",
    "frame",
    "make_upstreams",
    "parse_forward",
    "parse_server",
    "serve_stream",
]
