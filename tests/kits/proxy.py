"""The proxy in a test's process, and its clients, by hand."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from zks_lwip.net.readiness import Readiness
from zks_lwip.proxy import ProxyConfig, ProxyServer, ProxyTunnel

LINGER_ZERO = struct.pack("ii", 1, 0)

_clients: list[trio.SocketStream] = []  # closed with the proxy, if a test has not


@asynccontextmanager
async def proxying(
    tunnel: ProxyTunnel, *, readiness: Readiness | None = None, **config: Any
) -> AsyncIterator[ProxyServer]:
    """A proxy on loopback, on any free port; nothing is open when it ends, clients included."""
    server = ProxyServer(ProxyConfig(**({"port": 0} | config)), readiness=readiness)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run, tunnel)
            yield server
            nursery.cancel_scope.cancel()
    finally:
        server.close()
        while _clients:
            _clients.pop().socket.close()
    gauges = server.stats()
    assert (gauges["handshakes"], gauges["flows"], gauges["associations"]) == (0, 0, 0)


async def connected(server: ProxyServer, **options: int) -> trio.SocketStream:
    """A TCP connection to the proxy; ``options`` are of SOL_SOCKET."""
    sock = trio.socket.socket(socket.AF_INET6 if ":" in server.address[0] else socket.AF_INET)
    for name, value in options.items():
        sock.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
    await sock.connect(server.address)
    _clients.append(trio.SocketStream(sock))
    return _clients[-1]


def address(host: str, port: int) -> bytes:
    """Type, address and port as RFC 1928 §5 has them; a name where it is no address."""
    try:
        raw = ipaddress.ip_address(host).packed
    except ValueError:
        name = host.encode()
        return bytes((3, len(name))) + name + struct.pack("!H", port)
    return bytes((1 if len(raw) == 4 else 4,)) + raw + struct.pack("!H", port)


def request(command: int, host: str, port: int) -> bytes:
    """A request of SOCKS5."""
    return bytes((5, command, 0)) + address(host, port)


async def exactly(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    """So many bytes."""
    data = b""
    while len(data) < size:
        piece = await stream.receive_some(size - len(data))
        assert piece, f"the end, after {data!r}"
        data += piece
    return data


async def everything(stream: trio.abc.ReceiveStream) -> bytes:
    """All bytes until the end."""
    return b"".join([bytes(piece) async for piece in stream])


async def reply(stream: trio.abc.ReceiveStream) -> tuple[int, str, int]:
    """The answer to a request: code, host, port."""
    head = await exactly(stream, 4)
    assert head[0] == 5 and head[2] == 0, head
    raw = await exactly(stream, {1: 4, 4: 16}[head[3]])
    (port,) = struct.unpack("!H", await exactly(stream, 2))
    return head[1], str(ipaddress.ip_address(raw)), port


async def asked(
    server: ProxyServer, command: int, host: str, port: int, **options: int
) -> tuple[trio.SocketStream, tuple[int, str, int]]:
    """A connection to the proxy with a request on it, and the answer."""
    stream = await connected(server, **options)
    return stream, await ask(stream, command, host, port)


async def ask(stream: trio.abc.Stream, command: int, host: str, port: int) -> tuple[int, str, int]:
    """The answer to a request on a new connection to a proxy without passwords."""
    await stream.send_all(b"\x05\x01\x00")
    assert await exactly(stream, 2) == b"\x05\x00"
    await stream.send_all(request(command, host, port))
    return await reply(stream)


async def through(server: ProxyServer, host: str, port: int, **options: int) -> trio.SocketStream:
    """A connection through the proxy."""
    stream, (code, _, _) = await asked(server, 1, host, port, **options)
    assert code == 0
    return stream


def reset(stream: trio.SocketStream) -> None:
    """Close with RST."""
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
    stream.socket.close()
