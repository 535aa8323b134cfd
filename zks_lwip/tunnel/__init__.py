"""The client's end of the tunnel: streams, datagrams and requests through a worker.

:class:`Tunnel` (``tunnel``) is what the rest of the client uses, with what the peers of its streams
and associations are to be (``peers``) and a stream for trio (``tcp_stream``). Its ``pool`` decides
which ``channels`` there are (``channel``: a session and its streams) and has them opened
(``opener``); ``placement`` says which takes a new stream, those that none takes wait (``waiting``),
and ``outcomes`` notes what becomes of channels. A channel's ``session_runner`` has its ``dialler``
open another WebSocket when one is lost, by ``attempts`` beside each other; each is opened by
``dial``, over the TCP of ``tcp_path``, through a ``proxy`` if there is one. Which of several
workers they go to is decided in ``workers``, from what channels and the checks of ``health`` show.
``udp`` and ``requests`` outlive channels. ``availability`` says for how long to wait while it is
down. ``endpoint`` reads the worker's URL, and ``options`` holds what a tunnel is told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from .endpoint import WorkerUrl, parse_worker_url
    from .options import TunnelConfig, WorkerEndpoint
    from .peers import Association, StreamPeer, TunnelStream, UdpPeer
    from .proxy import Proxy
    from .tcp_stream import TunnelTcpStream
    from .tunnel import Tunnel

__all__ = [
    "Association",
    "Proxy",
    "StreamPeer",
    "TunnelTcpStream",
    "Tunnel",
    "TunnelConfig",
    "TunnelStream",
    "UdpPeer",
    "WorkerEndpoint",
    "WorkerUrl",
    "parse_worker_url",
]

if not TYPE_CHECKING:  # type checkers read the imports above
    __getattr__ = lazy_names(
        __name__,
        {
            "endpoint": "WorkerUrl parse_worker_url",
            "options": "TunnelConfig WorkerEndpoint",
            "peers": "Association StreamPeer TunnelStream UdpPeer",
            "proxy": "Proxy",
            "tcp_stream": "TunnelTcpStream",
            "tunnel": "Tunnel",
        },
    )
