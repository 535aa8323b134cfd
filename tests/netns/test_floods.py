"""Floods and size through the product: excess is refused, the rest goes on, memory comes back."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator

import pytest

from tests.kits.netns import client, floods, lab, servers
from tests.kits.netns.child import Child, until
from tests.kits.netns.commands import counters, flows
from tests.kits.netns.floods import Flows, resident
from tests.kits.netns.lab import PYTHON, Lab, Namespace

MB = 1 << 20
pytestmark = pytest.mark.timeout(900)  # in all; what is waited for has limits of its own
DRAINED = 150  # seconds: last segments that were lost are sent again, each time later

NO_RESUME = ("--resume", "0")
"""However a connect ends, far ends are not held for it: the next test needs their descriptors."""


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    with floods.descriptors(18_000):
        yield


@pytest.fixture
def roomy(net: Lab) -> Namespace:
    """A host that may have 20,000 connections to one server at a time."""
    host = net.add_host()
    host.sysctl("net.ipv4.ip_local_port_range=10000 65000", "net.ipv4.tcp_syn_retries=6")
    net.mid.sysctl("net.ipv4.ip_local_port_range=10000 65000")
    return host


def address_of(host: Namespace) -> str:
    """The address that connections through the tunnel have in ``host``."""
    with host.entered(), socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.connect((lab.FAR4, 9))
        return str(sock.getsockname()[0])


def test_an_idle_flow_costs_little(
    net: Lab, worker: Child, roomy: Namespace, many_descriptors: None
) -> None:
    """Memory at the start, and of each of 2,000 and 5,000 flows; those are alive all the while."""
    with net.connect(roomy, *NO_RESUME) as connect, roomy.entered():
        client.duplex(lab.FAR4, servers.DUPLEX, 1000, 1000)
        start = resident(connect.pid)
        with Flows(lab.FAR4, servers.IDLE, 2000) as some:
            assert (len(some.open), some.failed) == (2000, {})
            time.sleep(1)
            of_2000 = (resident(connect.pid) - start) / 2000
            with Flows(lab.FAR6, servers.IDLE, 3000) as more:
                assert (len(more.open), more.failed) == (3000, {})
                time.sleep(1)
                of_5000 = (resident(connect.pid) - start) / 5000
                print(
                    f"RSS at start {start / MB:.1f} MB;"
                    f" a flow of 2,000: {of_2000:.0f} bytes, of 5,000: {of_5000:.0f} bytes"
                )
                before, since = connect.cpu_seconds(), time.monotonic()
                time.sleep(1)
                busy = (connect.cpu_seconds() - before) / (time.monotonic() - since)
                print(f"5,000 idle flows take {100 * busy:.1f} % of a core")
                client.duplex_many(lab.FAR4, servers.DUPLEX, 4, 20_000_000)
                assert some.echo() == 2000
                assert more.echo() == 3000
        assert "ZKS_LWIP_SANITIZE" in os.environ or start <= 60 * MB
        assert "ZKS_LWIP_SANITIZE" in os.environ or of_5000 <= 3072
    connect.no_traceback()


def test_20000_flows_meet_the_limit(
    net: Lab, worker: Child, roomy: Namespace, many_descriptors: None
) -> None:
    with net.connect(roomy, "--max-flows", "8192", *NO_RESUME) as connect, roomy.entered():
        start = resident(connect.pid)
        with client.connect(lab.FAR4, servers.ECHO) as old:
            with Flows(lab.FAR4, servers.IDLE, 8191) as flood:
                assert (len(flood.open), flood.failed) == (8191, {})
                # Silence, which is no answer of the far end's: their kernels try again.
                for rest in (6000, 5809):
                    with Flows(lab.FAR4, servers.IDLE, rest, pending=rest, syn_retries=1) as over:
                        assert (over.open, over.failed) == ([], {"ETIMEDOUT": rest})
                peak = resident(connect.pid)
                old.sendall(b"still there")
                assert servers.receive_exactly(old, 11) == b"still there"
                assert flood.echo() == 8191
            old.sendall(b"and after")
            assert servers.receive_exactly(old, 9) == b"and after"
            until(lambda: flows(connect) <= 1, DRAINED)
            with Flows(lab.FAR6, servers.IDLE, 8191) as flood:
                assert (len(flood.open), flood.failed) == (8191, {})
                again = resident(connect.pid)
        print(f"RSS: {start / MB:.0f} MB, then {peak / MB:.0f}, and again {again / MB:.0f} MB")
        # What the first flood took has come back, and serves the second one.
        assert again - start < 1.6 * (peak - start)
    connect.no_traceback()


def test_16000_streams_on_one_worker(net: Lab, roomy: Namespace, many_descriptors: None) -> None:
    address = f"{lab.WORKER4}:{lab.WORKER_PORT + 5}"
    options = ["--max-flows", "17000"]
    with (
        net.worker(listen=address) as worker,
        net.connect(roomy, *options, url=f"ws://{address}") as connect,
        roomy.entered(),
    ):
        before = resident(worker.pid)
        with Flows(lab.FAR4, servers.IDLE, 16_000) as streams:
            assert (len(streams.open), streams.failed) == (16_000, {})
            grown = (resident(worker.pid) - before) / 16_000
            print(f"a stream costs the worker {grown:.0f} bytes")
            assert streams.echo() == 16_000
            client.duplex_many(lab.FAR4, servers.DUPLEX, 4, 20_000_000)
    connect.no_traceback()
    worker.no_traceback()


def test_100000_syns_a_second(net: Lab, worker: Child, roomy: Namespace) -> None:
    """To open, closed and silent ports: what was there goes on, some get in, none is left.

    Those who get in do so while the flood begins: at its height a held SYN gives way to later ones
    before a worker can have answered, as the second number of connections shows.
    """
    with net.connect(roomy) as connect, roomy.entered():
        start = resident(connect.pid)
        argv = [*PYTHON, "-m", "tests.kits.netns.floods", "100000", "10", address_of(roomy)]
        with client.connect(lab.FAR4, servers.ECHO) as old:
            with Child("flood", roomy.command([*argv, lab.FAR4, lab.SILENT4])) as flood:
                refused, late, peak, trips, opened = 0, 0, start, [], []
                while flood.process.poll() is None:
                    begun = time.monotonic()
                    old.sendall(b"still there")
                    assert servers.receive_exactly(old, 11) == b"still there"
                    trips.append(time.monotonic() - begun)
                    try:
                        opened.append(client.who(lab.FAR6))
                        late += "flooding" in flood.stdout
                    except (ConnectionRefusedError, TimeoutError):  # its SYN gave way, or was lost
                        refused += 1
                    peak = max(peak, resident(connect.pid))
                    time.sleep(0.05)
                sent = int(flood.succeed().split()[-1])
            old.sendall(b"and after")
            assert servers.receive_exactly(old, 9) == b"and after"
        told = counters(connect)
        taken = told["stack"]["flows_opened"] + told["stack"]["flows_over_limit"]
        print(
            f"of {sent / 10:.0f} SYNs a second {taken / 10:.0f} were new flows to the stack;"
            f" echo {max(trips):.2f} s at worst; {len(opened)} connections were made meanwhile,"
            f" {late} at its height, {refused} refused;"
            f" RSS {start / MB:.0f} MB, {peak / MB:.0f} at most, now"
            f" {resident(connect.pid) / MB:.0f}"
        )
        client.duplex_many(lab.FAR4, servers.DUPLEX, 4, 20_000_000)
        assert opened
        assert peak - start < 128 * MB
        until(lambda: flows(connect) <= 1, DRAINED)
    connect.no_traceback()
    worker.no_traceback()
