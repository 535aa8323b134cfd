"""lwIP inside a trio program: a server that answers on every address and port, and its client.

    .venv/bin/python -m examples.embed_stack

No privilege, no network device: the two stacks are joined by a pair of devices in memory. Put a
TUN in the place of one (``zks_lwip.device.open_tun``), and this serves a whole network.
"""

from __future__ import annotations

import trio

from zks_lwip import open_stack
from zks_lwip.device import memory_device_pair
from zks_lwip.stack import TcpListener, TcpStream, open_tcp_stream


async def shout(stream: TcpStream) -> None:
    """Send back in capitals what comes, and end when the client does."""
    async with stream:
        host, port = stream.destination
        async for data in stream:
            await stream.send_all(f"{host} port {port} says {data.decode().upper()}".encode())


async def main() -> None:
    ours, theirs = memory_device_pair(mtu=1500)
    async with open_stack(ours) as server, open_stack(theirs) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, shout, [TcpListener(server)])
            # Any address and any port: nobody has configured these.
            for address, port in [("192.0.2.1", 80), ("2001:db8::7", 65000)]:
                async with await open_tcp_stream(client, address, port) as stream:
                    await stream.send_all(b"hello")
                    await stream.send_eof()
                    async for data in stream:
                        print(data.decode())
            nursery.cancel_scope.cancel()
        print("packets through lwIP:", server.stats()["packets_in"])


if __name__ == "__main__":
    trio.run(main)
