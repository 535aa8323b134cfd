"""A worker for the length of a block."""

from __future__ import annotations

import ipaddress
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from zks_lwip import VpnConfig, WorkerConfig, open_vpn, open_worker
from zks_lwip.errors import AuthError, ConfigError
from zks_lwip.tunnel.options import TunnelConfig
from zks_lwip.tunnel.tunnel import Tunnel


async def health(address: str, port: int) -> bytes:
    async with await trio.open_tcp_stream(address, port) as stream:
        await stream.send_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return bytes(await stream.receive_some(4096)).split(b"\r\n")[0]


async def test_it_listens_and_is_gone_afterwards() -> None:
    with trio.fail_after(30):
        async with open_worker(WorkerConfig(port=0)) as worker:
            assert worker.url == f"ws://127.0.0.1:{worker.port}/tunnel"
            assert await health(worker.address, worker.port) == b"HTTP/1.1 200 OK"
        with pytest.raises(OSError):
            await trio.open_tcp_stream(worker.address, worker.port)
    assert worker.worker.ended.is_set()


async def test_a_client_comes_in_by_its_token_alone(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("me sesame\n")
    tokens.chmod(0o600)
    with trio.fail_after(30):
        async with open_worker(WorkerConfig(port=0, token_file=tokens)) as worker:
            async with trio.open_nursery() as nursery:
                tunnel = Tunnel(TunnelConfig(url=worker.url, token="sesame"))
                await nursery.start(tunnel.run)
                assert tunnel.up
                nursery.cancel_scope.cancel()
            with pytest.RaisesGroup(AuthError, flatten_subgroups=True, allow_unwrapped=True):
                async with trio.open_nursery() as nursery:
                    await nursery.start(Tunnel(TunnelConfig(url=worker.url, token="x")).run)


async def test_what_is_wrong_is_one_plain_error() -> None:
    with pytest.raises(ConfigError, match="without a token"):
        async with open_worker(WorkerConfig(host="0.0.0.0", port=0)):
            pytest.fail("it listens")
    with trio.fail_after(30):
        async with open_worker(WorkerConfig(port=0)) as worker:
            with pytest.raises(ConfigError, match="cannot listen on"):
                async with open_worker(WorkerConfig(port=worker.port)):
                    pytest.fail("it listens twice")


async def test_an_error_of_the_callers_ends_it_at_once() -> None:
    with trio.fail_after(60), pytest.raises(KeyError, match="mine"):
        async with open_worker(WorkerConfig(port=0, drain=60)):
            raise KeyError("mine")


async def test_it_tells_of_its_sessions_and_of_all_it_did(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("me sesame\n")
    tokens.chmod(0o600)
    allow = (ipaddress.ip_network("127.0.0.1/32"),)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    with trio.fail_after(30):
        async with open_worker(WorkerConfig(port=0, token_file=tokens, allow=allow)) as worker:
            assert worker.sessions() == [] and worker.stats().sessions == 0
            config = VpnConfig(worker=worker.url, token="sesame", resume=0)
            async with open_vpn(config) as vpn:
                stream = await vpn.open_tcp_stream("127.0.0.1", port)
                far = await listener.accept()
                await stream.send_all(b"hello")
                assert await far.receive_some() == b"hello"
                await far.send_all(b"hi")
                assert await stream.receive_some() == b"hi"
                (session,) = worker.sessions()
                assert (session.name, session.address) == ("me", "127.0.0.1")
                assert (session.streams, session.streams_opened) == (1, 1)
                assert (session.bytes_up, session.bytes_down) == (5, 2)
                assert session.lost_seconds is None and 0 <= session.seconds < 30
                stats = worker.stats()
                assert (stats.sessions, stats.streams, stats.handshakes) == (1, 1, 0)
                await stream.aclose()
                await far.aclose()
            while worker.sessions():
                await trio.sleep(0.01)
            stats = worker.stats()
            assert (stats.sessions, stats.sessions_opened, stats.streams) == (0, 1, 0)
            assert (stats.bytes_up, stats.bytes_down, stats.streams_opened) == (5, 2, 1)
    await listener.aclose()


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limits")
def test_the_limits_of_the_process_stay_unless_asked() -> None:
    code = (
        "import resource, trio\n"
        "from zks_lwip import WorkerConfig, open_worker\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (300, 400))\n"
        "async def main():\n"
        "    for asked in (False, True):\n"
        "        async with open_worker(WorkerConfig(port=0), raise_limits=asked):\n"
        "            print(*resource.getrlimit(resource.RLIMIT_NOFILE))\n"
        "trio.run(main)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["300", "400", "400", "400"], done.stderr
