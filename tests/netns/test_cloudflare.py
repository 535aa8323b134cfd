"""``connect`` and ``run`` through the Cloudflare Worker of the examples, under workerd."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kits.netns import client, lab, servers
from tests.kits.netns.child import Child, until
from tests.kits.netns.lab import PYTHON, WORKER4, ZKS, Lab, Namespace
from tests.kits.workerd import copy_sources, find_workerd, write_config

PORT, DOH_PORT = 8799, 8053
URL = f"ws://{WORKER4}:{PORT}"
UDP_NOTE = "no UDP: QUIC falls back to TCP, games and calls that need UDP fail"


@contextlib.contextmanager
def serving(net: Lab, folder: Path, port: int = PORT) -> Iterator[Child]:
    """Workerd in the worker's namespace, as Cloudflare would run it."""
    program = find_workerd()
    if program is None:
        pytest.skip("needs workerd: python -m tests.kits.workerd")
    copy_sources(folder, {})
    variables = {"TOKEN": lab.TOKEN, "RESOLVER": f"http://{lab.NAMES4}:{DOH_PORT}/dns-query"}
    config = write_config(folder, variables, main="index.js", address=f"{WORKER4}:{port}")
    with Child("workerd", net.mid.command([program, "serve", str(config)])) as running:

        def listens() -> bool:
            with net.mid.entered():
                return client.connect_error(WORKER4, port) == "connected"

        until(listens)
        yield running
        running.process.kill()  # told to end, it waits for its WebSockets
        running.wait()


class Tunnel:
    """A host whose traffic goes through the Worker."""

    def __init__(self, host: Namespace, connect: Child) -> None:
        self.host = host
        self.connect = connect


@pytest.fixture(scope="module")
def cloud(net: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    doh = net.far.command([*PYTHON, "-m", "tests.kits.netns.doh", lab.NAMES4, str(DOH_PORT)])
    with Child("doh", doh) as resolver:
        resolver.wait_for("doh is ready")
        with serving(net, tmp_path_factory.mktemp("cloud")) as running:
            yield running


@pytest.fixture(scope="module")
def tunnel(net: Lab, cloud: Child) -> Iterator[Tunnel]:
    host = net.add_host()
    with net.connect(host, url=URL) as connect:
        yield Tunnel(host, connect)
    connect.no_traceback()
    assert connect.process.returncode == 0


def test_ready_and_status_say_what_is_not_carried(net: Lab, tunnel: Tunnel) -> None:
    (ready,) = (line for line in tunnel.connect.stdout if line.startswith("ready: "))
    assert ready == f"ready: zks0 → {URL}/tunnel, which carries {UDP_NOTE}"
    told = Child("status", tunnel.host.command([*ZKS, "status"]))
    lines = told.succeed().splitlines()
    assert f"the worker carries {UDP_NOTE}" in lines
    assert "the worker carries no ping" in lines


def test_names_and_pages(net: Lab, tunnel: Tunnel) -> None:
    for name in ("four.zks.test", "six.zks.test", "far.zks.test"):
        page = net.application(
            tunnel.host, "curl", "-sS", "-m", "90", f"http://{name}:{servers.HTTP}/hello"
        )
        assert page.succeed() in (f"hello {lab.MID4}", f"hello {lab.MID6}")


def test_run(net: Lab, cloud: Child, run_host: Namespace) -> None:
    page = f"http://far.zks.test:{servers.HTTP}/hello"
    child = net.run(run_host, "curl", "-sS", "-m", "50", page, url=URL)
    assert child.succeed() in (f"hello {lab.MID4}", f"hello {lab.MID6}")
    child.no_traceback()


def test_ends_of_streams(tunnel: Tunnel) -> None:
    with tunnel.host.entered():
        client.client_closes_first(lab.FAR4, 3_000_000)
        client.server_closes_first(lab.FAR6, 3_000_000)
        assert client.connect_error(lab.FAR4, servers.CLOSED) == "ECONNREFUSED"
        with client.connect(lab.FAR4, servers.RESET) as sock:
            sock.sendall(b"x")
            assert sock.recv(1)
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        client.duplex(lab.FAR4, servers.DUPLEX, 20_000_000, 20_000_000)


def test_two_hundred_connections(tunnel: Tunnel) -> None:
    """At once, over objects that carry a hundred each; and one after the other."""
    with tunnel.host.entered():
        client.open_at_once(lab.FAR4, servers.IDLE, 200)
        for _ in range(200):
            assert client.who(lab.FAR4) == lab.MID4


def test_applications_are_told_at_once_that_there_is_no_udp(tunnel: Tunnel) -> None:
    with tunnel.host.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(60)
        sock.connect((lab.FAR4, servers.ECHO))
        sock.send(b"x")
        with pytest.raises(ConnectionRefusedError) as refused:
            sock.recv(1)
        assert refused.value.errno == errno.ECONNREFUSED


def test_an_object_that_is_lost(net: Lab, tmp_path: Path) -> None:
    """Its connections are reset, never ended in order; new ones work when it is back."""
    host, port = net.add_host(), PORT + 1
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(serving(net, tmp_path / "first", port))
        stack.enter_context(net.connect(host, url=f"ws://{WORKER4}:{port}"))
        stack.enter_context(host.entered())
        sock = stack.enter_context(client.connect(lab.FAR4, servers.ECHO))
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        first.process.kill()
        first.wait()
        stack.enter_context(serving(net, tmp_path / "second", port))
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
        assert client.who(lab.FAR4) == lab.MID4
