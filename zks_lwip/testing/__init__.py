"""Networks in memory, for tests of trio programs that know nothing of it.

:func:`network` makes hosts with names and addresses. Inside, ``trio.open_tcp_stream``,
``trio.serve_tcp`` and ``trio.socket`` use them, by trio's own hooks, and nothing of this machine::

    async with network({"server": "192.0.2.1", "client": "192.0.2.2"}, delay=0.05) as net:
        async with trio.open_nursery() as nursery:
            with net.host("server"):
                nursery.start_soon(trio.serve_tcp, handler, 80)
            with net.host("client"):
                stream = await trio.open_tcp_stream("server", 80)

Each host runs lwIP, so that what is lost is sent again, what is refused is refused, and a closed
window holds up its sender. Time is trio's: ``trio.testing.MockClock`` makes an hour of it pass at
once.

``_network`` holds hosts and names, ``_links`` carries packets, ``_sockets`` has the sockets.
"""

from __future__ import annotations

from ._links import Link
from ._network import Network, network

__all__ = ["Link", "Network", "network"]
