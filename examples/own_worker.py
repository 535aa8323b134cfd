"""A worker inside a trio program, and a client of its.

    .venv/bin/python -m examples.own_worker

No privilege. The worker listens on loopback and lets its clients reach loopback, for this example;
a worker for others has a token file and TLS, and leaves ``allow`` away.
"""

from __future__ import annotations

import ipaddress

import trio

from zks_lwip import VpnConfig, WorkerConfig, open_vpn, open_worker


async def greet(stream: trio.SocketStream) -> None:
    """Send a line."""
    await stream.send_all(b"hello from the far end\n")


async def main() -> None:
    loopback = ipaddress.ip_network("127.0.0.1/32")
    async with open_worker(WorkerConfig(port=0, allow=(loopback,), drain=1)) as worker:
        async with trio.open_nursery() as nursery:
            (server,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, greet, [server])
            async with open_vpn(VpnConfig(worker=worker.url)) as vpn:
                port = server.socket.getsockname()[1]
                async with await vpn.open_tcp_stream("127.0.0.1", port) as stream:
                    print((await stream.receive_some()).decode().strip())
                    for session in worker.sessions():
                        print(f"{session.name} at {session.address}: {session.streams} stream")
            nursery.cancel_scope.cancel()
        stats = worker.stats()
        print(f"{stats.streams_opened} stream, {stats.bytes_down} bytes to the client")


if __name__ == "__main__":
    trio.run(main)
