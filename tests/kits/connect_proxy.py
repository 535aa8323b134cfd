"""A small HTTP proxy that does CONNECT: ``python -m tests.kits.connect_proxy ADDRESS PORT``.

:func:`serve` is for a nursery, the program for a network namespace of its own.
"""

from __future__ import annotations

import base64
import sys
from functools import partial

import trio


async def serve(
    stream: trio.abc.Stream,
    *,
    asked: list[str] | None = None,
    names: dict[str, str] | None = None,
    credentials: str | None = None,
) -> None:
    """Serve one client. ``asked`` gets each target, ``names`` are addresses of names."""
    async with stream:
        head = b""
        while b"\r\n\r\n" not in head:
            data = await stream.receive_some(4096)
            if not data:
                return
            head += data
        lines = head.decode().split("\r\n")
        method, target, _ = lines[0].split()
        if asked is not None:
            asked.append(target)
        wanted = f"Basic {base64.b64encode((credentials or '').encode()).decode()}"
        if credentials is not None and f"Proxy-Authorization: {wanted}" not in lines:
            await stream.send_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            return
        host, _, port = target.rpartition(":")
        host = host.strip("[]")
        try:
            upstream = await trio.open_tcp_stream((names or {}).get(host, host), int(port))
        except OSError:
            await stream.send_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
            return
        assert method == "CONNECT"
        async with upstream:
            await stream.send_all(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 test\r\n\r\n")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_copy, stream, upstream, nursery)
                nursery.start_soon(_copy, upstream, stream, nursery)


async def _copy(source: trio.abc.Stream, sink: trio.abc.Stream, nursery: trio.Nursery) -> None:
    try:
        while data := await source.receive_some(65536):
            await sink.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    nursery.cancel_scope.cancel()


async def main(address: str, port: str) -> None:
    async def told(stream: trio.SocketStream) -> None:
        asked: list[str] = []
        try:
            await serve(stream, asked=asked)
        finally:
            print("asked for", *asked, flush=True)

    start = partial(trio.serve_tcp, told, int(port), host=address)
    async with trio.open_nursery() as nursery:
        await nursery.start(start)
        print("proxy listens", flush=True)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
