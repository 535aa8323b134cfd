"""The network outside of a machine that has no namespaces: what lies behind its uplink.

:func:`serve` is for the program of a system (``outside_macos.py``), which makes a TUN the uplink.
What leaves the machine ends in a stack on it. At :data:`WORKER` a worker and a web server answer;
every other address refuses. Each connection and each datagram is a line on standard output,
``tcp 198.51.100.7 80``.
"""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import trio

from zks_lwip import WorkerConfig, open_stack, open_worker
from zks_lwip.device import FdDevice, RingDevice
from zks_lwip.stack import Reject, TcpListener, TcpStream, UdpFlow, UdpListener

WORKER = "203.0.113.9"
"""Address of the worker, and of the page: the only one that the tunnel's own sockets may reach, and
so the only one that the worker, which is on the same machine, can connect to."""
WORKER_PORT = 8787
PAGE_PORT = 8080
PAGE = b"0123456789abcdef" * 8192
ELSEWHERE = "198.51.100.7"
"""An address that nothing may reach but through the tunnel."""


async def serve(
    device: FdDevice | RingDevice,
    name: str,
    bind: Callable[[socket.socket], None],
    token_file: Path,
) -> None:
    """Serve what is outside until cancelled; says "outside" and the interface when it does.

    :param name: of the interface.
    :param bind: has a socket leave by the uplink alone: called with those of the worker, which on
        another machine would need nothing.
    """

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.connect" and arguments[0].family == socket.AF_INET:
            if not arguments[1][0].startswith("127."):
                bind(arguments[0])

    sys.addaudithook(audit)  # a worker has no option for that
    allowed = (ipaddress.ip_network(WORKER),)
    config = WorkerConfig(port=0, token_file=token_file, allow=allowed)
    async with (
        open_stack(device) as stack,
        open_worker(config) as worker,
        trio.open_nursery() as nursery,
    ):
        pages = await nursery.start(trio.serve_tcp, _show_page, 0)
        places = {WORKER_PORT: worker.port, PAGE_PORT: pages[0].socket.getsockname()[1]}
        for port, inside in places.items():
            listener = TcpListener(stack, WORKER, port)
            nursery.start_soon(trio.serve_listeners, partial(_carry, inside), [listener])
        nursery.start_soon(_refuse_connections, TcpListener(stack))
        nursery.start_soon(_tell_of_datagrams, UdpListener(stack))
        print("outside", name, flush=True)


def _tell(protocol: str, destination: tuple[str, int]) -> None:
    print(protocol, *destination, flush=True)


async def _refuse_connections(listener: TcpListener) -> None:
    while True:
        flow = await listener.accept_flow()
        _tell("tcp", flow.destination)
        flow.reject(Reject.RST)


async def _tell_of_datagrams(listener: UdpListener) -> None:
    async with trio.open_nursery() as nursery:
        while True:
            nursery.start_soon(_tell_of_flow, await listener.accept())


async def _tell_of_flow(flow: UdpFlow) -> None:
    with suppress(trio.ClosedResourceError):  # another one has taken its place
        while True:
            _, destination = await flow.receive()
            _tell("udp", destination)


async def _carry(port: int, stream: TcpStream) -> None:
    """Carry a connection to a port of this process, as far as both ends go along."""
    _tell("tcp", stream.destination)
    try:
        async with (
            stream,
            await trio.open_tcp_stream("127.0.0.1", port) as inside,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(_pump, stream, inside)
            nursery.start_soon(_pump, inside, stream)
    except* trio.BrokenResourceError:
        pass  # one end was reset


async def _pump(source: TcpStream | trio.SocketStream, sink: TcpStream | trio.SocketStream) -> None:
    async for data in source:
        await sink.send_all(data)
    await sink.send_eof()


async def _show_page(stream: trio.SocketStream) -> None:
    """Answer a request, whatever it is, by the page."""
    async with stream:
        request = b""
        async for data in stream:
            request += data
            if b"\r\n\r\n" in request:
                break
        head = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len(PAGE)}\r\n\r\n"
        with suppress(trio.BrokenResourceError):  # it was not waited for
            await stream.send_all(head.encode() + PAGE)
