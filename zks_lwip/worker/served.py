"""What is told of each session of a worker at one moment."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import trio

from .sessions import HeldSession

__all__ = ["ServedSession", "list_sessions"]


@dataclass(frozen=True, slots=True)
class ServedSession:
    """A session of a client. ``up`` is from the client."""

    name: str
    """Of its token; ``anyone`` where the worker has no tokens."""
    address: str
    """Where its WebSocket came from last."""
    seconds: float
    """Its age."""
    lost_seconds: float | None
    """For how long it has had no WebSocket; None: it has one."""
    streams: int
    """TCP connections that are open now."""
    streams_opened: int
    bytes_up: int
    """Of TCP, as ``bytes_down``."""
    bytes_down: int
    datagrams_up: int
    datagrams_down: int
    round_trip: float
    """Seconds; 0.0: not known."""


def list_sessions(sessions: Iterable[HeldSession]) -> list[ServedSession]:
    """Return what is told of each session."""
    now = trio.current_time()
    told = []
    for held in sessions:
        stats = held.session.stats
        told.append(
            ServedSession(
                name=held.principal.name,
                address=held.peer,
                seconds=now - held.began,
                lost_seconds=None if held.link is not None else max(0.0, now - held.detached_at),
                streams=held.client.open_streams,
                streams_opened=stats.streams_opened,
                bytes_up=stats.data_in,
                bytes_down=stats.data_out,
                datagrams_up=stats.datagrams_in,
                datagrams_down=stats.datagrams_out,
                round_trip=held.session.round_trip,
            )
        )
    return told
