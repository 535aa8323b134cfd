"""Flows met with services: the TCP bridge, UDP associations, port 53 and ICMP echo.

:class:`Gateway` is told by the stack of each flow, datagram and echo request; :class:`FlowPolicy`
says where it is served, or how it is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from .decide import Decide, Decision, Direct, FlowRequest, Tunnel
    from .dns import QueryHandler
    from .flows import FlowInfo
    from .gateway import Gateway
    from .options import GatewayOptions
    from .policy import FlowPolicy, Service

__all__ = [
    "Decide",
    "Decision",
    "Direct",
    "FlowInfo",
    "FlowPolicy",
    "FlowRequest",
    "Gateway",
    "GatewayOptions",
    "QueryHandler",
    "Service",
    "Tunnel",
]

if not TYPE_CHECKING:  # type checkers read the imports above
    __getattr__ = lazy_names(
        __name__,
        {
            "decide": "Decide Decision Direct FlowRequest Tunnel",
            "dns": "QueryHandler",
            "flows": "FlowInfo",
            "gateway": "Gateway",
            "options": "GatewayOptions",
            "policy": "FlowPolicy Service",
        },
    )
