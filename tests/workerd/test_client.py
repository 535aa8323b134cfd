"""The client's tunnel through the Cloudflare Worker: its pool, v1, a cut."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.kits.cutter import cutting
from tests.kits.worker import echo, tcp_server
from tests.kits.workerd import TOKEN, Workerd, running_workerd
from zks_lwip.tunnel import Tunnel, TunnelConfig


@asynccontextmanager
async def running_tunnel(url: str, **options: object) -> AsyncIterator[Tunnel]:
    """A tunnel that is up."""
    tunnel = Tunnel(TunnelConfig(url=url, token=TOKEN, **options))  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        with trio.fail_after(30):
            await nursery.start(tunnel.run)
        yield tunnel
        nursery.cancel_scope.cancel()


async def echoes(tunnel: Tunnel, port: int, payload: bytes) -> None:
    """All that is sent comes back, and then the end."""
    stream = await tunnel.connect_tcp("127.0.0.1", port)
    async with stream, trio.open_nursery() as nursery:

        async def send() -> None:
            await stream.send_all(payload)
            await stream.send_eof()

        nursery.start_soon(send)
        got = bytearray()
        while piece := await stream.receive_some(1 << 16):
            got += piece
        assert bytes(got) == payload


@pytest.mark.parametrize("protocol", ["v2", "v1"])
async def test_fifty_flows(tmp_path: Path, protocol: str) -> None:
    """Against five streams for each session: the pool opens as many sessions as it takes."""
    with running_workerd(tmp_path, STREAMS="5") as cloud:
        async with tcp_server(echo) as port, running_tunnel(cloud.url, protocol=protocol) as tunnel:
            with trio.fail_after(120):
                async with trio.open_nursery() as nursery:
                    for _ in range(50):
                        if protocol == "v2":
                            nursery.start_soon(echoes, tunnel, port, os.urandom(100_000))
                        else:  # without half-close its end may come before all is back
                            nursery.start_soon(one_byte, tunnel, port)


async def one_byte(tunnel: Tunnel, port: int) -> None:
    async with await tunnel.connect_tcp("127.0.0.1", port) as stream:
        await stream.send_all(b"x")
        assert await stream.receive_some(1) == b"x"


async def test_a_cut_is_not_noticed(cloud: Workerd) -> None:
    async with tcp_server(echo) as port, cutting(cloud.address[1]) as path:
        async with running_tunnel(path.url("/tunnel")) as tunnel:
            stream = await tunnel.connect_tcp("127.0.0.1", port)
            async with stream:
                for _ in range(3):
                    payload = os.urandom(1 << 20)
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(stream.send_all, payload)
                        got = bytearray(await stream.receive_some(1 << 16))
                        path.reset()
                        while len(got) < len(payload):
                            got += await stream.receive_some(1 << 16)
                    assert bytes(got) == payload
            assert sum(session["resumes"] for session in tunnel.sessions()) == 3
