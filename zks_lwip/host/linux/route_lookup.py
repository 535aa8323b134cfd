"""Look up the next hop that the kernel would use."""

from __future__ import annotations

import socket

from ...net.descriptors import is_scarcity, warn_of_scarcity
from ..reports import NextHop
from .rtnetlink import NetlinkError, open_rtnetlink

__all__ = ["next_hop"]


def next_hop(address: str, mark: int | None) -> NextHop | None:
    """Return the next hop that the kernel would use in the network namespace of this thread.

    Blocks.

    :param address: the destination.
    :param mark: SO_MARK of the socket, None for a socket without one.
    :returns: None if there is no route, or if it cannot be looked up now.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    request = {"dst": address, "family": family} | ({} if mark is None else {"mark": mark})
    try:
        with open_rtnetlink() as ip:
            (message, *_) = ip.request("route", "get", **request)
    except NetlinkError:
        return None
    except OSError as error:
        if not is_scarcity(error):
            raise
        warn_of_scarcity(f"the way to {address} cannot be looked up", error)
        return None
    link = message.get_attr("RTA_OIF") or 0
    gateway = message.get_attr("RTA_GATEWAY") or ""
    return NextHop(link, str(gateway), str(message.get_attr("RTA_PREFSRC") or ""))
