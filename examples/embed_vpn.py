"""A VPN for this program alone: what it connects to is reached by the worker, nothing is captured.

    .venv/bin/python -m examples.embed_vpn [wss://worker.example TOKEN_FILE [HOST]]

No privilege. Without a worker's URL, one is started here, and asked for a page of this machine.
"""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from zks_lwip import Vpn, VpnConfig, open_vpn, read_token_file

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n"


async def answer(stream: trio.SocketStream) -> None:
    """Serve a page of one line."""
    await stream.receive_some()
    await stream.send_all(ANSWER)


async def fetch(vpn: Vpn, host: str, port: int) -> None:
    """Print the first line of what a web server answers."""
    async with await vpn.open_tcp_stream(host, port) as stream:
        await stream.send_all(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        print((await stream.receive_some()).split(b"\r\n")[0].decode())


async def main(*arguments: str) -> None:
    url, token_file, host = (*arguments, *("",) * 3)[:3]
    token = read_token_file(Path(token_file)) if token_file else None
    async with (
        open_vpn(VpnConfig(worker=url or None, token=token)) as vpn,
        trio.open_nursery() as nursery,
    ):
        print("through", vpn.worker.host, "which is", vpn.state.value)
        if url:
            await fetch(vpn, host or "example.com", 80)
        else:
            (page,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, answer, [page])
            await fetch(vpn, "127.0.0.1", page.socket.getsockname()[1])
        stats = vpn.stats()
        print(f"{stats.bytes_up} bytes up, {stats.bytes_down} bytes down")
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
