"""DNS over HTTPS (RFC 8484)."""

from __future__ import annotations

import trio

from .connection import Connection
from .encrypted import EncryptedResolver

__all__ = ["DohResolver"]


class DohResolver(EncryptedResolver):
    """One DNS-over-HTTPS server, asked over one HTTP/2 connection."""

    title = "DNS over HTTPS"
    default_port = 443
    default_path = "/dns-query"
    alpn = "h2"

    def make_connection(self, stream: trio.abc.Stream, rtt: float) -> Connection:
        from .doh_connection import DohConnection  # with h2, which takes long to load

        return DohConnection(
            stream,
            rtt,
            self.server,
            slowness=self.slowness,
            probe_timeout=self.timeouts.probe,
        )
