"""Nothing leaks from ``connect``, whatever happens to it; probes of every kind, 50 a second.

What leaves the host's uplink is seen below its firewall (see ``host/leak.py``); allowed is the
WebSocket to the worker, nothing else.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest
import trustme

from tests.netns import client, lab, machine, servers
from tests.netns.child import Child, until
from tests.netns.host import probe
from tests.netns.host.conftest import nothing
from tests.netns.host.leak import Detector, Packet, Prober, housekeeping
from tests.netns.lab import PYTHON, WORKER4, WORKER_PORT, ZKS, Lab, Namespace

CLOSED = r"\[#\] (sysctl|ip -4 route)"  # of the log: the step after the firewall


def to_worker(packet: Packet) -> bool:
    worker = (packet.destination, packet.port) == (WORKER4, WORKER_PORT)
    return housekeeping(packet) or (packet.protocol == socket.IPPROTO_TCP and worker)


@pytest.fixture(scope="module")
def host(net: Lab) -> Namespace:
    """A host on a private LAN, too, where another name server is."""
    host = net.add_host()
    index = host.name.rsplit("host", 1)[1]
    host.ip(f"addr add {probe.CLIENT4}/24 dev up0", f"addr add {probe.CLIENT6}/64 dev up0 nodad")
    net.mid.ip(
        f"addr add {probe.NEIGHBOUR4}/24 dev h{index}",
        f"addr add {probe.NEIGHBOUR6}/64 dev h{index} nodad",
    )
    return host


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


def test_the_detector_detects(host: Namespace, detector: Detector) -> None:
    """The control: without a VPN each kind of probe is seen."""
    with Prober(host, rate=400) as prober, detector.watching() as found:
        prober.rounds()
    seen = {(p.protocol, p.destination, p.port) for p in found}
    udp, tcp = socket.IPPROTO_UDP, socket.IPPROTO_TCP
    for far, names, lan in (
        (lab.FAR4, probe.NAMES4, probe.NEIGHBOUR4),
        (lab.FAR6, probe.NAMES6, probe.NEIGHBOUR6),
    ):
        icmp = socket.IPPROTO_ICMPV6 if ":" in far else socket.IPPROTO_ICMP
        assert seen >= {(udp, far, 9999), (tcp, far, 80), (icmp, far, 0)}
        assert seen >= {(udp, names, 53), (tcp, names, 53), (udp, lan, 53)}


@pytest.mark.parametrize("ipv6", ["tunnel", "block"])
def test_nothing_leaks(
    net: Lab, worker: Child, host: Namespace, detector: Detector, ipv6: str
) -> None:
    """Start, steady, reset, blackholed, stopped, killed, taken over, recovered, ended."""
    before = machine.picture(host.path)
    options = ["-v", "--ipv6", ipv6, "--grace", "1"]
    with Prober(host) as prober:
        with net.connect(host, *options, ready=False) as child:
            child.wait_for(CLOSED)
            with detector.watching() as found:
                child.wait_for("^ready: ")
                prober.rounds()
                with barred(net, "reject with tcp reset"):
                    child.wait_for("Trying again")
                    prober.rounds()
                until(lambda: _up(host))
                with barred(net, "drop"):
                    prober.rounds()
                child.signal(signal.SIGSTOP)
                prober.rounds()
                child.signal(signal.SIGCONT)
                child.signal(signal.SIGKILL)
                child.wait()
                prober.rounds()
        nothing(found)
        with detector.watching() as found:
            with net.connect(host, *options) as child:  # takes over
                prober.rounds()
                with host.entered():
                    assert client.who(lab.FAR4) == lab.MID4
                child.signal(signal.SIGKILL)
                child.wait()
                prober.rounds()
        nothing(found)
        with detector.watching() as found:
            Child("recover", host.command([*ZKS, "recover"])).succeed()
            prober.rounds()
        assert found, "the detector does not detect any more"
    assert machine.difference(before, machine.picture(host.path)) == ""
    with net.connect(host, *options):
        pass
    assert machine.difference(before, machine.picture(host.path)) == ""


def _up(host: Namespace) -> bool:
    child = Child("status", host.command([*ZKS, "status", "--json"]))
    child.wait()
    return bool(json.loads(child.stdout[0])["state"] == "connected")


def test_the_workers_name_is_looked_up_over_tls_only_and_followed(
    net: Lab, worker: Child, host: Namespace, detector: Detector
) -> None:
    """After the host is closed, by marked sockets; and again when the worker has moved."""
    moved, port = lab.MID4, "8853"
    authority = trustme.CA()
    ca, chain = net.directory / "names-ca.pem", net.directory / "names.pem"
    authority.cert_pem.write_to_path(ca)
    authority.issue_cert("dns.zks.test").private_key_and_cert_chain_pem.write_to_path(chain)
    answers = net.file("answers.json", json.dumps({"worker.zks.test": [WORKER4]}))

    def expected(packet: Packet) -> bool:
        there = (packet.destination, packet.port)
        return housekeeping(packet) or (
            packet.protocol == socket.IPPROTO_TCP
            and there in ((WORKER4, 8788), (moved, 8788), (lab.FAR4, int(port)))
        )

    detector.allowed = expected
    argv = [*PYTHON, "-m", "tests.netns.names_tls", lab.FAR4, port, str(chain), str(answers)]
    options = ["--dns", f"tls://dns.zks.test:{port}@{lab.FAR4}", "--ca-file", str(ca), "-v"]
    with contextlib.ExitStack() as stack:
        names = stack.enter_context(Child("names over TLS", net.far.command(argv)))
        names.wait_for("names over TLS are ready")
        first = stack.enter_context(net.worker(listen=f"{WORKER4}:8788"))
        url = "ws://worker.zks.test:8788"
        child = stack.enter_context(net.connect(host, *options, url=url, ready=False))
        child.wait_for(CLOSED)
        with detector.watching() as found, host.entered():
            child.wait_for("^ready: ")
            names.wait_for(r"asked for worker\.zks\.test\. A")
            assert client.who(lab.FAR4) == lab.MID4
            # (All at once: the server may be reading it.)
            net.file("answers-then.json", json.dumps({"worker.zks.test": [moved]})).replace(answers)
            first.process.kill()
            child.wait_for("Trying again")
            stack.enter_context(net.worker(listen=f"{moved}:8788"))
            until(lambda: _up(host), 90)
            assert client.who(lab.FAR4) == lab.MID4
            # Without the resolver, it is looked for where it was.
            names.process.kill()
        nothing(found)
        told = Child("status", host.command([*ZKS, "status"])).succeed()
        assert f"{moved}/32" in told and f"{lab.FAR4}/32" in told
    child.no_traceback()


def test_another_way_to_the_worker(
    net: Lab, worker: Child, host: Namespace, detector: Detector
) -> None:
    """Another default gateway: at once another WebSocket. Something else: nothing."""
    index = host.name.rsplit("host", 1)[1]
    net.mid.ip(f"addr add 25.1.{index}.3/24 dev h{index}")
    with net.connect(host, "-vv") as child, Prober(host) as prober, detector.watching() as found:
        child.wait_for(f"the way to {WORKER4} is ")
        with host.entered(), client.connect(lab.FAR4, servers.ECHO) as sock:
            host.ip("tuntap add dev other mode tap", "addr add 192.168.99.1/24 dev other")
            host.ip("link set other up")
            child.wait_for("the network has changed")
            prober.rounds()
            sock.sendall(b"still there")
            assert servers.receive_exactly(sock, 11) == b"still there"
            assert not any("the way to the worker has changed" in line for line in child.stderr)
            host.ip(f"route replace default via 25.1.{index}.3")
            began = time.monotonic()
            child.wait_for("the way to the worker has changed: connecting")
            child.wait_for("is up again")
            assert time.monotonic() - began < 10, "silence of the worker takes 25 s to be noticed"
            with pytest.raises(ConnectionResetError):
                sock.recv(100)
            assert client.who(lab.FAR4) == lab.MID4
        seen = len(child.stderr)
        host.ip("link del other", f"route replace default via 25.1.{index}.1")
        child.wait_for("the way to the worker has changed", after=seen)
    nothing(found)
    child.no_traceback()


def test_without_the_firewall(net: Lab, worker: Child, host: Namespace, detector: Detector) -> None:
    """``--kill-switch route``: what is not bound to a device does not leave, connected or killed.

    Nor do the kernel's errors about answers that came when nobody waited any more.
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
