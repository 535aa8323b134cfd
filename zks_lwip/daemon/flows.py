"""What the commands ``flows`` and ``close_flow`` of the control socket say and take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from ..errors import ConfigError
from ..gateway import FlowInfo

__all__ = ["MAX_FLOWS", "Flows", "OpenFlow", "read_flow"]

MAX_FLOWS = 4096
"""That are told of; the newest."""


class OpenFlow(TypedDict):
    """A TCP connection or UDP association, see :class:`~zks_lwip.gateway.FlowInfo`."""

    protocol: str  #: tcp, udp
    source: tuple[str, int] | None  #: the application's address and port
    destination: tuple[str, int] | None
    name: str  #: that the destination was resolved from; empty: not known
    via: str  #: tunnel, direct, stream, dns
    state: str  #: connecting, open
    seconds: float  #: its age
    bytes_up: int
    bytes_down: int


class Flows(TypedDict):
    """The answer of ``flows``."""

    flows: list[OpenFlow]
    left_out: int  #: how many more there are
    slowest_names: list[tuple[str, float]]  #: of the last minute, and seconds


def read_flow(request: Mapping[str, Any]) -> FlowInfo:
    """Read which flow ``close_flow`` means: ``protocol``, ``source``, ``destination``.

    :raises ConfigError: that is none.
    """
    protocol = request.get("protocol")
    ends = [request.get("source"), request.get("destination")]
    for number, end in enumerate(ends):
        if end is None and number:
            continue
        if not (
            isinstance(end, list)
            and len(end) == 2
            and isinstance(end[0], str)
            and type(end[1]) is int
        ):
            raise ConfigError("`source` and `destination` are an address and a port each")
        ends[number] = (end[0], end[1])
    if protocol not in ("tcp", "udp"):
        raise ConfigError("`protocol` is tcp or udp")
    return FlowInfo(protocol, ends[0], ends[1], "tunnel", "open", 0.0, 0, 0)
