"""Connections whose application is gone without a word end here and in the worker; the others stay.

A kernel says nothing when it forgets a half-closed connection, when its RST gets lost, or when its
machine goes away. The stack asks; the times of both are made short here.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.kits.netns import client, lab, servers
from tests.kits.netns.child import Child, until
from tests.kits.netns.commands import counters
from tests.kits.netns.lab import PYTHON, Lab, Namespace

WAIT = 120  # seconds for what takes a few
#: Holds a connection until it is told to use it.
HOLDER = """
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 120)
print("connected", flush=True)
sys.stdin.readline()
s.sendall(b"still there")
print("got", s.recv(100), flush=True)
"""


def open_flows(connect: Child) -> int:
    told = counters(connect)
    return max(told["gateway"]["flows"], told["stack"]["flows"])


@pytest.fixture
def host(net: Lab) -> Namespace:
    host = net.add_host()
    host.sysctl("net.ipv4.tcp_fin_timeout=2")
    return host


@pytest.fixture
def own(net: Lab) -> Iterator[tuple[Child, str]]:
    """A worker whose descriptors no other test has, and its URL."""
    address = f"{lab.WORKER4}:{lab.WORKER_PORT + 6}"
    with net.worker(listen=address) as worker:
        yield worker, f"ws://{address}"
    worker.no_traceback()


def test_what_an_application_has_closed_and_its_kernel_forgotten_ends(
    net: Lab, host: Namespace, own: tuple[Child, str]
) -> None:
    """The far end never says anything, so nothing else would end it."""
    worker, url = own
    count = 20
    options = ["--max-flows", str(count + 2), "--keepalive", "3"]
    with net.connect(host, *options, url=url) as connect, host.entered():
        idle = client.connect(lab.FAR4, servers.ECHO)
        half = client.connect(lab.FAR6, servers.HANG)
        half.shutdown(socket.SHUT_WR)
        until(lambda: open_flows(connect) == 2, WAIT)
        before = worker.descriptors()
        for _ in range(count):
            with client.connect(lab.FAR4, servers.HANG) as sock:
                sock.sendall(b"x")
        until(lambda: open_flows(connect) == 2, WAIT)
        until(lambda: worker.descriptors() == before, WAIT)
        probes = counters(connect)["stack"]["keepalive_probes"]
        assert probes >= count, "it is by asking that their end was found out"
        until(lambda: counters(connect)["stack"]["keepalive_probes"] >= probes + 4, WAIT)
        assert open_flows(connect) == 2
        idle.sendall(b"still there")
        assert servers.receive_exactly(idle, 11) == b"still there"
        idle.close()
        half.close()
        until(lambda: open_flows(connect) == 0, WAIT)
    connect.no_traceback()


def test_an_upload_whose_application_is_gone_arrives_whole(
    net: Lab, host: Namespace, own: tuple[Child, str]
) -> None:
    """The far end takes it long after it was closed, and forgotten by the application's kernel."""
    total = 100_000  # what the worker takes at once
    argv = [*PYTHON, "-c", LATE_SINK, lab.FAR4, "9100"]
    with (
        Child("late sink", net.far.command(argv), stdin=subprocess.PIPE) as sink,
        net.connect(host, "--keepalive", "1", url=own[1]) as connect,
        host.entered(),
    ):
        sink.wait_for("listening")
        with client.connect(lab.FAR4, 9100) as sock:
            for chunk in servers.pattern(total):
                sock.sendall(chunk)
        until(lambda: open_flows(connect) == 0, WAIT)
        assert counters(connect)["stack"]["keepalive_probes"] > 0
        assert sink.process.stdin is not None
        sink.process.stdin.close()
        sink.wait_for(f"{total} {servers.pattern_digest(total)}")
    connect.no_traceback()


#: Reads a connection when it is told to.
LATE_SINK = """
import hashlib, socket, sys
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
server.bind((sys.argv[1], int(sys.argv[2])))
server.listen()
print("listening", flush=True)
sock, _ = server.accept()
sys.stdin.readline()
count, digest = 0, hashlib.sha256()
while data := sock.recv(1 << 16):
    count += len(data)
    digest.update(data)
print(count, digest.hexdigest(), flush=True)
"""


#: As a full queue of the device drops them.
DROP_RESETS = """
table inet lossy { chain out { type filter hook output priority 500;
oifname "zks0" tcp flags & rst == rst drop; }; }
"""


def test_a_reset_that_got_lost_is_found_out(net: Lab, host: Namespace, worker: Child) -> None:
    with net.connect(host, "--keepalive", "2") as connect, host.entered():
        socks = [client.connect(lab.FAR4, servers.ECHO) for _ in range(10)]
        nft(DROP_RESETS)
        for sock in socks:
            client.reset(sock)
        time.sleep(0.5)
        assert open_flows(connect) == 10
        nft("delete table inet lossy")
        until(lambda: open_flows(connect) == 0, WAIT)
        assert counters(connect)["stack"]["keepalive_ended"] == 0
    connect.no_traceback()


def nft(rules: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True, timeout=60)


def test_a_program_that_is_stopped_keeps_its_connection(
    net: Lab, host: Namespace, worker: Child
) -> None:
    argv = [*PYTHON, "-c", HOLDER, lab.FAR4, str(servers.ECHO)]
    with net.connect(host, "--keepalive", "1") as connect:
        with net.application(host, *argv, stdin=subprocess.PIPE) as program:
            program.wait_for("connected")
            program.signal(signal.SIGSTOP)
            until(lambda: counters(connect)["stack"]["keepalive_probes"] >= 5, WAIT)
            assert open_flows(connect) == 1
            program.signal(signal.SIGCONT)
            assert program.process.stdin is not None
            program.process.stdin.close()
            program.wait_for("got b'still there'")
    connect.no_traceback()


def test_a_container_that_is_removed_takes_its_connections_along(
    net: Lab, host: Namespace, worker: Child
) -> None:
    """Its kernel is gone, the bridge stays: nothing answers, and nothing says so."""
    host.sysctl("net.ipv4.ip_forward=1")
    host.ip(
        "link add bridge0 type bridge", "addr add 10.77.1.1/24 dev bridge0", "link set bridge0 up"
    )
    container = net.namespace("container")
    host.ip(
        f"link add inside0 type veth peer name eth0 netns {container.name}",
        "link set inside0 master bridge0 up",
    )
    container.ip(
        "addr add 10.77.1.2/24 dev eth0", "link set eth0 up", "route add default via 10.77.1.1"
    )
    with net.connect(host, "--keepalive", "1", "--forward") as connect:
        with container.entered():
            sock = client.connect(lab.FAR4, servers.ECHO)
        host.ip("link del inside0")  # as its namespace would take it along
        assert open_flows(connect) == 1
        until(lambda: open_flows(connect) == 0, WAIT)
        assert counters(connect)["stack"]["keepalive_ended"] == 1
        sock.close()
    connect.no_traceback()
