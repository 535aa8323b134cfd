"""Which way the kernel would send a packet now."""

from __future__ import annotations

import socket
from typing import NamedTuple

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from zks_lwip._descriptors import is_scarcity, warn_of_scarcity

__all__ = ["Way", "way_to"]


class Way(NamedTuple):
    """The first step of a way."""

    link: int
    """The interface's index."""
    gateway: str
    """Empty: the destination is on the link."""
    source: str
    """The address that a socket would have."""


def way_to(address: str, mark: int | None) -> Way | None:
    """The way to an address for a socket with this mark, in this thread's namespace; blocks.

    None: there is none, or it cannot be looked up now.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    request = {"dst": address, "family": family} | ({} if mark is None else {"mark": mark})
    try:
        with IPRoute() as ip:
            (message, *_) = ip.route("get", **request)
    except NetlinkError:
        return None
    except OSError as error:
        if not is_scarcity(error):
            raise
        warn_of_scarcity(f"the way to {address} cannot be looked up", error)
        return None
    link = message.get_attr("RTA_OIF") or 0
    gateway = message.get_attr("RTA_GATEWAY") or ""
    return Way(link, str(gateway), str(message.get_attr("RTA_PREFSRC") or ""))
