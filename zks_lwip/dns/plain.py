"""Plain DNS over UDP, then TCP: only for ``--dns-forward``, where the user asks for it by address.

The socket is connected, so that only the server's datagrams reach it, and every query has a port
and an id of its own, drawn from the system's random numbers (RFC 5452).
"""

from __future__ import annotations

import secrets
import socket

import trio

from zks_lwip.dns.dial import Connect
from zks_lwip.dns.framing import Deframer, frame
from zks_lwip.dns.resolver import Gate, ResolverError
from zks_lwip.dns.wire import TC

__all__ = ["PlainResolver"]

RETRY = (1.0, 1.5, 2.5)
"""Seconds to wait for an answer before the datagram is sent again; the last one, before giving
up.
"""


class PlainResolver:
    """One server at `address` and `port`; `connect` is for TCP, `mark` is SO_MARK for UDP."""

    size = 1232
    padding = 0
    gate: Gate | None = None

    def __init__(
        self, address: str, port: int, connect: Connect, *, mark: int | None = None
    ) -> None:
        self.name = f"{address}#{port}"
        self._target = (address, port)
        self._connect = connect
        self._mark = mark

    async def run(self) -> None:
        """Nothing is to be done in the background."""

    async def resolve(self, query: bytes) -> bytes:
        """Ask over UDP, and over TCP if the answer is truncated."""
        ident = secrets.token_bytes(2)
        try:
            answer = await self._over_udp(ident + query[2:])
            if answer[2] << 8 & TC:
                answer = await self._over_tcp(ident + query[2:])
        except (OSError, trio.BrokenResourceError) as error:
            text = getattr(error, "strerror", None) or str(error)
            raise ResolverError(f"{self.name}: {text}") from error
        return b"\0\0" + answer[2:]

    async def _over_udp(self, query: bytes) -> bytes:
        family = socket.AF_INET6 if ":" in self._target[0] else socket.AF_INET
        with trio.socket.socket(family, socket.SOCK_DGRAM) as connection:
            if self._mark is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self._mark)
            await connection.connect(self._target)
            for wait in RETRY:
                await connection.send(query)
                with trio.move_on_after(wait):
                    while True:
                        answer = await connection.recv(65535)
                        if _answers(answer, query):
                            return answer
        raise ResolverError(f"{self.name}: no answer")

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
    """Whether it has the id and is a response; whether the question fits is checked by the
    service.
    """
    return len(answer) >= 12 and answer[:2] == query[:2] and bool(answer[2] & 0x80)
