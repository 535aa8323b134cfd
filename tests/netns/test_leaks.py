"""Nothing leaks from ``connect``, whatever happens to it; probes of every kind, of the host and of
two containers behind it, 150 a second each.

What leaves the host's uplink is seen below its firewall (see ``host/leak.py``); allowed is the
WebSocket to the worker, nothing else.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kits.netns import client, lab, leak, machine, probe, servers
from tests.kits.netns.child import Child, until
from tests.kits.netns.commands import current_state
from tests.kits.netns.containers import container
from tests.kits.netns.disk import disk, fill
from tests.kits.netns.lab import WORKER4, WORKER_PORT, ZKS, Lab, Namespace
from tests.kits.netns.leak import Detector, Packet, Prober, Probers, housekeeping
from tests.kits.netns.names_tls import answers, names_over_tls
from tests.netns.host.conftest import nothing

CLOSED = r"\[#\] (sysctl|ip -4 route)"  # of the log: the step after the firewall


def to_worker(packet: Packet) -> bool:
    worker = (packet.destination, packet.port) == (WORKER4, WORKER_PORT)
    return housekeeping(packet) or (packet.protocol == socket.IPPROTO_TCP and worker)


@pytest.fixture(scope="module")
def host(net: Lab) -> Iterator[Namespace]:
    """A host on a private LAN, too, where another name server is."""
    host = net.add_host()
    index = host.name.rsplit("host", 1)[1]
    host.ip(f"addr add {probe.CLIENT4}/24 dev up0", f"addr add {probe.CLIENT6}/64 dev up0 nodad")
    lan = (f"{probe.NEIGHBOUR4}/24 dev h{index}", f"{probe.NEIGHBOUR6}/64 dev h{index}")
    net.mid.ip(*(f"addr add {address} nodad" for address in lan))
    yield host
    # Others of the same lab have that LAN, too.
    net.mid.ip(*(f"addr del {address}" for address in lan))


@pytest.fixture(scope="module")
def containers(host: Namespace) -> Iterator[list[Namespace]]:
    """Of that host: one that is routed only, one with NAT."""
    with container(host, 1) as routed, container(host, 2, nat=True) as nat:
        yield [routed, nat]


@pytest.fixture
def detector(host: Namespace) -> Iterator[Detector]:
    with contextlib.closing(Detector(host)) as found:
        found.allowed = to_worker
        yield found


@contextlib.contextmanager
def barred(net: Lab, verdict: str) -> Iterator[None]:
    """What goes to the worker meets this in ``mid``."""
    table = (
        "table ip bar {\nchain arriving {\ntype filter hook input priority 0;\n"
        f"ip daddr {WORKER4} tcp dport {WORKER_PORT} {verdict}\n}}\n}}\n"
    )
    nft(net.mid, table)
    try:
        yield
    finally:
        nft(net.mid, "delete table ip bar")


def nft(net: Namespace, text: str) -> None:
    argv = ["nsenter", f"--net={net.path}", "nft", "-f", "-"]
    subprocess.run(argv, input=text.encode(), check=True, timeout=60)


@pytest.mark.parametrize("origin", leak.ORIGINS)
def test_the_detector_detects(
    host: Namespace, containers: list[Namespace], detector: Detector, origin: str
) -> None:
    """The control: without a VPN each kind of probe is seen, whichever user has sent it."""
    with Probers(host, containers, rate=400) as probers:
        chosen = probers.each[leak.ORIGINS.index(origin)]
        for other in probers.each:
            if other is not chosen:
                other.stop()
        with detector.watching() as found:
            chosen.rounds()
    leak.check_control(found, origin)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", ["--ipv6 tunnel", "--ipv6 block", "--forward --allow-inbound 22"]
)
def test_nothing_leaks(
    net: Lab,
    worker: Child,
    host: Namespace,
    containers: list[Namespace],
    detector: Detector,
    options: str,
) -> None:
    """Start, steady, reset, blackholed, after a pause, stopped, killed, taken over, recovered."""
    before = machine.picture(host.path)
    given = ["-v", *options.split(), "--grace", "1"]
    with Probers(host, containers, rate=150) as probers:
        with net.connect(host, *given, ready=False) as child:
            child.wait_for(CLOSED)
            with detector.watching() as found:
                child.wait_for("^ready: ")
                probers.rounds()
                with barred(net, "reject with tcp reset"):
                    child.wait_for("Trying again")
                    probers.rounds()
                until(lambda: current_state(host) == "connected")
                with barred(net, "drop"):
                    probers.rounds()
            nothing(found)
            with detector.watching() as found:
                Child("pause", host.command([*ZKS, "pause", "--for", "5m"])).succeed()
                probers.rounds()
            assert {p.source for p in found} >= {probe.CLIENT6, "172.30.1.2"}, "open, as asked for"
            Child("pause", host.command([*ZKS, "pause", "--end"])).succeed()
            with detector.watching() as found:
                probers.rounds()
                child.signal(signal.SIGSTOP)
                probers.rounds()
                child.signal(signal.SIGCONT)
                child.signal(signal.SIGKILL)
                child.wait()
                probers.rounds()
        nothing(found)
        with detector.watching() as found:
            with net.connect(host, *given) as child:  # takes over
                probers.rounds()
                for inside in (host, *(containers if "--forward" in options else ())):
                    with inside.entered():
                        assert client.who(lab.FAR4) == lab.MID4
                child.signal(signal.SIGKILL)
                child.wait()
                probers.rounds()
        nothing(found)
        with detector.watching() as found:
            Child("recover", host.command([*ZKS, "recover"])).succeed()
            probers.rounds()
        assert found, "the detector does not detect any more"
    assert machine.difference(before, machine.picture(host.path)) == ""
    with net.connect(host, *given):
        pass
    assert machine.difference(before, machine.picture(host.path)) == ""


def test_a_full_disk_opens_nothing(
    net: Lab,
    worker: Child,
    host: Namespace,
    containers: list[Namespace],
    detector: Detector,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``--always-on`` closes without a journal; what fills up later does not end ``connect``."""
    before = machine.picture(host.path)
    why = "cannot write the journal /run/zks_lwip/net-"
    with Probers(host, containers, rate=200) as probers:
        with disk(tmp_path / "full", "size=8k") as state:
            monkeypatch.setattr(host, "state", state)
            with detector.watching() as found, net.connect(host, ready=False) as child:
                assert child.wait() == 4 and why in child.stderr[-1], child.output
                probers.rounds()
            assert found, "the control"
            with net.connect(host, "--always-on", ready=False) as child:
                assert child.wait() == 4 and why in child.stderr[-1], child.output
            assert any("stays closed" in line for line in child.stderr)
            for command, code in (("status", 35), ("disconnect", 4)):
                with Child(command, host.command([*ZKS, command])) as child:
                    assert child.wait() == code
                assert "the machine is closed" in child.output
            with detector.watching() as found:
                probers.rounds()
            nothing(found)
            Child("recover", host.command([*ZKS, "recover"])).succeed()
        assert machine.difference(before, machine.picture(host.path)) == ""
        with disk(tmp_path / "fills", "size=256k") as state:
            monkeypatch.setattr(host, "state", state)
            with net.connect(host, "-v") as child:
                fill(state)
                with detector.watching() as found:
                    for n in range(3):
                        host.ip(f"addr add 10.44.{n}.1/24 dev up0")
                        child.wait_for(rf"rule add .* to 10\.44\.{n}\.0/24")
                    probers.rounds()
                    with host.entered():
                        assert client.who(lab.FAR4) == lab.MID4
                nothing(found)
                host.ip(*(f"addr del 10.44.{n}.1/24 dev up0" for n in range(3)))
                assert child.stop() == 0
            child.no_traceback()
    assert machine.difference(before, machine.picture(host.path)) == ""


