"""The limit of descriptors, and what happens without any: each in a process of its own."""

from __future__ import annotations

import errno
import logging
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from zks_lwip.errors import HostError
from zks_lwip.net.descriptors import ScarcityLog, is_scarcity

resource = pytest.importorskip("resource")


def in_process(script: str, *arguments: str) -> list[str]:
    """Run Python code in a process of its own; the words that it printed."""
    argv = [sys.executable, "-c", textwrap.dedent(script), *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("soft", [32, 128])
def test_the_soft_limit_becomes_the_hard_one(soft: int) -> None:
    found = in_process(
        """
        import resource, sys
        from zks_lwip.net.descriptors import raise_descriptor_limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), 200))
        print(raise_descriptor_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))
        """,
        str(soft),
    )
    assert found == ["200", "200", "200"]


NO_DESCRIPTOR = """
    import logging, os, resource, socket, sys, threading
    import trio
    from zks_lwip.daemon.client import ask
    from zks_lwip.daemon.control import serve_control
    from zks_lwip.dns.upstream.dial import direct
    from zks_lwip.dns.upstream.plain import PlainResolver
    from zks_lwip.errors import ZksError
    from zks_lwip.tunnel.dial import connect_worker
    from zks_lwip.tunnel.options import TunnelConfig

    logging.basicConfig(stream=sys.stderr)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def status(request):
        return "fine"

    async def fails(awaitable):
        try:
            await awaitable
        except ZksError as error:
            print(type(error).__name__, "Too many open files" in str(error))

    async def main(path):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_control, path, {"status": status})
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            client.connect(str(path))
            client.send(b'{"command": "status"}\\n')
            await fails(connect_worker(TunnelConfig(url="ws://127.0.0.1:1"), nursery))
            await fails(PlainResolver("127.0.0.1", 1, direct()).resolve(bytes(20)))
            await trio.sleep(1.2)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            client = trio.socket.from_stdlib_socket(client)
            with trio.fail_after(60):
                print((await client.recv(100)).decode().replace(" ", ""))
            nursery.cancel_scope.cancel()

    from pathlib import Path
    trio.run(main, Path(sys.argv[1]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs SO_PEERCRED")
def test_single_operations_fail_or_wait(tmp_path: Path) -> None:
    words = in_process(NO_DESCRIPTOR, str(tmp_path / "socket"))
    assert words == ["WorkerUnreachable", "True", "ResolverError", "True", '{"ok":"fine"}']


def test_scarcity_is_found_in_what_caused_an_error() -> None:
    for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
        assert is_scarcity(OSError(number, "x"))
    assert not is_scarcity(OSError(errno.ECONNREFUSED, "x"))
    assert not is_scarcity(OSError("no number"))
    error = HostError("nft: it cannot be run")
    assert not is_scarcity(error)
    error.__cause__ = OSError(errno.EMFILE, "x")
    assert is_scarcity(error)


def test_warnings_are_few(caplog: pytest.LogCaptureFixture) -> None:
    now = 1000.0
    scarcity = ScarcityLog(lambda: now)
    with caplog.at_level(logging.WARNING):
        for _ in range(100):
            scarcity.warn("it has to wait", OSError(errno.EMFILE, "x"))
        assert len(caplog.messages) == 1
        assert "ulimit -n" in caplog.text and "it has to wait" in caplog.text
        now += 61
        scarcity.warn("again", HostError("nft: it cannot be run"))
    assert "nft: it cannot be run (99 more" in caplog.messages[1]
