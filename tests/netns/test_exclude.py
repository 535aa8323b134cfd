"""``exclude``: a program beside the tunnel, with consent, and nothing else with it.

Needs a kernel that tells packets by the cgroup (v2) of their socket.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kits.netns import client, lab, leak, machine, probe, servers
from tests.kits.netns.child import Child, until
from tests.kits.netns.commands import direct, run, status, wait_for_no_tun
from tests.kits.netns.lab import NOBODY, PYTHON, USER, ZKS, Lab, Namespace
from tests.kits.netns.leak import Detector, Packet, Prober

ALLOW = ["--allow-exclude", "nobody"]
CLIENT = [*PYTHON, "-m", "tests.kits.netns.client"]


@pytest.fixture(scope="module")
def host(net: Lab) -> Namespace:
    """A host whose processes find cgroup v2."""
    host = net.add_host()
    host.state = net.directory / f"state-of-{host.name}"
    host.state.mkdir(mode=0o700)
    host.cgroups = True
    if Child("look", host.command(["true"])).wait() != 0:
        pytest.skip("cgroup v2 cannot be mounted here")
    return host


@pytest.fixture
def unchanged(host: Namespace) -> Iterator[None]:
    """What a test does to ``host`` is undone at its end; no cgroup and no journal is left."""
    before = machine.picture(host.path)
    yield
    assert machine.difference(before, machine.picture(host.path)) == ""
    assert groups(host) == []
    assert host.state is not None
    assert not [path for path in host.state.iterdir() if path.stat().st_size]


@pytest.fixture
def detector(host: Namespace) -> Iterator[Detector]:
    with contextlib.closing(Detector(host)) as detector:
        detector.allowed = lambda packet: leak.housekeeping(packet) or to_worker(packet)
        yield detector


def to_worker(packet: Packet) -> bool:
    return packet.destination == lab.WORKER4


def groups(host: Namespace) -> list[str]:
    """The cgroups of an instance that captures ``host``."""
    name = f"zks_lwip-{os.stat(host.path).st_ino}"
    listing = Child("ls", host.command(["ls", "/sys/fs/cgroup"])).succeed().split()
    return [each for each in listing if each == name]


def exclude(
    host: Namespace, *argv: str, user: int | None = NOBODY, resolv: Path | None = None
) -> Child:
    return Child("exclude", host.command([*ZKS, "exclude", "--", *argv], user=user, resolv=resolv))


def excluded_probes(host: Namespace, *kinds: str) -> Child:
    argv = [sys.executable, "-I", "-S", probe.__file__, "up0", "50", *kinds]
    child = exclude(host, *argv)
    child.wait_for("probing")
    return child


def test_a_program_beside_the_tunnel(
    net: Lab, worker: Child, host: Namespace, detector: Detector, unchanged: None
) -> None:
    """Before, during and after: it alone leaves, over IPv4 and IPv6, with what it starts."""
    own4 = direct(host)
    number = own4.split(".")[2]
    resolv = net.file("resolv-names.conf", f"nameserver {lab.NAMES4}\noptions timeout:2\n")
    script = f"{' '.join(CLIENT)} who {lab.FAR4} & wait"
    with net.connect(host, *ALLOW) as running:
        with host.entered():
            assert client.who(lab.FAR4) == lab.MID4
        assert groups(host)
        with Prober(host) as prober, detector.watching() as found:
            prober.rounds()
        assert not found, found
        with Prober(host) as prober, detector.watching() as found:
            assert exclude(host, *CLIENT, "who", lab.FAR4).succeed().strip() == own4
            assert exclude(host, "sh", "-c", script).succeed().strip() == own4
            assert exclude(host, *CLIENT, "who", lab.FAR4, user=None).succeed().strip() == own4
            who6 = exclude(host, *CLIENT, "who", lab.FAR6).succeed().strip()
            assert who6 == f"2a0e:1:{number}::2"
            exclude(host, *CLIENT, "udp", lab.FAR4, "1000").succeed()
            exclude(host, *CLIENT, "duplex", lab.FAR4, "2", "300000").succeed()
            names = exclude(host, *CLIENT, "resolve", "four.zks.test", resolv=resolv)
            assert names.succeed().strip() == lab.FAR4
            prober.rounds()
        tcp, udp = socket.IPPROTO_TCP, socket.IPPROTO_UDP
        left = {(each.protocol, each.source, each.destination, each.port) for each in found}
        assert left == {
            (tcp, own4, lab.FAR4, servers.WHO),
            (tcp, who6, lab.FAR6, servers.WHO),
            (tcp, own4, lab.FAR4, servers.DUPLEX),
            (udp, own4, lab.FAR4, servers.ECHO),
            (udp, own4, lab.NAMES4, 53),
        }
        with host.entered():
            assert client.who(lab.FAR4) == lab.MID4
        staying = excluded_probes(host, "udp4", "tcp4", "udp6")
        assert running.stop() == 0
    assert groups(host) == [] and staying.process.poll() is None
    with staying, detector.watching() as found:
        Prober(host, "ping4").stop()
        until(lambda: any(each.port == 9999 for each in detector.seen()))
    running.no_traceback()


def test_killed(
    net: Lab, worker: Child, host: Namespace, detector: Detector, unchanged: None
) -> None:
    """What was excluded is soon refused as all else is, and not excluded by the next instance."""
    with net.connect(host, *ALLOW) as running:
        probes = excluded_probes(host, "udp4", "tcp4", "dns4", "udp6", "ping4")
        holds = exclude(host, *CLIENT, "hold", lab.FAR4, "reset")
        holds.wait_for("open")
        told = status(host)
        assert told["allow_exclude"] == ["nobody"]
        assert told["excluded"] == sorted([probes.pid, holds.pid])
        until(lambda: {each.port for each in detector.seen()} >= {9999, 80, 53, 0})
        running.signal(signal.SIGKILL)
        running.wait()

    def quiet() -> bool:
        with detector.watching() as found:
            Prober.rounds(probes, 5)  # type: ignore[arg-type]
        return not found

    until(quiet)
    wait_for_no_tun(host)
    with net.connect(host, *ALLOW) as running, detector.watching() as found:
        Prober.rounds(probes, 20)  # type: ignore[arg-type]
    assert not found, found
    running.no_traceback()
    holds.process.kill()
    probes.process.kill()
    for child in (holds, probes):
        child.wait()


def test_killed_and_its_namespace_gone(
    net: Lab, worker: Child, host: Namespace, unchanged: None
) -> None:
    """The cgroup has not gone with it: `recover` removes it, from wherever it is called."""
    other = net.add_host()
    other.state, other.cgroups = host.state, True
    with net.connect(other, *ALLOW) as running:
        (group,) = groups(other)
        running.signal(signal.SIGKILL)
        running.wait()
    other.close()
    listing = host.command(["ls", "/sys/fs/cgroup"])
    assert group in Child("ls", listing).succeed().split()
    undone = run(host, "recover", "-v").stdout
    assert any("rmdir" in line and group in line for line in undone)
    assert group not in Child("ls", listing).succeed().split()


def test_another_socket_with_addresses_and_ports_of_an_excluded_one(
    net: Lab, worker: Child, host: Namespace, detector: Detector, unchanged: None
) -> None:
    """What the kernel remembers of an excluded connection takes nothing of others out with it."""
    script = (
        "import socket, sys\nudp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"udp.bind(('0.0.0.0', 45678))\nudp.sendto(b'x', ('{lab.FAR4}', 9999))\n"
    )
    argv = [sys.executable, "-I", "-S", "-c", script]
    with net.connect(host, *ALLOW) as running:
        with detector.watching() as found:
            exclude(host, *argv).succeed()
        # (The end of a connection of an earlier test's may be seen, too.)
        seen = [(each.destination, each.port) for each in found if each.port != servers.IDLE]
        assert seen == [(lab.FAR4, 9999)]
        with detector.watching() as found:
            codes = [Child("send", host.command(argv)).wait() for _ in range(3)]
        assert not found, found
        # (The first makes the kernel forget the other's address translation, and is dropped.)
        assert codes[1:] == [0, 0]
        assert running.stop() == 0
    running.no_traceback()


def test_who_may_not(net: Lab, worker: Child, host: Namespace, unchanged: None) -> None:
    said = run(host, "exclude", "--", "true", code=1).stderr[-1]
    assert "nothing runs here" in said
    with net.connect(host):
        for user in (None, NOBODY):
            child = exclude(host, "true", user=user)
            assert child.wait() == (2 if user is None else 3)
            assert "--allow-exclude" in child.stderr[-1], child.output
    with net.connect(host, *ALLOW):
        child = exclude(host, "true", user=USER)
        assert child.wait() == 3 and f"user {USER} may not `exclude`" in child.stderr[-1]
        assert "may not" not in exclude(host, "true").succeed()
        for user in (USER, NOBODY):
            said = run(host, "status", code=3, user=user).stderr[-1]
            assert "only root (or a member" in said
        assert exclude(host, "no-such-command").wait() == 127
        assert exclude(host, "/etc/passwd").wait() == 126
        assert exclude(host, "sh", "-c", "exit 7").wait() == 7
    with net.connect(host, "--allow-exclude", "no-such-user", ready=False) as child:
        assert child.wait() == 2 and "--allow-exclude no-such-user: there is no" in child.output
    with net.connect(host, *ALLOW, "--kill-switch", "route", ready=False) as child:
        assert child.wait() == 2 and "--allow-exclude needs --kill-switch strict" in child.output


def test_as_another_user_and_a_name_server_on_loopback(
    net: Lab, worker: Child, host: Namespace, detector: Detector, unchanged: None
) -> None:
    """An instance that has become another user moves processes, and removes the cgroup, too."""
    resolv = net.file(
        "resolv-local.conf", f"nameserver 127.0.0.53\nnameserver {lab.NAMES4}\noptions timeout:2\n"
    )
    options = net.tunnel_options(None, "--allow-exclude", "@nogroup", "--user", "nobody")
    argv = host.command([*ZKS, "connect", *options], resolv=resolv)
    with Child("connect", argv) as running:
        running.wait_for("^ready: ")
        assert exclude(host, *CLIENT, "who", lab.FAR4).succeed().strip() == direct(host)
        asked = len(net.names.stdout)
        with detector.watching() as found:
            names = exclude(host, *CLIENT, "resolve", "four.zks.test", resolv=resolv)
            assert names.succeed().strip() == lab.FAR4
        assert {(each.source, each.destination, each.port) for each in found} == {
            (direct(host), lab.NAMES4, 53)
        }
        assert any("four.zks.test" in line for line in net.names.stdout[asked:])
        knob = host.command(["cat", "/proc/sys/net/ipv4/conf/all/route_localnet"])
        assert Child("cat", knob).succeed().strip() == "1"
        run(host, "pause", "--for", "1h")
        allowed = Child("cat", knob).succeed().strip()
        assert allowed == "0", "no firewall keeps neighbours from this machine's 127.0.0.1"
        run(host, "pause", "--end")
        assert Child("cat", knob).succeed().strip() == "1"
        assert running.stop() == 0
    running.no_traceback()


def test_it_asks_the_name_server_of_the_network_that_the_machine_has_moved_to(
    net: Lab, worker: Child, host: Namespace, unchanged: None
) -> None:
    def resolv(server: str) -> str:
        return f"nameserver 127.0.0.53\nnameserver {server}\noptions timeout:1 attempts:1\n"

    path = net.file("resolv-moving.conf", resolv(lab.FAR4))
    options = net.tunnel_options(None, *ALLOW)
    with Child("connect", host.command([*ZKS, "connect", *options], resolv=path)) as running:
        running.wait_for("^ready: ")

        def asks() -> bool:
            names = exclude(host, *CLIENT, "resolve", "four.zks.test", resolv=loopback)
            return names.wait() == 0 and lab.FAR4 in names.output

        loopback = net.file("resolv-loopback.conf", resolv("127.0.0.53"))
        assert not asks(), "nothing answers there"
        path.write_text(resolv(lab.NAMES4))
        until(asks)
        assert running.stop() == 0
    running.no_traceback()
