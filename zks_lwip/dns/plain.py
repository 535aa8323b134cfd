"""Plain DNS over UDP, then TCP: only for ``--dns-forward``, where the user asks for it by address.

Each query has a connected socket of its own, so that only the server's datagrams reach it, with a
port and an id drawn from the system's random numbers (RFC 5452). Sockets are bounded in number: a
server that does not answer costs no more of them than one that does.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Sequence

import trio

from zks_lwip._descriptors import is_scarcity, warn_of_scarcity
from zks_lwip.dns.dial import Connect
from zks_lwip.dns.framing import Deframer, frame
from zks_lwip.dns.resolver import Gate, ResolverError, unauthenticated
from zks_lwip.dns.wire import TC, Ede, name_end

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
    """One server at `address` and `port`; `connect` is for TCP, `mark` is SO_MARK for UDP.

    `retry` are seconds, see :data:`RETRY`.
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

    async def resolve(self, query: bytes) -> bytes:
        """Ask over UDP, and over TCP if the answer is truncated."""
        if self._queries >= MAX_SOCKETS + MAX_WAITING:
            text = f"{self.name}: {self._queries} queries wait for it already"
            raise ResolverError(text, Ede.NO_REACHABLE_AUTHORITY)
        self._queries += 1
        try:
            return await self._resolve(secrets.token_bytes(2) + query[2:])
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
        family = socket.AF_INET6 if ":" in self._target[0] else socket.AF_INET
        with trio.socket.socket(family, socket.SOCK_DGRAM) as connection:
            if self._mark is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self._mark)
            await connection.connect(self._target)
            for wait in self._retry:
                await connection.send(query)
                with trio.move_on_after(wait):
                    while True:
                        answer = await connection.recv(65535)
                        if _answers(answer, query):
                            return answer
        raise ResolverError(f"{self.name}: no answer", Ede.NO_REACHABLE_AUTHORITY)

    async def _over_tcp(self, query: bytes) -> bytes:
        stream = await self._connect(*self._target)
        async with stream:
            await stream.send_all(frame(query))
            deframer = Deframer()
            while data := await stream.receive_some(65536):
                for answer in deframer.feed(data):
                    if _answers(answer, query):
                        return answer
        raise ResolverError(f"{self.name}: the server has closed the connection")


def _answers(answer: bytes, query: bytes) -> bool:
    """Whether it is a response with the id and the question of `query` (RFC 5452 §9.1).

    A refusal without a question passes. The rest is checked by the service.
    """
    if len(answer) < 12 or answer[:2] != query[:2] or not answer[2] & 0x80:
        return False
    end = name_end(query, 12) + 4
    return answer[4:6] == b"\0\0" or answer[12:end].lower() == query[12:end].lower()
