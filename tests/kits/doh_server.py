"""A DNS-over-HTTPS server (RFC 8484) on loopback, by plain HTTP, as a worker asks its resolver."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import dns.message
import trio

from tests.kits.worker import Answerer, tcp_server


class DohServer:
    """Answers as ``respond`` says (None: never), and counts."""

    def __init__(self, respond: Answerer) -> None:
        self.respond = respond
        self.queries: list[bytes] = []
        self.status = "200 OK"
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/dns-query"

    async def answer_to(self, query: dns.message.Message) -> bytes:
        """Return the answer, when it is time for it."""
        answer = self.respond(query, True)
        if answer is None:
            await trio.sleep_forever()
        assert isinstance(answer, bytes)
        return answer

    async def serve(self, stream: trio.SocketStream) -> None:
        buffer = b""
        async for piece in stream:
            buffer += piece
            while b"\r\n\r\n" in buffer:
                head, _, body = buffer.partition(b"\r\n\r\n")
                lines = head.decode().split("\r\n")
                fields = {name.lower(): value for name, value in (x.split(": ") for x in lines[1:])}
                size = int(fields["content-length"])
                if len(body) < size:
                    break
                assert lines[0] == "POST /dns-query HTTP/1.1"
                assert fields["content-type"] == fields["accept"] == "application/dns-message"
                query, buffer = body[:size], body[size:]
                self.queries.append(query)
                answer = await self.answer_to(dns.message.from_wire(query))
                await stream.send_all(
                    f"HTTP/1.1 {self.status}\r\nContent-Type: application/dns-message\r\n"
                    f"Content-Length: {len(answer)}\r\n\r\n".encode()
                    + answer
                )


@asynccontextmanager
async def doh_server(respond: Answerer, port: int = 0) -> AsyncIterator[DohServer]:
    """A running server."""
    server = DohServer(respond)
    async with tcp_server(server.serve, port=port) as server.port:
        yield server
