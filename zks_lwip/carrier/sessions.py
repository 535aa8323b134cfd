"""The session for a WebSocket that has been opened, of the version that its handshake selected.

The owner gets a :class:`~.link.SessionLink` with its session of
:mod:`~zks_lwip.protocol.interface`.
"""

from __future__ import annotations

from ..protocol import Budget, ClientSession, Role, Session, Settings, WorkerSession
from ..protocol.v1 import ClientV1, WorkerV1
from .run_time import run_time
from .versions import V1, V2, Version
from .websocket import WsConnection

__all__ = ["client_session", "selected", "worker_session"]


def selected(connection: WsConnection) -> Version:
    """Return the version that a handshake has selected."""
    return V1 if connection.subprotocol is None else V2


def client_session(
    version: Version,
    settings: Settings,
    budget: Budget | None = None,
    kept_budget: Budget | None = None,
) -> ClientSession:
    """Return a client's session, which one :class:`SessionLink` after another attaches to its
    WebSocket.

    :param budget: bounds how far the windows of all sessions that share it grow.
    :param kept_budget: bounds what all that share it keep until it is acknowledged; v1 keeps
        nothing.
    """
    if version is V2:
        return Session(
            Role.CLIENT,
            settings,
            clock=run_time(),
            budget=budget,
            kept_budget=kept_budget,
        )
    return ClientV1(settings, clock=run_time(), budget=budget)


def worker_session(
    version: Version,
    settings: Settings,
    budget: Budget | None = None,
    kept_budget: Budget | None = None,
) -> WorkerSession:
    """Return a worker's session, which a :class:`SessionLink` attaches to its WebSocket.

    :param budget: bounds how far the windows of all sessions that share it grow; v1 has none, and
        holds :data:`~zks_lwip.protocol.v1.MAX_HELD` for a stream at most.
    :param kept_budget: bounds what all that share it keep until it is acknowledged; v1 keeps
        nothing.
    """
    if version is V2:
        return Session(
            Role.WORKER,
            settings,
            clock=run_time(),
            budget=budget,
            kept_budget=kept_budget,
        )
    return WorkerV1(settings, clock=run_time())
