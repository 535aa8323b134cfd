"""The client's pool of channels against the Cloudflare Worker, whose objects carry few streams."""

from __future__ import annotations

from pathlib import Path

import trio

from tests.kits.tunnel import eventually, tunnelling
from tests.kits.worker import echo, tcp_server
from tests.kits.workerd import TOKEN, running_workerd


async def test_200_connections_at_once_over_objects_of_five(tmp_path: Path) -> None:
    opened = trio.Event()
    number_open = 0
    with running_workerd(tmp_path, STREAMS="5") as cloud:
        async with tunnelling(cloud.url, token=TOKEN, idle_channel=0.5) as tunnel:

            async def one(number: int, port: int) -> None:
                nonlocal number_open
                stream = await tunnel.connect_tcp("127.0.0.1", port)
                async with stream:
                    await stream.send_all(b"%d" % number)
                    assert await stream.receive_some() == b"%d" % number
                    number_open += 1
                    await opened.wait()
                    await stream.send_eof()
                    assert await stream.receive_some() == b""

            async with tcp_server(echo) as port:
                with trio.fail_after(60):
                    async with trio.open_nursery() as nursery:
                        for number in range(200):
                            nursery.start_soon(one, number, port)
                        await eventually(lambda: number_open == 200)
                        assert tunnel.stats()["channels"] == 40
                        opened.set()
            assert tunnel.stats()["streams_moved"] == 0
            await eventually(lambda: tunnel.stats()["channels"] == 1)
            assert tunnel.stats()["channels_lost"] == 0
