"""A worker that is absent, hostile or dies; and nothing that is left over afterwards."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import select
import signal
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio_websocket import open_websocket_url

from tests.kits import hostile_worker as frames
from tests.kits.netns import client, lab, machine, servers
from tests.kits.netns.child import Child, until
from tests.kits.netns.lab import WORKER4, Lab, Namespace

_ports = itertools.count(9000)


@pytest.fixture
def host(net: Lab) -> Namespace:
    return net.add_host()


@pytest.mark.parametrize(
    ("mode", "code"),
    [
        ("401", 13),
        ("403", 13),
        ("404", 14),
        ("html", 14),
        ("redirect", 14),
        ("no-subprotocol", 14),
        ("garbage-http", 14),
    ],
)
def test_at_the_start_a_wrong_answer_ends_it(
    net: Lab, host: Namespace, mode: str, code: int
) -> None:
    before = machine.picture(host.path)
    with net.hostile_worker(mode, next(_ports)) as (_, url):
        child = net.connect(host, url=url, ready=False)
        assert child.wait() == code, child.output
    child.no_traceback()
    assert 1 <= len(child.stderr) <= 3, child.output
    assert "<html" not in child.output and lab.TOKEN not in child.output
    assert machine.difference(before, machine.picture(host.path)) == ""


def test_a_wrong_token_ends_it(net: Lab, worker: Child, host: Namespace) -> None:
    wrong = net.secret("wrong-token", "not-the-token\n")
    child = net.connect(host, "--token-file", str(wrong), ready=False)
    assert child.wait() == 13, child.output
    child.no_traceback()
    assert "not-the-token" not in child.output


def test_an_absent_worker_is_retried_until_it_is_there(net: Lab, host: Namespace) -> None:
    port = next(_ports)
    child = net.connect(host, url=f"ws://{WORKER4}:{port}", ready=False)
    with child:
        child.wait_for(rf"{port}")
        with net.worker(listen=f"{WORKER4}:{port}"):
            child.wait_for("^ready: ")
            with host.entered():
                assert client.who(lab.FAR4) == lab.MID4
    assert child.process.returncode == 0
    child.no_traceback()


@pytest.mark.parametrize("mode", ["absent", "mute", "hang-up", "500"])
def test_a_worker_that_does_not_answer_is_retried(net: Lab, host: Namespace, mode: str) -> None:
    before = machine.picture(host.path)
    with contextlib.ExitStack() as stack:
        other, url = None, f"ws://{WORKER4}:{next(_ports)}"
        if mode != "absent":
            other, url = stack.enter_context(net.hostile_worker(mode, next(_ports)))
        child = stack.enter_context(net.connect(host, url=url, ready=False))
        if other is not None:
            other.wait_for("^connection from")
        if mode != "mute":  # (which is waited for, without a word, for longer)
            until(lambda: sum("Trying again" in line for line in child.stderr) > 1)
            lines = other.stdout if other else []
            until(lambda: other is None or sum("connection from" in x for x in lines) > 1)
        assert child.process.poll() is None, child.output
        assert child.stop() == 0
    child.no_traceback()
    assert machine.difference(before, machine.picture(host.path)) == ""


def retrying(child: Child) -> bool:
    return any("Trying again" in line for line in child.stderr)


@pytest.mark.parametrize(
    "mode", ["garbage", "garbage-bytes", "bad-json", "bad-range", "bad-type", "early-data"]
)
def test_garbage_in_place_of_hello(net: Lab, host: Namespace, mode: str) -> None:
    """A clear line; then either retried, or ended as a protocol error. Never a crash."""
    before = machine.picture(host.path)
    with net.hostile_worker(mode, next(_ports)) as (other, url):
        child = net.connect(host, url=url, ready=False)
        with child:
            other.wait_for("upgrade asked for")
            until(lambda: child.process.poll() is not None or retrying(child))
            child.stop()
        assert child.process.returncode in (0, 14, 15), child.output
        assert re.search("(?i)worker|protocol|tunnel|websocket", "\n".join(child.stderr))
    child.no_traceback()
    assert machine.difference(before, machine.picture(host.path)) == ""


@pytest.mark.parametrize(
    "mode",
    ["overrun", "middle", "long-length", "idle-stream", "twice-connected", "window-overflow",
     "unknown-command", "text", "close-1002"],
)  # fmt: skip
def test_a_protocol_error_costs_the_websocket_only(net: Lab, host: Namespace, mode: str) -> None:
    """The application sees a reset, the log has a line, and a new WebSocket is opened.

    Before the far end has connected it sees silence: its SYN, sent again, is a new attempt.
    """
    held = mode in ("long-length", "idle-stream", "unknown-command", "text", "close-1002")
    if held:
        host.sysctl("net.ipv4.tcp_syn_retries=1")
    with net.hostile_worker(mode, next(_ports)) as (other, url):
        child = net.connect(host, url=url)
        with child, host.entered():
            said = len(child.stderr)
            with pytest.raises(TimeoutError if held else ConnectionResetError):
                with client.connect(lab.FAR4, 80) as sock:
                    ended = select.poll()
                    ended.register(sock, 0)  # reset: what is read gives credit for more
                    assert ended.poll(60_000)
                    while sock.recv(65536):
                        pass
                pytest.fail("an end, not a reset")
            until(lambda: sum("upgrade asked" in x for x in other.stdout) >= 2)
            until(lambda: len(child.stderr) > said, message=lambda: "no line in the log")
            assert _memory(child) < 250 << 20
        assert child.process.returncode == 0
        if mode in ("overrun", "idle-stream"):
            other.wait_for("client closed 1002")
    child.no_traceback()


def test_a_worker_that_stalls_in_a_frame(net: Lab, host: Namespace) -> None:
    """Nothing more comes; SIGTERM still ends it."""
    with net.hostile_worker("stall", next(_ports)) as (other, url):
        child = net.connect(host, url=url)
        with child, host.entered(), client.connect(lab.FAR4, 80) as sock:
            sock.settimeout(1)
            with pytest.raises(TimeoutError):
                sock.recv(10)
            assert child.stop() == 0
        other.wait_for("asked to connect")
    child.no_traceback()


def test_a_worker_that_dies_resets_its_flows_and_may_come_back(net: Lab, host: Namespace) -> None:
    port = next(_ports)
    first = net.worker(listen=f"{WORKER4}:{port}")
    child = net.connect(host, url=f"ws://{WORKER4}:{port}")
    with child, host.entered():
        sock = client.connect(lab.FAR4, servers.ECHO)
        with sock:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
            first.process.kill()
            first.wait()
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        error = client.connect_error(lab.FAR4, servers.ECHO, syn_retries=1)
        assert error in ("ENETUNREACH", "ETIMEDOUT")
        with net.worker(listen=f"{WORKER4}:{port}"):
            until(lambda: client.connect_error(lab.FAR4, servers.ECHO) == "connected")
            client.duplex_many(lab.FAR4, servers.DUPLEX, 3, 3_000_000)
        assert child.process.poll() is None
    assert child.process.returncode == 0
    child.no_traceback()


def test_a_401_later_keeps_it_closed_and_retrying(net: Lab, host: Namespace) -> None:
    port = next(_ports)
    first = net.worker(listen=f"{WORKER4}:{port}")
    child = net.connect(host, url=f"ws://{WORKER4}:{port}")
    with child, host.entered():
        first.stop()
        other = net.secret("other-token", "another\n")
        with net.worker("--token-file", str(other), listen=f"{WORKER4}:{port}", token=False):
            child.wait_for("401")
            assert client.connect_error(lab.FAR4, servers.ECHO, syn_retries=1) != "connected"
            assert child.process.poll() is None
        with net.worker(listen=f"{WORKER4}:{port}"):
            until(lambda: client.connect_error(lab.FAR4, servers.ECHO) == "connected")
    assert child.process.returncode == 0
    child.no_traceback()


def test_a_worker_that_is_told_to_stop_says_goodbye(net: Lab, host: Namespace) -> None:
    """SIGTERM: it ends by itself within its 10 s, with 0, and shows no traceback."""
    port = next(_ports)
    running = net.worker(listen=f"{WORKER4}:{port}")
    with net.connect(host, url=f"ws://{WORKER4}:{port}") as child, host.entered():
        with client.connect(lab.FAR4, servers.ECHO) as sock:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
        assert running.stop() == 0
    running.no_traceback()
    child.no_traceback()


def test_a_name_that_resolves_to_a_private_address(net: Lab, host: Namespace) -> None:
    """Over a DNS answer the application connects to the address, which the worker refuses."""
    with net.worker(listen=f"{WORKER4}:{next(_ports)}") as running:
        url = "ws://" + running.wait_for(r"listening on (\S+)").group(1)
        with net.connect(host, url=url), host.entered():
            before = client.callers(lab.FAR4, servers.HTTP)
            for name in ("private.zks.test", "loop.zks.test"):
                page = f"http://{name}:{servers.HTTP}/hello"
                curl = net.application(host, "curl", "-sS", "-m", "40", page)
                assert curl.wait() == 7, curl.output
            assert client.callers(lab.FAR4, servers.HTTP) == before + 1


@pytest.mark.parametrize("name", ["private.zks.test", "loop.zks.test", "10.66.1", "0x7f000001"])
def test_a_name_of_a_private_address_is_refused_by_the_worker(
    net: Lab, worker: Child, run_host: Namespace, name: str
) -> None:
    """CONNECT with the name itself, as another client may send it; the control is a public one."""

    async def ask(host: str) -> bytes:
        url = f"ws://{WORKER4}:{lab.WORKER_PORT}/tunnel"
        token = [("Authorization", f"Bearer {lab.TOKEN}")]
        with trio.fail_after(60):
            async with open_websocket_url(
                url, subprotocols=["zks-tunnel.v2"], extra_headers=token
            ) as ws:
                await ws.send_message(
                    frames.head40(frames.HELLO, 0, b'{"version": 2, "resume": 0}')
                )
                assert (await ws.get_message())[0] == frames.HELLO
                target = struct.pack("!BIHH", frames.CONNECT, 1, servers.HTTP, len(host))
                await ws.send_message(target + host.encode())
                answer = await ws.get_message()
                return bytes(answer)

    with run_host.entered():  # not captured: through the tunnel the worker refuses its own address
        before = client.callers(lab.FAR4, servers.HTTP)
        assert trio.run(ask, name)[:7] == struct.pack("!BIH", 0x04, 1, 403)
        assert client.callers(lab.FAR4, servers.HTTP) == before + 1
        assert trio.run(ask, "far.zks.test")[:5] == struct.pack("!BI", frames.CONNECTED, 1)
        assert client.callers(lab.FAR4, servers.HTTP) == before + 3, "the control"


def test_nothing_is_left_over(net: Lab, host: Namespace) -> None:
    """Descriptors, threads, flows and tasks: as many after many flows, and faults, as before."""
    port = next(_ports)
    with net.worker(listen=f"{WORKER4}:{port}") as running, net.connect(
        host, url=f"ws://{WORKER4}:{port}"
    ) as child, host.entered():  # fmt: skip
        client.duplex_many(lab.FAR4, servers.DUPLEX, 2, 200_000)
        client.udp_exchange(lab.FAR4, servers.ECHO, b"x")
        until(lambda: _gauges(child)["tunnel.streams"] == 0)
        before = [*_holdings(child), *_holdings(running)]
        gauges_before = _gauges(child)
        client.duplex_many(lab.FAR4, servers.DUPLEX, 50, 5_000_000)
        hung = [client.connect(lab.FAR4, servers.HANG) for _ in range(20)]
        for sock in hung:
            client.reset(sock)
        for address in (lab.NO_ROUTE4, lab.NO_HOST6, lab.PRIVATE4):
            client.connect_error(address, 80)
        for _ in range(10):
            client.connect_error(lab.FAR4, servers.CLOSED)
            with client.connect(lab.FAR6, servers.RESET) as sock, contextlib.suppress(OSError):
                sock.sendall(b"x")
                sock.recv(2)
        given_up = socket.socket()
        given_up.setblocking(False)
        given_up.connect_ex((lab.SILENT4, 80))
        time.sleep(0.2)
        given_up.close()

        def after() -> list[int]:
            return [*_holdings(child), *_holdings(running)]

        until(  # nothing tells that it was given up: it lasts until the worker's own connect() ends
            lambda: all(now <= then for now, then in zip(after(), before, strict=True)),
            timeout=60,
            message=lambda: f"{before} before, {after()} after",
        )
        until(
            lambda: all(value <= gauges_before[name] for name, value in _gauges(child).items()),
            message=lambda: f"{gauges_before} before, {_gauges(child)} after",
        )
    running.no_traceback()
    child.no_traceback()


def _holdings(child: Child) -> tuple[int, int]:
    """Descriptors, and threads, but for idle ones that trio keeps for a while for the next call."""
    return child.descriptors(), sum(not name.startswith("Trio thread") for name in _threads(child))


def _threads(child: Child) -> Iterator[str]:
    for task in Path(f"/proc/{child.pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            yield (task / "comm").read_text()


def _gauges(child: Child) -> dict[str, int]:
    """How much ``connect`` says that it holds: flows of each part, and tasks (SIGUSR1)."""
    seen = len(child.stderr)
    child.signal(signal.SIGUSR1)
    until(lambda: any(line.startswith("{") for line in child.stderr[seen:]))
    stats = json.loads(next(line for line in child.stderr[seen:] if line.startswith("{")))
    names = ["gateway.flows", "gateway.flows_held", "tunnel.streams", "tunnel.waiting"]
    names += ["tunnel.channels", "stack.flows"]
    gauges = {name: stats[name.split(".")[0]][name.split(".")[1]] for name in names}
    return {**gauges, "tasks": stats["tasks"]}


def _memory(child: Child) -> int:
    """Resident bytes."""
    return int(Path(f"/proc/{child.pid}/statm").read_text().split()[1]) * 4096
