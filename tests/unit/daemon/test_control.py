"""The control socket: for root only, bounded, and an answer for everything."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from zks_lwip.errors import ConfigError, HostError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="SO_PEERCRED and namespaces")

if sys.platform == "linux":
    from zks_lwip.daemon.access import Access
    from zks_lwip.daemon.client import NotRunning, ask
    from zks_lwip.daemon.control import serve_control
    from zks_lwip.daemon.place import control_path


async def crash(request: Mapping[str, Any]) -> None:
    raise KeyError("a bug")


async def large(request: Mapping[str, Any]) -> str:
    return "x" * (4 << 20)


async def status(request: Mapping[str, Any]) -> dict[str, Any]:
    return {"asked by": request["pid"], "extra": request.get("extra")}


async def refuse(request: Mapping[str, Any]) -> None:
    raise ConfigError("not so")


async def fail(request: Mapping[str, Any]) -> None:
    raise HostError("it broke")


COMMANDS = {"status": status, "refuse": refuse, "fail": fail, "disconnect": status}
COMMANDS |= {"crash": crash, "large": large}


@pytest.fixture
async def path(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Path]:
    where = tmp_path / "state" / "net-1.sock"
    await nursery.start(serve_control, where, COMMANDS)
    yield where


async def asked(path: Path, command: str, **values: Any) -> Any:
    return await trio.to_thread.run_sync(partial(ask, path, command, **values))


class Flaky(trio.socket.SocketType, trio.abc.SocketFactory):
    """Makes sockets that lose the first connection, as Windows does when a client resets it."""

    def __init__(self) -> None:
        self.lost = 0

    def socket(self, family: int = -1, type: int = -1, proto: int = -1) -> Flaky:
        self.real = trio.socket.from_stdlib_socket(socket.socket(family, type))
        return self

    async def bind(self, address: Any) -> None:
        await self.real.bind(address)

    def listen(self, backlog: int = 1) -> None:
        self.real.listen(backlog)

    async def accept(self) -> Any:
        accepted = await self.real.accept()
        if not self.lost:
            self.lost = 1
            accepted[0].close()
            raise ConnectionResetError("An existing connection was forcibly closed")
        return accepted

    def close(self) -> None:
        self.real.close()


async def test_a_client_that_is_gone_before_it_is_accepted_ends_nothing(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    flaky, path = Flaky(), tmp_path / "state" / "net-1.sock"
    before = trio.socket.set_custom_socket_factory(flaky)
    try:
        await nursery.start(serve_control, path, COMMANDS)
    finally:
        trio.socket.set_custom_socket_factory(before)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        assert await trio.to_thread.run_sync(client.recv, 1) == b""
    assert await asked(path, "status") == {"asked by": os.getpid(), "extra": None}


async def test_a_question_and_its_answer(path: Path) -> None:
    assert await asked(path, "status", extra=[1]) == {"asked by": os.getpid(), "extra": [1]}
    with pytest.raises(ConfigError, match="not so"):
        await asked(path, "refuse")
    with pytest.raises(HostError, match="it broke"):
        await asked(path, "fail")
    with pytest.raises(HostError, match="no request"):
        await asked(path, "unknown")


async def test_no_other_user_may_ask(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def raw(path: Path, data: bytes) -> bytes:
    async with await trio.open_unix_socket(path) as stream:
        await stream.send_all(data)
        await stream.send_eof()
        return b"".join([part async for part in stream])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"{}\n",
        b"[1]\n",
        b'{"command": 5}\n',
        b'{"command": []}\n',
        b"\xff\n",
        b"[" * 60_000 + b"\n",
        b'{"a":' * 12_000 + b"\n",
        b'{"command": "status", "extra": ' + b"[" * 30_000 + b"]" * 30_000 + b"}\n",
        b"x" * 65_537,
        b"1" * 60_000 + b"\n",
        b'{"command": "status"}\n{"command": "status"}\n',
    ],
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


async def test_nothing_runs_where_a_file_has_the_name_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotRunning, match="nothing runs here"):
        await asked(tmp_path / "file" / "net-1.sock", "status")


def test_there_is_one_for_each_namespace(tmp_path: Path) -> None:
    inode = os.stat("/proc/self/ns/net").st_ino
    assert control_path(tmp_path, None) == tmp_path / f"net-{inode}.sock"
    with pytest.raises(ConfigError):
        control_path(tmp_path, "no-such-namespace")


async def test_who_is_slow_is_told_and_holds_up_no_other_for_long(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    """A request that comes byte by byte, an answer that is not read, and more than can be."""
    where = tmp_path / "net-1.sock"
    await nursery.start(partial(serve_control, where, COMMANDS, seconds=1.5))
    dribble = await trio.open_unix_socket(where)
    with trio.fail_after(30):
        with pytest.raises((AssertionError, trio.BrokenResourceError)):
            for _ in range(1000):
                await dribble.send_all(b" ")
                await trio.sleep(0.05)
            raise AssertionError("it went on")
    told = await dribble.receive_some()
    assert "within 1.5 s" in json.loads(told)["error"]
    lazy = [await trio.open_unix_socket(where) for _ in range(14)]
    for client in lazy:
        with contextlib.suppress(trio.BrokenResourceError):  # the oldest had to go for the others
            await client.send_all(b'{"command": "large"}\n')
    assert (await asked(where, "status"))["extra"] is None
    for client in [dribble, *lazy]:
        await client.aclose()


async def test_a_bug_costs_an_answer_only(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(HostError, match="internal error"):
        await asked(path, "crash")
    assert "a bug" in caplog.text
    assert (await asked(path, "status"))["extra"] is None


@pytest.mark.parametrize("answer", [b"", b"[]\n", b"5\n", b"{}\n", b"[" * 60_000 + b"\n"])
async def test_what_answers_nonsense_is_said_so(
    tmp_path: Path, nursery: trio.Nursery, answer: bytes
) -> None:
    where = tmp_path / "net-1.sock"
    listener = trio.socket.socket(socket.AF_UNIX)
    await listener.bind(str(where))
    listener.listen(1)

    async def serve() -> None:
        with listener:
            connection, _ = await listener.accept()
        async with trio.SocketStream(connection) as stream:
            await stream.receive_some(4096)
            await stream.send_all(answer)

    nursery.start_soon(serve)
    with pytest.raises(HostError, match="without an answer"):
        await asked(where, "status")


def test_a_stopped_process_is_not_waited_for(tmp_path: Path) -> None:
    """As by Ctrl-Z: the kernel takes connections for it, and nothing would answer."""
    where = tmp_path / "net-1.sock"
    program = (
        "import os, signal, socket, sys\n"
        "listener = socket.socket(socket.AF_UNIX)\n"
        "listener.bind(sys.argv[1])\n"
        "listener.listen()\n"
        "os.kill(os.getpid(), signal.SIGSTOP)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(where)]) as process:
        try:
            os.waitid(os.P_PID, process.pid, os.WSTOPPED)
            with pytest.raises(HostError, match=rf"stopped .*`kill -CONT {process.pid}`"):
                ask(where, "status")
        finally:
            process.kill()


def test_who_does_not_answer_at_all(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "net-1.sock"))
        listener.listen()
        with pytest.raises(HostError, match=r"no answer within 0.1 s.*recover"):
            ask(tmp_path / "net-1.sock", "status", patience=0.1)


MEMBERS, NOBODY = 54321, 65534
as_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="becomes other users"
)


@contextlib.contextmanager
def another_user(*groups: int, function: Callable[[], str]) -> Iterator[int]:
    """Call a function in a process of an ordinary user's; yield a pipe with what it returns.

    The process lives until the end of the block.
    """
    reader, writer = os.pipe()
    if not (pid := os.fork()):
        try:
            os.setgroups(groups)
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            try:
                said = function()
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
            os.write(writer, said.encode())
            os.close(writer)
            time.sleep(120)
        finally:
            os._exit(0)
    os.close(writer)
    try:
        yield reader
    finally:
        os.close(reader)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


async def said(pipe: int) -> str:
    with trio.fail_after(60):
        await trio.lowlevel.wait_readable(pipe)
        return os.read(pipe, 65536).decode()


@pytest.fixture
async def shared(nursery: trio.Nursery) -> AsyncIterator[Path]:
    """A socket whose group may read, in a directory that is closed to others as yet."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o711)
        where = Path(directory) / "state" / "net-1.sock"
        access = Access(frozenset({MEMBERS}))
        await nursery.start(partial(serve_control, where, COMMANDS, access=access, seconds=60.0))
        yield where


