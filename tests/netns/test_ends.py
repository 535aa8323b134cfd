"""Every numeric option at both ends of what it says it takes, through a real device."""

from __future__ import annotations

import contextlib

import pytest

from tests.kits.netns import client, lab, servers
from tests.kits.netns.child import Child, until
from tests.kits.netns.lab import PYTHON, Lab

DUPLEX = [*PYTHON, "-m", "tests.kits.netns.client", "duplex", lab.FAR4, "1", "3000000"]


# (64,000 bytes is what one segment to the device holds; the MSS is 40 or 60 less than the MTU.)
@pytest.mark.parametrize("mtu", ["1280", "64041", "65535"])
def test_mtu(net: Lab, worker: Child, mtu: str) -> None:
    host = net.add_host()
    with net.connect(host, "--mtu", mtu) as connect, host.entered():
        for address in (lab.FAR4, lab.FAR6):
            client.duplex(address, servers.DUPLEX, 3_000_000, 3_000_000)
            client.download(address, servers.SOURCE, 3_000_000)
            for size in (0, 1, 1200, int(mtu) - 48, int(mtu) - 28, 65507):
                payload = bytes(min(size, 65507))
                assert client.udp_exchange(address, servers.ECHO, payload) == payload
    connect.no_traceback()


def test_mtu_of_run(net: Lab, worker: Child) -> None:
    with net.run(net.add_host(), *DUPLEX, options=["--mtu", "65535"]) as run:
        run.succeed()
    run.no_traceback()


def test_one_flow_at_a_time(net: Lab, worker: Child) -> None:
    host = net.add_host()
    with net.connect(host, "--max-flows", "1") as connect, host.entered():
        with client.connect(lab.FAR4, servers.ECHO) as only:
            # A limit of ours is met with silence: the kernel tries again.
            ended = client.connect_error(lab.FAR4, servers.ECHO, timeout=3)
            assert ended.startswith("nothing within"), ended
            only.sendall(b"a")
            assert only.recv(1) == b"a"
            client.reset(only)
        for _ in range(3):
            until(lambda: client.connect_error(lab.FAR4, servers.WHO) == "connected")
    connect.no_traceback()


@pytest.mark.parametrize(
    "options",
    [
        [
            "--max-flows",
            "65536",
            "--grace",
            "3600",
            "--keepalive",
            "86400",
            "--max-memory",
            "65536",
        ],
        ["--grace", "0", "--keepalive", "0", "--max-memory", "16"],
    ],
)
def test_the_other_ends(net: Lab, worker: Child, options: list[str]) -> None:
    host = net.add_host()
    with net.connect(host, *options) as connect, host.entered():
        client.duplex(lab.FAR4, servers.DUPLEX, 3_000_000, 3_000_000)
    connect.no_traceback()


def test_no_grace(net: Lab) -> None:
    """A lost tunnel is not waited for: what comes is refused at once, and works when it is back."""
    host, address = net.add_host(), f"{lab.WORKER4}:{lab.WORKER_PORT + 7}"
    with net.worker(listen=address) as worker:
        with net.connect(host, "--grace", "0", url=f"ws://{address}") as connect, host.entered():
            client.duplex(lab.FAR4, servers.DUPLEX, 1000, 1000)
            worker.process.kill()
            worker.wait()
            errors = {"ENETUNREACH", "EHOSTUNREACH", "ECONNREFUSED"}
            until(lambda: client.connect_error(lab.FAR4, servers.WHO, timeout=10) in errors)
            with net.worker(listen=address):
                until(lambda: client.connect_error(lab.FAR4, servers.WHO) == "connected")
        connect.no_traceback()


@pytest.mark.parametrize("most", [1, 1 << 20])
def test_streams_of_a_worker(net: Lab, most: int) -> None:
    host, address = net.add_host(), f"{lab.WORKER4}:{lab.WORKER_PORT + 8}"
    with (
        net.worker("--max-streams", str(most), listen=address) as worker,
        net.connect(host, url=f"ws://{address}") as connect,
        host.entered(),
        contextlib.ExitStack() as open_ones,
    ):
        for _ in range(min(most, 5)):
            open_ones.enter_context(client.connect(lab.FAR4, servers.ECHO))
        open_ones.close()
        until(lambda: client.connect_error(lab.FAR4, servers.WHO) == "connected")
    connect.no_traceback()
    worker.no_traceback()
