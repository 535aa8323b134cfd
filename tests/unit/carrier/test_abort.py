"""What is left of a connection that was given up: nothing."""

from __future__ import annotations

import socket

import trio

from tests.kits.plain_websocket import upgrade_response
from tests.kits.tunnel import listening, quick
from zks_lwip.tunnel.dial import connect_worker


async def test_what_has_not_left_is_discarded() -> None:
    """A kernel would try to deliver it for minutes: what says HELLO must not come that late."""
    aborted = trio.Event()
    came: list[int | None] = []

    async def serve(stream: trio.SocketStream) -> None:
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        request = b""
        while b"\r\n\r\n" not in request:
            request += await stream.receive_some()
        await stream.send_all(upgrade_response(request.decode()))
        await aborted.wait()
        total = 0
        try:
            async for piece in stream:
                total += len(piece)
            came.append(total)
        except trio.BrokenResourceError:
            came.append(None)

    async with listening(serve) as url, trio.open_nursery() as nursery:
        connection = await connect_worker(quick(url), nursery)
        with trio.move_on_after(0.2):
            for _ in range(100):
                await connection.send_message(bytes(1 << 18))
        await connection.abort()
        aborted.set()
        with trio.fail_after(30):
            while not came:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert came == [None], "it was delivered, and ended in order"
