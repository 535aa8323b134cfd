"""DNS: every query of the captured applications, answered here.

- :class:`DnsService` (``service``) answers: local names, then the cache, then the upstreams.
- ``message`` reads and writes DNS messages; no sockets, no clock.
- ``forwarder`` holds the queries that are asked, as fair as :mod:`zks_lwip.net.fairness` makes it.
- ``upstream`` asks: the pool of resolvers, and the transports (to add one, see there).
- ``options`` are the user's, ``bootstrap`` looks up the worker's own name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from .bootstrap import Bootstrap
    from .cache import Cache
    from .message.framing import Deframer, frame
    from .options import DnsOptions, Dot, make_service
    from .service import DnsService, PacketCacheLike
    from .tcp_server import Conversation, serve_stream
    from .upstream.parse import DEFAULT_SERVERS, parse_forward, parse_server
    from .upstream.resolver import DnsTunnel, Gate, ResolverError, Upstream, WorkerResolver
    from .upstream.select import Upstreams, Via, choose_via, make_upstreams
    from .upstream.server import Server

__all__ = [
    "DEFAULT_SERVERS",
    "Bootstrap",
    "Cache",
    "Conversation",
    "Deframer",
    "DnsOptions",
    "DnsService",
    "DnsTunnel",
    "Dot",
    "Gate",
    "PacketCacheLike",
    "ResolverError",
    "Server",
    "Upstream",
    "Upstreams",
    "Via",
    "WorkerResolver",
    "choose_via",
    "frame",
    "make_service",
    "make_upstreams",
    "parse_forward",
    "parse_server",
    "serve_stream",
]

if not TYPE_CHECKING:  # type checkers read the imports above
    __getattr__ = lazy_names(
        __name__,
        {
            "bootstrap": "Bootstrap",
            "cache": "Cache",
            "message.framing": "Deframer frame",
            "options": "DnsOptions Dot make_service",
            "service": "DnsService PacketCacheLike",
            "tcp_server": "Conversation serve_stream",
            "upstream.parse": "DEFAULT_SERVERS parse_forward parse_server",
            "upstream.resolver": "DnsTunnel Gate ResolverError Upstream WorkerResolver",
            "upstream.select": "Upstreams Via choose_via make_upstreams",
            "upstream.server": "Server",
        },
    )