def test_the_workers_name_is_looked_up_over_tls_only_and_followed(
    net: Lab, worker: Child, host: Namespace, detector: Detector
) -> None:
    """After the host is closed, by marked sockets; and again when the worker has moved."""
    moved, port = lab.MID4, 8853

    def expected(packet: Packet) -> bool:
        there = (packet.destination, packet.port)
        return housekeeping(packet) or (
            packet.protocol == socket.IPPROTO_TCP
            and there in ((WORKER4, 8788), (moved, 8788), (lab.FAR4, port))
        )

    detector.allowed = expected
    with contextlib.ExitStack() as stack:
        names, options = stack.enter_context(names_over_tls(net, port, WORKER4))
        first = stack.enter_context(net.worker(listen=f"{WORKER4}:8788"))
        url = "ws://worker.zks.test:8788"
        child = stack.enter_context(net.connect(host, *options, "-v", url=url, ready=False))
        child.wait_for(CLOSED)
        with detector.watching() as found, host.entered():
            child.wait_for("^ready: ")
            names.wait_for(r"asked for worker\.zks\.test\. A")
            assert client.who(lab.FAR4) == lab.MID4
            answers(net, moved)
            first.process.kill()
            child.wait_for("Trying again")
            stack.enter_context(net.worker(listen=f"{moved}:8788"))
            until(lambda: current_state(host) == "connected")
            assert client.who(lab.FAR4) == lab.MID4
            # Without the resolver, it is looked for where it was.
            names.process.kill()
        nothing(found)
        told = Child("status", host.command([*ZKS, "status"])).succeed()
        assert f"{moved}/32" in told and f"{lab.FAR4}/32" in told
    child.no_traceback()


