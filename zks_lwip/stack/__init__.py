"""The trio face of the C core: TCP connections and UDP datagrams of a device.

:class:`Stack` runs lwIP on a device. :class:`TcpListener` and :class:`UdpListener` give its
connections as trio streams and its datagrams as flows; :class:`Flow` is what lies below, for those
who must not spend a task on a connection.
"""

from zks_lwip.stack._flow import Datagram, Flow, FlowHandler, Reject
from zks_lwip.stack._hot import HotAnswers
from zks_lwip.stack._stack import Stack, lwip_version, open_stack
from zks_lwip.stack._tcp import TcpListener, TcpStream, connect_tcp
from zks_lwip.stack._udp import UdpFlow, UdpListener

__all__ = [
    "Datagram",
    "Flow",
    "FlowHandler",
    "HotAnswers",
    "Reject",
    "Stack",
    "TcpListener",
    "TcpStream",
    "UdpFlow",
    "UdpListener",
    "connect_tcp",
    "lwip_version",
    "open_stack",
]
