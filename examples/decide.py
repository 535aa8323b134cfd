"""Decide of each connection: through the tunnel, beside it, refused, or served by this program.

    .venv/bin/python -m examples.decide

No privilege: a stack in memory plays the applications. With ``capture=True`` in place of
``device``, as root, the same decides of every connection of the machine.
"""

from __future__ import annotations

import trio
from trio.testing import memory_stream_pair

from zks_lwip import Decision, Direct, FlowRequest, Reject, Tunnel, VpnConfig, open_stack, open_vpn
from zks_lwip.device import memory_device_pair
from zks_lwip.stack import open_tcp_stream


async def echo(stream: trio.abc.HalfCloseableStream, name: bytes) -> None:
    """Send back what comes, with a name before it."""
    async for data in stream:
        await stream.send_all(name + data)
    await stream.send_eof()


async def serve(stream: trio.SocketStream) -> None:
    await echo(stream, b"this machine: ")


async def main() -> None:
    async with trio.open_nursery() as nursery:
        (server,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [server])
        port = server.socket.getsockname()[1]

        def decide(flow: FlowRequest) -> Decision:
            match flow.destination:
                case (_, 25):
                    return Reject.PROHIBITED
                case ("192.0.2.1", _):
                    return Tunnel("127.0.0.1", port)  # another host, for the worker to find
                case ("192.0.2.2", _):
                    near, far = memory_stream_pair()
                    nursery.start_soon(echo, far, b"this program: ")
                    return near
                case _:
                    return Direct

        apps, device = memory_device_pair()
        async with open_vpn(VpnConfig(), device=device, decide=decide) as vpn:
            async with open_stack(apps) as stack:
                # 198.18.0.2 stands for this machine's 127.0.0.1.
                for address, to in [("192.0.2.1", 80), ("192.0.2.2", 80), ("198.18.0.2", port)]:
                    me = ("198.18.0.9", 0)
                    async with await open_tcp_stream(stack, address, to, source=me) as stream:
                        await stream.send_all(b"hello")
                        print(vpn.flows()[-1].via, (await stream.receive_some()).decode())
                        await stream.send_eof()
                        assert await stream.receive_some() == b""  # both directions have ended
                try:
                    await open_tcp_stream(stack, "192.0.2.1", 25)
                except PermissionError as error:
                    print(error.strerror)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
