"""Whose address a request came from, where a front end stands before the worker.

What a front end has written into ``X-Forwarded-For`` is believed of those alone that are named: any
client can write it, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Literal

from ..carrier.http import HttpRequest, listed
from ..errors import ConfigError
from ..net.names import explain_network, split_host_port
from .policy import IPNetwork

__all__ = ["MAX_IN_LINE", "FrontEnds", "TrustedProxy", "parse_trusted_proxy"]

MAX_IN_LINE = 16
"""Front ends, one behind the other, that are looked through: what a client writes could name
thousands, each of which costs a comparison before its token is looked at."""

TrustedProxy = IPNetwork | Literal["unix"]
"""Where front ends connect from; ``unix``: by a unix socket."""


def parse_trusted_proxy(text: str) -> TrustedProxy:
    """Read an address, a network such as ``10.0.0.0/8``, or ``unix``.

    :raises ConfigError: it is none of them.
    """
    if text == "unix":
        return "unix"
    try:
        return ip_network(text)
    except ValueError as error:
        raise ConfigError(f"{text}: {explain_network(text, error)}", "trusted_proxies") from None


class FrontEnds:
    """Those whose word is taken for where a request came from."""

    def __init__(self, trusted: Iterable[TrustedProxy]) -> None:
        self._trusted = tuple(trusted)

    def client_of(self, request: HttpRequest) -> str:
        """Return the address of the client; ``unix``: that is not known, it came by a unix socket;
        ``unknown``: its connection was reset.

        Each front end has added, on the right, the address that it was connected from. The first
        that is not a front end's is the client's; what stands to the left of it, the client wrote.
        Where there are more than :data:`MAX_IN_LINE` of them, the last of these is the client.
        """
        client = "unknown" if request.peer is None else request.peer[0]
        if not self._trusts(client):
            return client
        for said in listed(request.headers, b"x-forwarded-for")[: -MAX_IN_LINE - 1 : -1]:
            address = _read(said)
            if address is None:
                break
            client = str(address)
            if not self._trusts(client):
                break
        return client

    def _trusts(self, client: str) -> bool:
        if client in ("unix", "unknown"):
            return client in self._trusted
        address = ip_address(client)
        return any(each != "unix" and address in each for each in self._trusted)


def _read(text: str) -> IPv4Address | IPv6Address | None:
    """Read an address, which some write with a port; None: it is none (``unknown``, say)."""
    try:
        address = ip_address(split_host_port(text)[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:  # it may be any text
            return None
        return address.ipv4_mapped or address
    return address
