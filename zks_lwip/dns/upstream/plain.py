"""Plain DNS over UDP, then TCP: only for ``--dns-forward``, where the user asks for it by address.

What makes an answer trusted is in :mod:`~zks_lwip.net.plain_dns`. Sockets are bounded in number: a
server that does not answer costs no more of them than one that does.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence

import trio

from ...net.descriptors import is_scarcity, warn_of_scarcity
from ...net.plain_dns import ask_stream, receive_answer, with_random_id
from ...net.sockets import family_of, open_socket
from ..message.wire import TC, Ede
from .dial import Connect
from .resolver import Gate, OnResult, ResolverError, unauthenticated

__all__ = ["MAX_SOCKETS", "MAX_STREAMS", "MAX_WAITING", "PlainResolver"]

RETRY = (1.0, 1.5, 2.5)
"""Seconds to wait for an answer before the datagram is sent again; the last one, before giving
up.
"""
MAX_SOCKETS = 128
"""UDP sockets of one server at a time: twice what dnsmasq opens, and far below the 1024 descriptors
that a process may have by default.
"""
MAX_STREAMS = 16
"""TCP connections to one server at a time, for truncated answers; they are few."""
MAX_WAITING = 1024
"""Queries that wait for a socket of one server; more fail at once."""


class PlainResolver:
    """One server.

    :param connect: makes TCP connections, for truncated answers.
    :param mark: SO_MARK of the UDP sockets; None: none.
    :param retry: seconds, see :data:`RETRY`.
    """

    size = 1232
    padding = 0
    gate: Gate | None = None
    capacity = MAX_SOCKETS

    def __init__(
        self,
        address: str,
        port: int,
        connect: Connect,
        *,
        mark: int | None = None,
        retry: Sequence[float] = RETRY,
    ) -> None:
        self.name = f"{address}#{port}"
        self._target = (address, port)
        self._connect = connect
        self._mark = mark
        self._retry = retry
        self._sockets = trio.CapacityLimiter(MAX_SOCKETS)
        self._streams = trio.CapacityLimiter(MAX_STREAMS)
        self._queries = 0

    async def run(self) -> None:
        """Nothing is to be done in the background."""

    def start_query(self, query: bytes, on_result: OnResult) -> None:
        """Nothing can be asked without a task."""

    async def resolve(self, query: bytes) -> bytes:
        """Ask over UDP, and over TCP if the answer is truncated."""
        if self._queries >= MAX_SOCKETS + MAX_WAITING:
            text = f"{self.name}: {self._queries} queries wait for it already"
            raise ResolverError(text, Ede.NO_REACHABLE_AUTHORITY)
        self._queries += 1
        try:
            return await self._resolve(with_random_id(query))
        except (OSError, trio.BrokenResourceError) as error:
            if is_scarcity(error):
                warn_of_scarcity(f"the DNS server {self.name} cannot be asked", error)
            text = getattr(error, "strerror", None) or str(error)
            raise ResolverError(f"{self.name}: {text}") from error
        finally:
            self._queries -= 1

    async def _resolve(self, query: bytes) -> bytes:
        async with self._sockets:
            answer = await self._over_udp(query)
        if answer[2] << 8 & TC:
            async with self._streams:
                answer = await self._over_tcp(query)
        return unauthenticated(answer)

    async def _over_udp(self, query: bytes) -> bytes:
        with open_socket(family_of(self._target[0]), socket.SOCK_DGRAM, self._mark) as sock:
            sock.connect(self._target)
            for wait in self._retry:
                with contextlib.suppress(BlockingIOError):  # lost, as any datagram may be
                    sock.send(query)
                with trio.move_on_after(wait):
                    return await receive_answer(sock, query)
        raise ResolverError(f"{self.name}: no answer", Ede.NO_REACHABLE_AUTHORITY)

    async def _over_tcp(self, query: bytes) -> bytes:
        async with await self._connect(*self._target) as stream:
            return await ask_stream(stream, query)
