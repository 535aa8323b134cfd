"""The control socket: for root only, bounded, and an answer for everything."""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from zks_lwip.errors import ConfigError, HostError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="SO_PEERCRED and namespaces")

if sys.platform == "linux":
    from zks_lwip.control import NotRunning, ask, control_path, serve_control


async def status(request: Mapping[str, Any]) -> dict[str, Any]:
    return {"asked by": request["pid"], "extra": request.get("extra")}


async def refuse(request: Mapping[str, Any]) -> None:
    raise ConfigError("not so")


async def fail(request: Mapping[str, Any]) -> None:
    raise HostError("it broke")


COMMANDS = {"status": status, "refuse": refuse, "fail": fail, "disconnect": status}


@pytest.fixture
async def path(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Path]:
    where = tmp_path / "state" / "net-1.sock"
    await nursery.start(serve_control, where, COMMANDS)
    yield where


async def asked(path: Path, command: str, **values: Any) -> Any:
    return await trio.to_thread.run_sync(partial(ask, path, command, **values))


async def test_a_question_and_its_answer(path: Path) -> None:
    assert await asked(path, "status", extra=[1]) == {"asked by": os.getpid(), "extra": [1]}
    with pytest.raises(ConfigError, match="not so"):
        await asked(path, "refuse")
    with pytest.raises(HostError, match="it broke"):
        await asked(path, "fail")
    with pytest.raises(HostError, match="no request"):
        await asked(path, "unknown")


async def test_nobody_else_may_ask(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def raw(path: Path, data: bytes) -> bytes:
    async with await trio.open_unix_socket(path) as stream:
        await stream.send_all(data)
        await stream.send_eof()
        return b"".join([part async for part in stream])


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"{}\n", b"[1]\n", b'{"command": 5}\n', b'{"command": []}\n', b"\xff\n"]
)
async def test_nonsense_is_answered(path: Path, data: bytes) -> None:
    assert "error" in json.loads(await raw(path, data))
    assert (await asked(path, "status"))["extra"] is None


async def test_clients_that_hang_up_or_say_nothing_do_no_harm(path: Path) -> None:
    for _ in range(20):
        async with await trio.open_unix_socket(path) as client:
            await client.send_all(b'{"command": "status"}\n')
    async with await trio.open_unix_socket(path):  # silent
        assert (await asked(path, "status"))["extra"] is None


async def test_an_old_socket_is_replaced_and_removed(tmp_path: Path) -> None:
    where = tmp_path / "net-1.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(where))
    with pytest.raises(NotRunning):
        await asked(where, "status")
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, where, COMMANDS)
        assert (await asked(where, "status"))["extra"] is None
        nursery.cancel_scope.cancel()
    assert not where.exists()
    with pytest.raises(NotRunning, match="nothing runs here"):
        await asked(where, "status")


def test_there_is_one_for_each_namespace(tmp_path: Path) -> None:
    inode = os.stat("/proc/self/ns/net").st_ino
    assert control_path(tmp_path, None) == tmp_path / f"net-{inode}.sock"
    with pytest.raises(ConfigError):
        control_path(tmp_path, "no-such-namespace")
