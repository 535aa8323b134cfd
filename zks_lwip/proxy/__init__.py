"""SOCKS5 and HTTP on one port, for programs that know what a proxy is; no TUN, no privilege.

:class:`ProxyServer` (``server``) listens. ``handshake`` finds out what a client wants, by the codec
of its language: ``socks5`` (RFC 1928, RFC 1929) or ``http`` (RFC 9110), both without I/O, and
``passwords`` who it is. ``service`` has the tunnel give it: a TCP connection (``relay``), one
request for an ``http://`` URL (``forward``), or a UDP association (``udp``, with ``names``).
``answers`` says in either language why not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from .options import ProxyConfig
    from .server import ProxyServer
    from .service import ProxyTunnel

__all__ = ["ProxyConfig", "ProxyServer", "ProxyTunnel"]

if not TYPE_CHECKING:  # type checkers read the imports above
    __getattr__ = lazy_names(
        __name__,
        {"options": "ProxyConfig", "server": "ProxyServer", "service": "ProxyTunnel"},
    )