@as_root
async def test_a_member_of_the_group_may_read_and_no_more(shared: Path) -> None:
    assert stat.S_IMODE(shared.stat().st_mode) == 0o660 and shared.stat().st_gid == MEMBERS
    assert stat.S_IMODE(shared.parent.stat().st_mode) == 0o711
    with another_user(MEMBERS, function=lambda: repr(ask(shared, "status"))) as pipe:
        assert (await said(pipe)).startswith("{'asked by': ")
    for command in sorted(COMMANDS.keys() - {"status"}):
        with another_user(MEMBERS, function=lambda: repr(ask(shared, command))) as pipe:  # noqa: B023
            assert (await said(pipe)).startswith(f"PrivilegeError: only root may `{command}`")
    with another_user(function=lambda: repr(ask(shared, "status"))) as pipe:
        assert "PrivilegeError: this user may not see whether" in await said(pipe)
    assert (await asked(shared, "status"))["extra"] is None


def _flood(path: Path) -> str:
    """Send garbage, large questions without reading, and nothing; and keep it all open."""
    kept = []
    for data in (b"", b"garbage", b'{"command": "status"', b'{"command": "status"}\n') * 20:
        one = socket.socket(socket.AF_UNIX)
        one.connect(str(path))
        kept.append(one)
        with contextlib.suppress(OSError):
            one.sendall(data)
    globals()["kept"] = kept  # until the process ends
    return "flooded"


@as_root
async def test_a_member_that_floods_holds_up_no_other(shared: Path) -> None:
    with another_user(MEMBERS, function=lambda: _flood(shared)) as pipe:
        assert await said(pipe) == "flooded"
        began = trio.current_time()
        for _ in range(5):
            assert (await asked(shared, "status"))["extra"] is None
        with another_user(MEMBERS, function=lambda: repr(ask(shared, "status"))) as other:
            assert (await said(other)).startswith("{'asked by': ")
        assert trio.current_time() - began < 45, "a silent client is closed after 60 s only"


@as_root
async def test_who_may_not_is_told_so_by_the_client(shared: Path) -> None:
    with another_user(function=lambda: repr(ask(shared, "status"))) as pipe:
        assert "`control_group`" in await said(pipe)


@as_root
async def test_a_closed_folder_does_not_tell_whether_one_runs() -> None:
    """It stays when what ran has ended: the sentence says neither that one runs nor that none."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o700)
        where = Path(directory) / "net-1.sock"
        with another_user(function=lambda: repr(ask(where, "status"))) as pipe:
            text = await said(pipe)
    assert text.startswith("PrivilegeError: this user may not see whether a `connect` runs here")
    assert "run it as root" in text