def test_another_way_to_the_worker(
    net: Lab, worker: Child, host: Namespace, containers: list[Namespace], detector: Detector
) -> None:
    """Another default gateway: at once another WebSocket. Something else: nothing."""
    index = host.name.rsplit("host", 1)[1]
    net.mid.ip(f"addr add 25.1.{index}.3/24 dev h{index}")
    with (
        net.connect(host, "-vv") as child,
        Probers(host, containers, rate=100) as probers,
        detector.watching() as found,
    ):
        child.wait_for(f"the way to {WORKER4} is ")
        with host.entered(), client.connect(lab.FAR4, servers.ECHO) as sock:
            host.ip("tuntap add dev other mode tap", "addr add 192.168.99.1/24 dev other")
            host.ip("link set other up")
            child.wait_for("the network has changed")
            probers.rounds()
            sock.sendall(b"still there")
            assert servers.receive_exactly(sock, 11) == b"still there"
            assert not any("the way to the worker has changed" in line for line in child.stderr)
            host.ip(f"route replace default via 25.1.{index}.3")
            began = time.monotonic()
            child.wait_for("the way to the worker has changed: connecting")
            child.wait_for("is up again")
            assert time.monotonic() - began < 20, "silence of the worker takes 25 s to be noticed"
            sock.sendall(b"and here")
            assert servers.receive_exactly(sock, 8) == b"and here"
            assert client.who(lab.FAR4) == lab.MID4
        seen = len(child.stderr)
        host.ip("link del other", f"route replace default via 25.1.{index}.1")
        child.wait_for("the way to the worker has changed", after=seen)
    nothing(found)
    child.no_traceback()


def test_without_the_firewall(net: Lab, worker: Child, host: Namespace, detector: Detector) -> None:
    """``--kill-switch route``: what is not bound to a device does not leave, connected or killed.

    Nor do the kernel's errors about answers that came when no program waited any more.
    """
    unbound = ("udp4", "tcp4", "ping4", "dns4", "landns4", "udp6", "tcp6", "dns6", "landns6")
    with (
        net.connect(host, "--kill-switch", "route") as child,
        Prober(host, *unbound, rate=200) as prober,
    ):
        with detector.watching() as found:
            prober.rounds(20)
            child.signal(signal.SIGKILL)
            child.wait()
            prober.rounds(8)
    nothing(found)
    Child("recover", host.command([*ZKS, "recover"])).succeed()
