"""``connect --forward`` and ``--allow-inbound``; and a worker's name that leads to a trap."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from tests.kits.netns import client, lab, machine, probe
from tests.kits.netns.child import Child, until
from tests.kits.netns.containers import container
from tests.kits.netns.lab import WORKER4, WORKER_PORT, ZKS, Lab, Namespace
from tests.kits.netns.leak import Detector, Packet, Prober, housekeeping
from tests.kits.netns.names_tls import names_over_tls
from tests.kits.netns.talk import ALL, BRIEF, NONE, PATIENT, echo, reaches
from tests.netns.host.conftest import nothing

PORT = 8022


@pytest.fixture
def host(net: Lab) -> Namespace:
    return net.add_host()


@pytest.fixture
def detector(host: Namespace) -> Iterator[Detector]:
    with contextlib.closing(Detector(host)) as found:
        yield found


@pytest.fixture
def inner(host: Namespace) -> Iterator[Namespace]:
    """A container of ``host``, with NAT."""
    with container(host, nat=True) as made:
        yield made


@pytest.mark.parametrize("forward", [False, True])
def test_what_the_host_forwards(
    net: Lab,
    worker: Child,
    host: Namespace,
    inner: Namespace,
    detector: Detector,
    forward: bool,
) -> None:
    """Through the tunnel, or refused at once; never beside it."""

    def seen_from() -> str:
        with inner.entered():
            return client.who(lab.FAR4)

    def at_once() -> bool:
        """Whether it is refused before a second SYN (a busy machine is not always in the way)."""
        began = time.monotonic()
        with pytest.raises(OSError, match="refused|unreachable|No route"):
            seen_from()
        return time.monotonic() - began < 0.9

    index = host.name.rsplit("host", 1)[1]
    assert seen_from() == f"25.1.{index}.2", "the control"
    before = machine.picture(host.path)
    tcp_to_worker = (socket.IPPROTO_TCP, WORKER4, WORKER_PORT)
    detector.allowed = lambda packet: (
        housekeeping(packet) or (packet.protocol, packet.destination, packet.port) == tcp_to_worker
    )
    options = ["--forward"] if forward else []
    with net.connect(host, *options) as child, detector.watching() as found:
        if forward:
            assert seen_from() == lab.MID4
        else:
            until(at_once, message=lambda: "not its first SYN was answered")
        with inner.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            with contextlib.suppress(OSError):
                for _ in range(5):
                    sock.sendto(b"\x12\x34\x01\0\0\1\0\0\0\0\0\0\4leak\4test\0\0\1\0\1",
                                (lab.NAMES4, 53))  # fmt: skip
    nothing(found)
    child.no_traceback()
    assert machine.difference(before, machine.picture(host.path)) == ""
    assert seen_from() == f"25.1.{index}.2"


def test_callers_from_outside(net: Lab, worker: Child, host: Namespace) -> None:
    """Answered the way they came, TCP and UDP; another port's are not."""
    own = f"25.1.{host.name.rsplit('host', 1)[1]}.2"

    def call(port: int, timeout: float = PATIENT) -> tuple[bool, bool]:
        return reaches(net.far, own, port, timeout=timeout)

    before = machine.picture(host.path)
    with echo(host, own, PORT), echo(host, own, PORT + 1):
        assert call(PORT) == call(PORT + 1) == ALL, "the control"
        with net.connect(host, "--allow-inbound", str(PORT)), host.entered():
            assert call(PORT) == ALL
            assert call(PORT + 1, BRIEF) == NONE
            assert client.who(lab.FAR4) == lab.MID4
    assert machine.difference(before, machine.picture(host.path)) == ""


def test_dns_over_tls_to_the_lan(net: Lab, worker: Child, host: Namespace) -> None:
    """``--dot block``: refused at once, as to any host, over TCP and UDP."""
    index = host.name.rsplit("host", 1)[1]
    host.ip(f"addr add {probe.CLIENT4}/24 dev up0")
    net.mid.ip(f"addr add {probe.NEIGHBOUR4}/24 dev h{index}")
    try:
        with echo(net.mid, probe.NEIGHBOUR4, 853), echo(net.mid, probe.NEIGHBOUR4, 8443):
            with net.connect(host):
                assert reaches(host, probe.NEIGHBOUR4, 853) == ALL, "the control"
            with net.connect(host, "--dot", "block"):
                assert reaches(host, probe.NEIGHBOUR4, 853, timeout=PATIENT) == NONE
                assert reaches(host, probe.NEIGHBOUR4, 8443) == ALL
                with host.entered():
                    assert client.connect_error(probe.NEIGHBOUR4, 853) == "ECONNREFUSED"
                    assert client.connect_error(lab.FAR4, 853) == "ECONNREFUSED"
    finally:
        net.mid.ip(f"addr del {probe.NEIGHBOUR4}/24 dev h{index}")


TRAPS = {"foreign": lab.FAR4, "LAN": probe.NEIGHBOUR4, "name server": lab.NAMES4}


@pytest.mark.parametrize("where", TRAPS)
def test_a_workers_name_that_leads_elsewhere(
    net: Lab, host: Namespace, detector: Detector, where: str
) -> None:
    """TunnelCrack: only our own sockets go to the address that the name is said to have."""
    trap, port = TRAPS[where], 8854
    host.ip(f"addr add {probe.CLIENT4}/24 dev up0")

    def expected(packet: Packet) -> bool:
        ours = ((trap, 8788), (lab.FAR4, port))
        tcp = packet.protocol == socket.IPPROTO_TCP
        return housekeeping(packet) or (tcp and (packet.destination, packet.port) in ours)

    detector.allowed = expected
    with names_over_tls(net, port, trap) as (_, options):
        url = "ws://worker.zks.test:8788"
        with net.connect(host, *options, "-v", url=url, ready=False) as child:
            child.wait_for("Trying again")
            told = Child("status", host.command([*ZKS, "status"]))
            told.wait()
            assert f"{trap}/32" in "\n".join(told.stdout), "the control"
            with Prober(host, rate=400) as prober, detector.watching() as found:
                prober.rounds(3)
            nothing(found)
        child.no_traceback()
