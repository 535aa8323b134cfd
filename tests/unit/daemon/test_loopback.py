"""The control channel over loopback: only who can read the file may do anything, on both sides."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from zks_lwip.daemon.client import NotRunning, ask
from zks_lwip.daemon.control import MAX_UNPROVEN, serve_control
from zks_lwip.daemon.loopback import Meeting, read_meeting
from zks_lwip.errors import HostError, PrivilegeError


async def status(request: Mapping[str, Any]) -> dict[str, Any]:
    return {"uid": request["uid"], "extra": request.get("extra")}


@pytest.fixture
async def path(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Path]:
    where = tmp_path / "state" / "net-0.sock"
    await nursery.start(partial(serve_control, where, {"status": status}, over_loopback=True))
    yield where


async def asked(path: Path, command: str, **values: Any) -> Any:
    return await trio.to_thread.run_sync(partial(ask, path, command, over_loopback=True, **values))


async def connected(path: Path) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", read_meeting(path).port)


async def test_an_administrator_gives_commands(path: Path) -> None:
    assert await asked(path, "status", extra="x" * 50_000) == {"uid": 0, "extra": "x" * 50_000}
    with pytest.raises(HostError, match="give one of status"):
        await asked(path, "unknown")


@pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX")
async def test_the_file_is_for_no_other_user(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600


async def test_who_does_not_know_the_secret_is_not_answered(path: Path) -> None:
    """Neither by a guess, nor by saying again what another end has said."""
    async with await connected(path) as stream:
        await stream.send_all(bytes(32))
        said = await stream.receive_some(64)
        assert len(said) == 64
        await stream.send_all(said[32:] + b'{"command": "status"}\n')
        with pytest.raises(trio.BrokenResourceError):  # reset, or ended
            assert await stream.receive_some() == b""
            raise trio.BrokenResourceError
    assert (await asked(path, "status"))["extra"] is None


async def test_who_says_nothing_holds_up_no_other(path: Path) -> None:
    silent = [await connected(path) for _ in range(MAX_UNPROVEN + 4)]
    assert (await asked(path, "status"))["extra"] is None
    for stream in silent:
        await stream.aclose()


async def test_after_the_end_nothing_runs_there(tmp_path: Path) -> None:
    where = tmp_path / "state" / "net-0.sock"
    with pytest.raises(NotRunning):
        await asked(where, "status")
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_control, where, {"status": status}, over_loopback=True))
        left = where.read_bytes()
        nursery.cancel_scope.cancel()
    assert not where.exists()
    where.write_bytes(left)  # as after a kill
    with pytest.raises(NotRunning):
        await asked(where, "status")


def served(answer: Callable[[bytes], bytes]) -> tuple[int, threading.Thread, list[bytes]]:
    """Another program, which has got the port of an instance that died: its port, what it heard."""
    listener = socket.create_server(("127.0.0.1", 0))
    heard: list[bytes] = []

    def serve() -> None:
        with listener, listener.accept()[0] as connection:
            connection.settimeout(60)
            heard.append(connection.recv(32))
            connection.sendall(answer(heard[0]))
            connection.shutdown(socket.SHUT_WR)
            while data := connection.recv(4096):
                heard.append(data)

    thread = threading.Thread(target=serve)
    thread.start()
    return listener.getsockname()[1], thread, heard


@pytest.mark.parametrize(
    "answer",
    [
        lambda nonce: b"",
        lambda nonce: b"HTTP/1.1 400 Bad Request\r\n\r\n",
        lambda nonce: bytes(32) + Meeting(1, bytes(32)).proof(b"zks-lwip control server", nonce),
        lambda nonce: nonce + nonce,
    ],
)
def test_another_program_at_the_port_hears_no_request(
    tmp_path: Path, answer: Callable[[bytes], bytes]
) -> None:
    port, thread, heard = served(answer)
    path = tmp_path / "net-0.sock"
    path.write_text(json.dumps({"port": port, "secret": os.urandom(32).hex()}))
    with pytest.raises(NotRunning):
        ask(path, "reload", over_loopback=True, tokens=["t" * 32])
    thread.join()
    assert len(heard) == 1 and len(heard[0]) == 32


def test_a_program_at_the_port_that_says_little_at_a_time_holds_nothing_up(tmp_path: Path) -> None:
    """It has the time of one answer for all of it, not for each byte."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def serve() -> None:
        with listener, listener.accept()[0] as connection, contextlib.suppress(OSError):
            for _ in range(64):  # until the client has gone
                connection.sendall(b"x")
                over.wait(0.2)

    thread = threading.Thread(target=serve)
    thread.start()
    path = tmp_path / "net-0.sock"
    port = listener.getsockname()[1]
    path.write_text(json.dumps({"port": port, "secret": os.urandom(32).hex()}))
    try:
        with pytest.raises(HostError, match="no answer"):
            ask(path, "status", over_loopback=True, patience=1.0)
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"port": "x", "secret": ""}', '{"port": 1, "secret": "00"}']
    + [json.dumps({"port": port, "secret": "00" * 32}) for port in (0, -1, 65536, True, 1.5)],
)
def test_a_file_that_was_not_written_whole_is_of_no_instance(tmp_path: Path, text: str) -> None:
    path = tmp_path / "net-0.sock"
    path.write_text(text)
    with pytest.raises(NotRunning):
        ask(path, "status", over_loopback=True)


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="as root every file can be read"
)
def test_who_may_not_read_the_file_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "net-0.sock"
    path.touch(mode=0)
    with pytest.raises(PrivilegeError):
        ask(path, "status", over_loopback=True)


def test_the_secret_is_not_shown() -> None:
    assert "73" not in repr(Meeting(1, b"s" * 32))
