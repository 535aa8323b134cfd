"""The embedded worker: it starts, keeps its secret, and never outlives its maker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from zks_lwip._util import single_error
from zks_lwip.errors import TunnelError, WorkerUnreachable
from zks_lwip.vpn.embedded_worker import load_embedded_worker, open_embedded_worker
from zks_lwip.vpn.worker_process import begin_worker

from ...kits.tunnel import eventually

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes and signals of POSIX")


def descriptors() -> int:
    return len(os.listdir("/dev/fd"))


async def test_it_listens_and_is_gone_afterwards() -> None:
    before = descriptors()
    with trio.fail_after(60):
        async with open_embedded_worker() as worker:
            host, port = worker.url.removeprefix("ws://").removesuffix("/tunnel").split(":")
            async with await trio.open_tcp_stream(host, int(port)) as stream:
                await stream.send_all(b"GET /tunnel HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert b" 4" in (await stream.receive_some(4096)).split(b"\r\n")[0]
    assert worker.process.returncode is not None
    with pytest.raises(OSError):
        await trio.open_tcp_stream(host, int(port))
    assert descriptors() == before


async def test_it_listens_when_it_is_told_to() -> None:
    with trio.fail_after(60):
        async with load_embedded_worker() as loading:
            worker = await loading.listen(None)
            assert worker.process is loading.process and worker.url.startswith("ws://127.0.0.1:")
    assert loading.process.returncode == 0


async def test_one_that_is_not_told_to_listen_ends_by_a_signal() -> None:
    with trio.fail_after(60):
        async with load_embedded_worker() as loading:
            pass
    assert loading.process.returncode == -signal.SIGTERM


def test_one_that_is_begun_and_not_taken_over_is_ended() -> None:
    before = descriptors()
    with begin_worker(()) as process:
        assert process.returncode is None
    assert process.returncode == -signal.SIGTERM
    assert descriptors() == before
    process.close()  # harmless


def test_one_that_does_not_heed_the_first_signal_is_killed() -> None:
    stubborn = (
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('heedless', flush=True); time.sleep(600)"
    )
    with begin_worker((), command=[sys.executable, "-c", stubborn]) as process:
        with open(process.take_output(), "rb") as output:
            assert output.readline() == b"heedless\n"
    assert process.returncode == -signal.SIGKILL


async def test_one_that_was_begun_before_is_taken_over() -> None:
    before = descriptors()
    with trio.fail_after(60), begin_worker(()) as process:
        async with load_embedded_worker(begun=process) as loading:
            worker = await loading.listen(None)
            assert worker.process is process and process.returncode is None
        assert process.returncode == 0
    assert descriptors() == before


async def test_one_that_has_ended_when_it_is_told_to_listen_is_reported() -> None:
    with trio.fail_after(60), pytest.raises(WorkerUnreachable, match="ended with code 7"):
        async with load_embedded_worker(command=[sys.executable, "-c", "exit(7)"]) as loading:
            await loading.process.wait()
            await loading.listen(None)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_the_token_is_in_no_process_list_and_no_environment() -> None:
    with trio.fail_after(60):
        async with open_embedded_worker() as worker:
            process = Path(f"/proc/{worker.process.pid}")
            for name in ("cmdline", "environ"):
                assert worker.token.encode() not in (process / name).read_bytes()
            assert worker.token not in repr(worker)
            # Of ours it has nothing but the two pipes; it may be reading a file at the moment.
            ends = {"/dev/null", "pipe", "socket", "anon_inode"} | _our_outputs()
            await eventually(lambda: _links(process / "fd") <= ends)


def _links(folder: Path) -> set[str]:
    links = set()
    for fd in folder.iterdir():
        with suppress(FileNotFoundError):  # closed since
            links.add(os.readlink(fd).split(":")[0])
    return links


def _our_outputs() -> set[str]:
    return {os.readlink(f"/proc/self/fd/{fd}").split(":")[0] for fd in (1, 2)}


async def test_its_end_is_an_error() -> None:
    with trio.fail_after(60), pytest.raises(TunnelError, match="ended by itself with code -9"):
        with single_error():
            async with open_embedded_worker() as worker:
                worker.process.send_signal(signal.SIGKILL)
                await trio.sleep_forever()


async def test_one_that_does_not_start_is_reported(capfd: pytest.CaptureFixture[str]) -> None:
    with trio.fail_after(60), pytest.raises(WorkerUnreachable, match="ended with code 2"):
        async with open_embedded_worker(arguments=["--max-streams", "none"]):
            pytest.fail("it started")
    assert "--max-streams" in capfd.readouterr().err


async def test_one_that_ignores_everything_is_killed() -> None:
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('listening on 127.0.0.1:1', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", stubborn]
    with trio.fail_after(60):
        async with open_embedded_worker(command=command, stop_seconds=0.2) as worker:
            pass
    assert worker.process.returncode == -signal.SIGKILL


async def test_a_child_that_says_something_else_is_reported() -> None:
    command = [sys.executable, "-c", "print('hello')"]
    with trio.fail_after(60), pytest.raises(WorkerUnreachable, match="hello"):
        async with open_embedded_worker(command=command):
            pytest.fail("it started")


async def test_cancelling_leaves_nothing_behind() -> None:
    with trio.move_on_after(60) as scope:
        async with open_embedded_worker() as worker:
            scope.cancel()
            await trio.sleep_forever()
    assert worker.process.returncode is not None


def test_it_dies_with_its_maker() -> None:
    script = (
        "import os, trio; from zks_lwip.vpn.embedded_worker import open_embedded_worker\n"
        "async def main():\n"
        "    async with open_embedded_worker() as worker:\n"
        "        print(worker.process.pid, flush=True); os.kill(os.getpid(), 9)\n"
        "trio.run(main)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, timeout=120, check=False
    )
    assert done.returncode == -9
    pid = int(done.stdout)

    async def gone() -> None:
        while _runs(pid):
            await trio.sleep(0.05)

    async def wait() -> None:
        with trio.fail_after(30):
            await gone()

    trio.run(wait)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    if sys.platform == "linux":  # its parent may not have collected it yet
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return True
