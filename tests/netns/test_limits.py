"""A limit of the worker's is never told as the far end's answer: the kernel tries again."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from tests.kits.netns import client, lab, servers
from tests.kits.netns.child import Child, until
from tests.kits.netns.lab import Lab, Namespace


def refused(connect: Child) -> dict[str, int]:
    """ERRORs of the worker by code, as SIGUSR1 makes ``connect`` tell."""
    seen = len(connect.stderr)
    connect.signal(signal.SIGUSR1)
    until(lambda: any(line.startswith("{") for line in connect.stderr[seen:]))
    line = next(line for line in connect.stderr[seen:] if line.startswith("{"))
    found: dict[str, int] = json.loads(line)["gateway"]["refused"]
    return found


@contextlib.contextmanager
def patient(host: Namespace) -> Iterator[None]:
    """In ``host``, whose SYNs are sent again for a minute."""
    host.sysctl("net.ipv4.tcp_syn_retries=5")
    with host.entered():
        yield


def gets_in_later(connect: Child, host: Namespace, first: socket.socket) -> None:
    """A connection that is over the limit while ``first`` is open connects when that has ended."""

    def attempt() -> str:
        with host.entered():
            return client.connect_error(lab.FAR4, servers.ECHO, timeout=100)

    with ThreadPoolExecutor(1) as threads:
        second = threads.submit(attempt)
        until(lambda: "429" in refused(connect))
        assert not second.done(), second.result()
        first.sendall(b"unharmed")
        assert servers.receive_exactly(first, 8) == b"unharmed"
        client.reset(first)
        assert second.result(100) == "connected"


def test_over_the_number_of_streams(net: Lab) -> None:
    host, listen = net.add_host(), f"{lab.WORKER4}:8799"
    with (
        net.worker("--max-streams", "1", listen=listen),
        net.connect(host, url=f"ws://{listen}") as connect,
        patient(host),
    ):
        gets_in_later(connect, host, client.connect(lab.FAR4, servers.ECHO))
    connect.no_traceback()


def two_ports(place: Namespace) -> str:
    """A range of two ports that no connection has, nor one that has ended within a minute."""
    shown = Child("ss", place.command(["ss", "-Htan"])).succeed()
    used = {int(line.split()[3].rpartition(":")[2]) for line in shown.splitlines()}
    first = next(port for port in range(41000, 65000, 2) if not used & {port, port + 1})
    return f"{first} {first + 1}"


def test_without_a_local_port(net: Lab, worker: Child) -> None:
    host = net.add_host()
    with net.connect(host) as connect, patient(host):
        try:
            net.mid.sysctl(f"net.ipv4.ip_local_port_range={two_ports(net.mid)}")
            with client.connect(lab.FAR4, servers.ECHO):
                gets_in_later(connect, host, client.connect(lab.FAR4, servers.ECHO))
        finally:
            net.mid.sysctl("net.ipv4.ip_local_port_range=10000 65000")
    connect.no_traceback()
