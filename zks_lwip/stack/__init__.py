"""The C core as trio objects: TCP connections and UDP datagrams of a device.

:class:`Stack` runs lwIP on a device. :class:`TcpListener` and :class:`UdpListener` give its
connections as trio streams and its datagrams as flows; :class:`Flow` is what lies below, for
programs that do not spend a task on each connection. :func:`open_tcp_stream` and :func:`open_udp`
are for what begins here.

Within the package: ``_core`` holds the C core's handle, ``_pump`` moves packets, ``_flow`` is one
connection by callbacks, ``_batch`` datagrams in bulk, ``_frames`` datagrams as the tunnel's frames,
``_ports`` who gets what comes, ``_stack`` joins them; ``_tcp``, ``_tcp_listener``, ``_udp``,
``_udp_socket`` and ``_packet_cache`` lie on top.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from ._flow import Datagram, Flow, FlowHandler, Reject
    from ._frames import BoundDatagrams, DeliveredDatagrams, FramedDatagrams, FrameRules
    from ._packet_cache import PacketCache
    from ._stack import Stack, lwip_version, open_stack
    from ._tcp import TcpStream, connect_tcp, open_tcp_stream
    from ._tcp_listener import TcpListener
    from ._udp import UdpFlow, UdpListener
    from ._udp_socket import UdpSocket, open_udp

__all__ = [
    "BoundDatagrams",
    "Datagram",
    "DeliveredDatagrams",
    "Flow",
    "FlowHandler",
    "FrameRules",
    "FramedDatagrams",
    "PacketCache",
    "Reject",
    "Stack",
    "TcpListener",
    "TcpStream",
    "UdpFlow",
    "UdpListener",
    "UdpSocket",
    "connect_tcp",
    "lwip_version",
    "open_stack",
    "open_tcp_stream",
    "open_udp",
]

if not TYPE_CHECKING:  # type checkers read the imports above
    __getattr__ = lazy_names(
        __name__,
        {
            "_flow": "Datagram Flow FlowHandler Reject",
            "_frames": "BoundDatagrams DeliveredDatagrams FramedDatagrams FrameRules",
            "_packet_cache": "PacketCache",
            "_stack": "Stack lwip_version open_stack",
            "_tcp": "TcpStream connect_tcp open_tcp_stream",
            "_tcp_listener": "TcpListener",
            "_udp": "UdpFlow UdpListener",
            "_udp_socket": "UdpSocket open_udp",
        },
    )
