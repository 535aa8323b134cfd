"""The path that tests cut: it has to fail in just the way that it says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from ..kits.cutter import Cutter, Fate, How, cutting
from ..kits.worker import echo, tcp_server


@asynccontextmanager
async def path_to_echo() -> AsyncIterator[Cutter]:
    async with tcp_server(echo) as port, cutting(port) as path:
        yield path


async def connect(path: Cutter) -> trio.SocketStream:
    with trio.fail_after(60):
        return await trio.open_tcp_stream("127.0.0.1", path.port)


async def says(stream: trio.SocketStream, text: bytes) -> bytes:
    with trio.fail_after(60):
        await stream.send_all(text)
        answer = b""
        while len(answer) < len(text):
            more = await stream.receive_some()
            if not more:
                break
            answer += more
        return answer


async def silent(stream: trio.SocketStream, text: bytes = b"x") -> bool:
    await stream.send_all(text)
    with trio.move_on_after(0.1) as scope:
        await stream.receive_some()
    return scope.cancelled_caught


async def test_it_passes_bytes_and_ends() -> None:
    async with path_to_echo() as path, await connect(path) as stream:
        assert await says(stream, b"hello" * 50000) == b"hello" * 50000
        await stream.send_eof()
        assert await stream.receive_some() == b""
        assert path.connections[0].up == path.connections[0].down == 250000
        await path.connections[0].over.wait()
        assert path.alive == []


async def test_a_reset_leaves_new_connections_alone() -> None:
    async with path_to_echo() as path, await connect(path) as stream:
        assert await says(stream, b"x") == b"x"
        path.reset()
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        async with await connect(path) as stream:
            assert await says(stream, b"x") == b"x"


async def test_in_a_blackhole_nothing_passes_and_all_goes_on_after_it() -> None:
    async with path_to_echo() as path, await connect(path) as stream:
        assert await says(stream, b"x") == b"x"
        path.blackhole()
        assert await silent(stream, b"held")
        for _ in range(3):
            with trio.move_on_after(0.05) as scope:
                await (await trio.open_tcp_stream("127.0.0.1", path.port)).aclose()
            assert scope.cancelled_caught
        path.restore()
        with trio.fail_after(60):
            assert await stream.receive_some() == b"held"
        for _ in range(5):
            async with await connect(path) as fresh:
                assert await says(fresh, b"y") == b"y"
        path.blackhole()
        path.restore()
        async with await connect(path) as fresh:
            assert await says(fresh, b"y") == b"y"


async def test_what_is_lost_stays_silent() -> None:
    async with path_to_echo() as path, await connect(path) as stream:
        assert await says(stream, b"x") == b"x"
        path.lose()
        async with await connect(path) as fresh:
            assert await says(fresh, b"y") == b"y"
        path.restore()
        assert await silent(stream)


async def test_who_refuses_takes_connections_again() -> None:
    async with path_to_echo() as path, await connect(path) as stream:
        assert await says(stream, b"x") == b"x"
        path.refuse()
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        with pytest.raises(OSError):
            await trio.open_tcp_stream("127.0.0.1", path.port)
        path.restore()
        async with await connect(path) as fresh:
            assert await says(fresh, b"y") == b"y"


async def test_who_hangs_takes_connections_and_no_byte() -> None:
    async with path_to_echo() as path:
        path.hang()
        async with await connect(path) as stream:
            assert await silent(stream)
        path.restore()
        async with await connect(path) as stream:
            assert await says(stream, b"y") == b"y"


@pytest.mark.parametrize("how", [How.RESET, How.CLOSE])
@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize("at", [0, 1, 70000])
async def test_a_fate_is_met_at_its_byte(how: How, up: bool, at: int) -> None:
    async with path_to_echo() as path:
        path.fates = [Fate(up=at, how=how) if up else Fate(down=at, how=how)]
        async with await connect(path) as stream:
            came = 0
            try:
                with trio.fail_after(60):
                    async with trio.open_nursery() as nursery:
                        # one that is closed between its bytes ends in order
                        sent = at if how is How.CLOSE else 100000
                        nursery.start_soon(stream.send_all, bytes(sent))
                        while data := await stream.receive_some():
                            came += len(data)
                        nursery.cancel_scope.cancel()
            except* trio.BrokenResourceError:
                assert how is How.RESET
            connection = path.connections[0]
            await connection.over.wait()
            assert (connection.up if up else connection.down) == at
            assert came <= at
            if how is How.CLOSE and not up:
                assert came == at
        async with await connect(path) as stream:
            assert await says(stream, b"y") == b"y"
