"""What is told of a VPN at one moment: its state, its traffic, its workers and sessions."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["SessionInfo", "VpnState", "VpnStats", "WorkerInfo"]


class VpnState(enum.StrEnum):
    """The states of a VPN; each is equal to its word, which is that of ``zks-lwip status``."""

    CONNECTING = "connecting"
    """The tunnel has not been up yet."""
    CONNECTED = "connected"
    """The tunnel is up."""
    LOST = "lost"
    """It was, and will be again: what is asked for waits, and is refused after a while."""
    DISCONNECTED = "disconnected"
    """The block of ``open_vpn`` has been left."""


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What is known of a worker."""

    worker: str
    """Its URL."""
    in_use: bool
    """New connections go to it."""
    channels: int
    """WebSockets to it."""
    connect_seconds: float | None
    """That connecting takes; None: not known."""
    problem: str
    """Why it is not well; empty if it is."""


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """What is known of a session with a worker; of protocol v1 there are none."""

    worker: str
    """The worker's URL."""
    seconds: float
    """Its age."""
    resumes: int
    """How often it was resumed."""
    resumable: int
    """Seconds for which it can be; 0: not at all."""
    lost_seconds: float | None
    """For how long it has had no WebSocket; None: it has one."""
    round_trip: float
    """Seconds; 0.0: not known."""
    unacknowledged: int
    """Bytes that the worker has not acknowledged."""
    streams: int
    """Connections that it carries."""


@dataclass(frozen=True, slots=True)
class VpnStats:
    """A VPN at one moment. Bytes and datagrams count since its start; ``up`` is from applications
    (and from this program) to the worker."""

    state: VpnState
    state_seconds: float
    """For how long it has been up or down."""
    problem: str
    """Why it is not connected; empty if it is."""
    worker: str
    """The URL of the worker in use."""
    round_trip: float
    """Seconds to the worker and back, queues included; 0.0: not known."""
    bytes_up: int
    """Of TCP, as ``bytes_down``."""
    bytes_down: int
    datagrams_up: int
    datagrams_down: int
    datagram_bytes_up: int
    datagram_bytes_down: int
    connections: int
    """TCP connections that are open now."""
    connections_opened: int
    connections_refused: int
    """By the far end or the worker."""
    dns_queries: int
    workers: tuple[WorkerInfo, ...]
    sessions: tuple[SessionInfo, ...]
    counters: Mapping[str, Any]
    """Every counter of every part; their names are no part of the interface."""
