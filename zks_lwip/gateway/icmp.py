"""ICMP echo: carried to the worker, answered here, or dropped (``--icmp``)."""

from __future__ import annotations

import logging
from typing import Protocol

import trio

from ..errors import TunnelError
from ..net.fairness import Shares
from .counters import GatewayCounters
from .policy import FlowPolicy, Service

__all__ = ["MAX_ECHOES", "EchoResponder", "EchoStack", "EchoTunnel"]

_log = logging.getLogger(__name__)

MAX_ECHOES = 1024
"""Echo requests that wait for a reply, some kilobytes each. Over it the oldest to the host that has
most of them is given up: that is likely to be dead, and only silence would end it.
"""
ECHO_SECONDS = 10.0
"""Seconds after which a reply is not waited for."""


class EchoStack(Protocol):
    """What is needed of the stack."""

    def send_echo_reply(
        self, source: str, destination: str, ident: int, seq: int, payload: bytes
    ) -> bool: ...


class EchoTunnel(Protocol):
    """What is needed of the tunnel."""

    async def echo(self, host: str, payload: bytes) -> bytes: ...


class EchoResponder:
    """Answers the echo requests of the applications."""

    def __init__(
        self,
        stack: EchoStack,
        tunnel: EchoTunnel,
        policy: FlowPolicy,
        counters: GatewayCounters,
        nursery: trio.Nursery,
    ) -> None:
        self._stack = stack
        self._tunnel = tunnel
        self._policy = policy
        self._counters = counters
        self._nursery = nursery
        self._waiting: Shares[trio.CancelScope] = Shares()

    @property
    def in_flight(self) -> int:
        """How many wait for a reply."""
        return len(self._waiting)

    def on_echo(self, source: str, destination: str, ident: int, seq: int, payload: bytes) -> None:
        """Answer one echo request of an application, now or later, or drop it."""
        self._counters.echoes += 1
        service = self._policy.decide_echo(destination)
        if service is Service.GATEWAY:
            self._stack.send_echo_reply(destination, source, ident, seq, payload)
        elif service is not Service.TUNNEL:
            self._counters.echoes_dropped += 1
        else:
            if len(self._waiting) >= MAX_ECHOES:
                given_up = self._waiting.oldest_of_most()
                self._waiting.remove(given_up)
                given_up.cancel()
            waits = trio.CancelScope(deadline=trio.current_time() + ECHO_SECONDS)
            self._waiting.add(destination, waits)
            self._nursery.start_soon(
                self._carry, source, destination, ident, seq, bytes(payload), waits
            )

    async def _carry(
        self,
        source: str,
        destination: str,
        ident: int,
        seq: int,
        payload: bytes,
        waits: trio.CancelScope,
    ) -> None:
        reply: bytes | None = None
        try:
            with waits:
                reply = await self._tunnel.echo(self._policy.to_worker(destination), payload)
        except TunnelError as error:
            _log.debug("echo to %s: %s", destination, error)
        finally:
            if waits in self._waiting:
                self._waiting.remove(waits)
        if reply is None:
            self._counters.echoes_dropped += 1
        else:
            self._stack.send_echo_reply(destination, source, ident, seq, reply)
