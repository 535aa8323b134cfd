"""How a worker that was told to stop ends its sessions, in bounded time."""

from __future__ import annotations

import logging

import trio

from ..carrier.link_writer import LAST_MESSAGE
from ..carrier.websocket import CLOSE_TIMEOUT
from ..protocol import Code
from .connections import GOING_AWAY, Connections
from .sessions import HeldSession, Sessions
from .undelivered import UndeliveredStreams

__all__ = ["end_sessions", "shutdown_stages"]

_log = logging.getLogger(__name__)

_EXIT = 1.0
"""Seconds that are left for a busy machine, and for the end of the interpreter."""
_OVER = 1000
_GOING_AWAY = 1001


def shutdown_stages(drain: float) -> tuple[float, float]:
    """Return how a worker that was told to stop uses ``drain`` seconds; more it does not take.

    First its streams go on. Then every session is closed: it sends the message it is at, and Close,
    and waits for the client's. What is left after that is cut off.
    """
    closing = min(LAST_MESSAGE + CLOSE_TIMEOUT, drain / 2)
    return drain - closing - min(_EXIT, max(0.0, drain - 6) / 4), closing


async def end_sessions(
    sessions: Sessions,
    connections: Connections,
    undelivered: UndeliveredStreams,
    seconds: float,
) -> None:
    """End all sessions within ``seconds``, as :func:`shutdown_stages` says.

    :param undelivered: is waited for as the sessions' own streams are.
    """
    _log.info("going away; %d sessions are open", len(sessions))
    for held in sessions.detached:  # their clients cannot come back any more
        sessions.end(held, GOING_AWAY)
    for held in sessions.attached:
        held.session.goaway(Code.GOING_AWAY, GOING_AWAY)
    going_on, closing = shutdown_stages(seconds)
    with trio.move_on_after(going_on):
        while sessions or undelivered or connections.relayed:
            for held in sessions.attached:
                link = held.link
                if link is not None and not held.client.open_streams and link.delivered:
                    _close(held)
            await trio.sleep(0.05)
    for held in sessions.attached:
        _close(held)
    with trio.move_on_after(closing):
        while sessions or connections.relayed:
            await trio.sleep(0.01)
    connections.drop_all()


def _close(held: HeldSession) -> None:
    """Close the WebSocket of a session, which is over (PROTOCOL.md §6)."""
    if held.link is not None:
        held.link.close(_GOING_AWAY if held.one_stream else _OVER, GOING_AWAY)
