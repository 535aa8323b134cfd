"""A host that is set up, among hostile networks, other programs' hands, and odd wishes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.child import ROOT
from tests.netns.host import leak
from tests.netns.host.conftest import Holder, execute, nothing, same
from tests.netns.host.leak import Detector, Prober, Space
from tests.netns.lab import NOBODY, Namespace
from zks_lwip.device._netns import run_in_netns
from zks_lwip.host.config import MARK

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes network namespaces")

RP_FILTER = "sysctl -qw net.ipv4.conf.up0.rp_filter={}"


def new_socket(net: Namespace, kind: int = socket.SOCK_STREAM, mark: int = 0) -> socket.socket:
    made = run_in_netns(net.path, socket.socket, socket.AF_INET, kind)
    made.settimeout(0.4)
    if mark:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
    return made


@contextlib.contextmanager
def echo(net: Namespace, host: str, port: int) -> Iterator[None]:
    """A TCP and a UDP service that send back the first packet."""
    tcp, udp = new_socket(net), new_socket(net, socket.SOCK_DGRAM)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for one in (tcp, udp):
        one.bind((host, port))
        one.settimeout(0.02)
    tcp.listen()
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):
                connection, _ = tcp.accept()
                with connection:
                    connection.settimeout(0.4)
                    connection.sendall(connection.recv(100))
            with contextlib.suppress(OSError):
                udp.sendto(*udp.recvfrom(100))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        tcp.close()
        udp.close()


def reaches(net: Namespace, host: str, port: int, mark: int = 0) -> tuple[bool, bool]:
    """Whether TCP and UDP get an answer from there."""
    answers = []
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with new_socket(net, kind, mark) as one:
            try:
                one.connect((host, port))
                one.send(b"ping")
                answers.append(one.recv(100) == b"ping")
            except OSError:
                answers.append(False)
    return answers[0], answers[1]


ALL, NONE = (True, True), (False, False)


@pytest.mark.parametrize("rp_filter", [0, 1])
@pytest.mark.parametrize("mode", ["strict", "route", "off"])
def test_marked_sockets_reach_the_worker_and_nothing_else(
    holder: Holder, space: Space, mode: str, rp_filter: int
) -> None:
    execute(space, RP_FILTER.format(rp_filter))
    try:
        with echo(space.gateway, leak.WORKER4, 8443), echo(space.gateway, leak.FAR4, 8443):
            assert reaches(space.client, leak.FAR4, 8443) == ALL, "the control"
            holder.apply(kill_switch=mode)
            assert reaches(space.client, leak.WORKER4, 8443, MARK) == ALL
            assert reaches(space.client, leak.WORKER4, 8443) == NONE
            if mode == "strict":
                assert reaches(space.client, leak.FAR4, 8443, MARK) == NONE
                holder.update({"peers": [f"{leak.FAR4}/32"]})
                assert reaches(space.client, leak.FAR4, 8443, MARK) == ALL
            holder.end()
    finally:
        execute(space, RP_FILTER.format(0))


def test_marked_sockets_never_enter_the_tun(holder: Holder, space: Space) -> None:
    holder.apply(peers=None)
    space.client.ip("route del default")
    with new_socket(space.client, mark=MARK) as one, pytest.raises(OSError, match="unreachable"):
        one.connect((leak.WORKER4, 8443))
    space.client.ip(f"route add default via {leak.GATEWAY4}")
    holder.end()


def test_an_established_flow_from_before(holder: Holder, space: Space, detector: Detector) -> None:
    with echo(space.gateway, leak.FAR4, 8443):
        with new_socket(space.client) as tcp, new_socket(space.client, socket.SOCK_DGRAM) as udp:
            for one in (tcp, udp):
                one.connect((leak.FAR4, 8443))
            with detector.watching() as found:
                udp.send(b"control")
            assert found
            holder.apply()
            with detector.watching() as found:
                for _ in range(20):
                    for one in (tcp, udp):
                        with contextlib.suppress(OSError):
                            one.send(b"more")
                    time.sleep(0.02)
        holder.end()
    nothing(found)


HOSTILE = {
    "host route (DHCP option 121)": f"route add {leak.FAR4}/32 via {leak.GATEWAY4}",
    "halves of the internet": f"route add 0.0.0.0/1 via {leak.GATEWAY4}\n"
    f"route add 128.0.0.0/1 via {leak.GATEWAY4}\nroute add ::/1 via {leak.GATEWAY6}",
    "a public subnet on the link": "addr add 25.2.2.77/24 dev up0\n"
    "addr add 2a0e:2:2::77/64 dev up0 nodad",
    "a router advertisement": f"route add ::/0 via {leak.GATEWAY6} proto ra metric 1",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_lan(
    holder: Holder, space: Space, detector: Detector, fast: Prober, name: str
) -> None:
    holder.apply()
    with detector.watching() as found:
        space.client.ip(*HOSTILE[name].splitlines())
        time.sleep(0.4)
        holder.end("kill")
        time.sleep(0.2)
    holder.apply()
    undo = HOSTILE[name].replace(" add ", " del ").replace(" nodad", "").splitlines()
    space.client.ip(*undo)
    holder.end()
    nothing(found)


def test_roaming(holder: Holder, space: Space, detector: Detector, fast: Prober) -> None:
    """The link goes down and comes back in another LAN: followed, reported, and nothing leaks."""
    holder.apply()
    rules = execute(space, "ip rule; ip -6 rule")
    seen = len(holder.child.stdout)
    with detector.watching() as found:
        space.client.ip("link set up0 down", "addr flush dev up0")
        time.sleep(0.2)
        space.client.ip("addr add 10.9.8.7/24 dev up0", "link set up0 up")
        space.client.ip("route add default via 10.9.8.1")
        holder.child.wait_for("^moved", after=seen)
        time.sleep(0.3)
    nothing(found)
    elsewhere = execute(space, "ip rule; nft list set inet zks_lwip lan4")
    assert "to 10.9.8.0/24 lookup main" in elsewhere and "10.9.8.0/24," in elsewhere
    assert "192.168.77.0/24" not in elsewhere
    with detector.watching() as found:
        space.client.ip("addr flush dev up0", "link set up0 down", "link set up0 up")
        space.client.ip(
            f"addr replace {leak.CLIENT4}/24 dev up0",
            f"addr replace {leak.CLIENT6}/64 dev up0 nodad",
            f"route replace default via {leak.GATEWAY4}",
            f"route replace ::/0 via {leak.GATEWAY6}",
        )
        space.settle()
        time.sleep(0.4)
    nothing(found)
    assert sorted(execute(space, "ip rule; ip -6 rule").split("\n")) == sorted(rules.split("\n"))
    holder.end()


FLUSHES = {
    "rules": "ip rule flush; ip rule add priority 32766 lookup main; "
    "ip rule add priority 32767 lookup default; ip -6 rule flush; "
    "ip -6 rule add priority 32766 lookup main",
    "routes": "ip route flush table 31339; ip -6 route flush table 31339",
    "firewall": "nft flush ruleset",
    "link": "ip link set zks0 down",
}


@pytest.mark.parametrize("name", FLUSHES)
def test_what_others_undo_is_done_again(
    holder: Holder, space: Space, detector: Detector, name: str
) -> None:
    """And meanwhile the other half holds (bound sockets, for the firewall, do not have one)."""
    holder.apply()
    before = holder.picture()
    with Prober(space.client, "udp4", "tcp4", "ping4", "dns4", "udp6", "tcp6", "dns6", rate=300):
        with detector.watching() as found:
            execute(space, FLUSHES[name])
            time.sleep(0.6)
    nothing(found)
    assert set(before.split("\n")) <= set(holder.picture().split("\n"))
    holder.end()


@pytest.mark.parametrize("lan", [True, False])
def test_a_default_route_without_a_device(holder: Holder, space: Space, lan: bool) -> None:
    """A gateway is looked for on the links, not in the TUN, even where the LAN is closed."""
    holder.apply(lan=lan)
    space.client.ip("route del default", f"route add default via {leak.GATEWAY4}")
    assert f"default via {leak.GATEWAY4} dev up0" in execute(space, "ip route")
    space.client.ip("route del default", f"route add default via {leak.GATEWAY4} dev up0")
    holder.end()


def test_a_neighbour_cannot_probe_the_tun(holder: Holder, space: Space) -> None:
    def probe() -> str:
        with new_socket(space.gateway) as one:
            try:
                one.connect(("198.18.0.1", 80))
            except OSError as error:
                return type(error).__name__
        return "connected"

    space.gateway.ip(f"route add 198.18.0.0/30 via {leak.CLIENT4}")
    holder.apply(kill_switch="off")
    assert probe() == "ConnectionRefusedError", "the control: the TUN's address answers"
    holder.end()
    holder.apply()
    assert probe() == "TimeoutError"
    holder.end()
    space.gateway.ip("route del 198.18.0.0/30")


@pytest.mark.parametrize("lan", [True, False])
def test_the_lan(holder: Holder, space: Space, lan: bool) -> None:
    with echo(space.gateway, leak.NEIGHBOUR4, 8443):
        holder.apply(lan=lan)
        assert reaches(space.client, leak.NEIGHBOUR4, 8443) == (ALL if lan else NONE)
        holder.end()


@contextlib.contextmanager
def container(space: Space) -> Iterator[Namespace]:
    """A namespace behind a bridge of ``client``, as of a container engine."""
    with contextlib.closing(Namespace("inner")) as inner:
        space.client.ip(
            "link add br0 type bridge",
            f"link add in0 type veth peer name in1 netns {inner.name}",
            "link set in0 master br0",
            "link set in0 up",
            "addr add 172.30.0.1/24 dev br0",
            "link set br0 up",
        )
        inner.ip(
            "addr add 172.30.0.2/24 dev in1",
            "link set in1 up",
            "route add default via 172.30.0.1",
        )
        space.client.sysctl("net.ipv4.ip_forward=1")
        try:
            yield inner
        finally:
            space.client.ip("link del br0")
            space.client.sysctl("net.ipv4.ip_forward=0")


@pytest.mark.parametrize("forward", [False, True])
def test_forwarded_traffic(holder: Holder, space: Space, detector: Detector, forward: bool) -> None:
    with container(space) as inner:
        with Prober(inner, "udp4", "tcp4", "dns4", interface="in1"):
            with detector.watching() as found:
                time.sleep(0.2)
            assert found, "the control: it is forwarded"
            holder.order("^closed", {"forward": forward, "lan": False})
            with detector.watching() as found:
                holder.expect("^applied")
                seen = len(holder.child.stdout)
                time.sleep(0.3)
                tunnelled = [x for x in holder.child.stdout[seen:] if x.startswith("tun 4 17")]
                assert bool(tunnelled) == forward
                holder.end("kill")
                time.sleep(0.2)
            nothing(found)
        with echo(inner, "172.30.0.2", 80):
            holder.apply(forward=forward, lan=False)
            assert reaches(space.client, "172.30.0.2", 80) == ALL, "its own containers are no LAN"
            holder.end()


@pytest.mark.parametrize("rp_filter", [0, 1])
def test_callers_from_outside(holder: Holder, space: Space, rp_filter: int) -> None:
    execute(space, RP_FILTER.format(rp_filter))
    space.gateway.ip(f"route add 10.77.0.0/24 dev lo src {leak.FAR4}")

    def call() -> tuple[bool, bool]:
        answers = []
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with new_socket(space.gateway, kind) as one:
                one.bind((leak.FAR4, 0))
                try:
                    one.connect((leak.CLIENT4, 8022))
                    one.send(b"ping")
                    answers.append(one.recv(100) == b"ping")
                except OSError:
                    answers.append(False)
        return answers[0], answers[1]

    try:
        with echo(space.client, leak.CLIENT4, 8022):
            assert call() == ALL, "the control"
            holder.apply()
            assert call() == NONE
            holder.end()
            holder.apply(inbound=[8022])
            assert call() == ALL
            holder.end("kill")
            assert call()[0], "accepted connections have the mark from the start: no TUN is needed"
            holder.apply(inbound=[8022])
            holder.end()
    finally:
        space.gateway.ip("route del 10.77.0.0/24")
        execute(space, RP_FILTER.format(0))


def leaving(detector: Detector) -> set[tuple[str, int]]:
    with detector.watching() as found:
        time.sleep(0.4)
    return {(packet.destination, packet.port) for packet in found}


def test_bypass_and_only(holder: Holder, space: Space, detector: Detector) -> None:
    names = ("udp4", "tcp4", "dns4", "dnstcp4", "udp6", "dns6", "landns4")
    with Prober(space.client, *names, rate=200):
        holder.apply(bypass=["25.2.2.0/24"])
        assert leaving(detector) == {(leak.FAR4, 9999), (leak.FAR4, 80)}, "not its DNS"
        holder.update({"only": ["25.2.0.0/16"]})
        assert leaving(detector) == {(leak.FAR6, 9999)}
        holder.update({"only": ["2a0e:2:2::/64"]})
        assert leaving(detector) == {(leak.FAR4, 9999), (leak.FAR4, 80)}
        holder.update({"bypass_users": [0]})
        everything = {(leak.FAR4, 9999), (leak.FAR4, 80), (leak.FAR6, 9999)}
        assert leaving(detector) == everything
        holder.update({"bypass_users": [NOBODY]})
        assert leaving(detector) == set()
        holder.end()


def test_pause_and_resume(holder: Holder, detector: Detector, fast: Prober) -> None:
    holder.apply()
    before = holder.picture()
    holder.update("pause")
    assert (leak.FAR4, 80) in leaving(detector)
    holder.update("resume")
    with detector.watching() as found:
        time.sleep(0.2)
    nothing(found)
    same(before, holder.picture())
    holder.update("pause")
    holder.end("kill")
    assert holder.recover()["left"] == []


def test_a_failure_once_ready_does_not_open(
    holder: Holder, detector: Detector, fast: Prober
) -> None:
    holder.apply()
    with detector.watching() as found:
        holder.send('update "crash"')
        holder.child.wait_for("HostError: as ordered", after=holder.seen)
        holder.end()
        time.sleep(0.2)
    nothing(found)
    assert holder.recover()["left"] == []


def test_the_tun_is_removed_by_somebody(holder: Holder, space: Space) -> None:
    holder.apply()
    space.client.ip("link del zks0")
    holder.child.wait_for("DeviceError: somebody has removed the interface zks0", after=holder.seen)
    holder.end()


def test_refused_packets_are_counted(holder: Holder, space: Space) -> None:
    holder.apply()
    holder.update("count")
    with Prober(space.client, "udp4-bound", "dns4-bound", rate=200):
        time.sleep(0.2)
    holder.update("count")
    counts = [int(x.split()[1]) for x in holder.child.stdout[holder.seen :] if "refused" in x]
    assert counts[0] == 0 and counts[1] > 10
    holder.end()


def test_the_kill_switch_route_and_off(
    holder: Holder, space: Space, detector: Detector, fast: Prober
) -> None:
    """What they promise, and what they say that they do not."""
    for mode in ("route", "off"):
        holder.apply(kill_switch=mode)
        assert "table inet" not in holder.picture()
        alive = leaving(detector)
        holder.end("kill")
        dead = leaving(detector)
        bound = {(leak.FAR4, 9999), (leak.FAR4, 80), (leak.NAMES4, 53)}
        assert bound <= alive, "sockets bound to a device go around routes"
        with Prober(space.client, "udp4", "tcp4", "dns4", "udp6", "tcp6"):
            fast.signal(19)
            unbound = leaving(detector)
            fast.signal(18)
        assert unbound == (set() if mode == "route" else unbound) and dead
        if mode == "off":
            assert (leak.FAR4, 9999) in unbound, "back to the host's own network"
        assert holder.recover()["left"] == []


def test_two_instances_refuse(holder: Holder, space: Space) -> None:
    holder.apply()
    before = holder.picture()
    with contextlib.closing(Holder(space, holder.directory)) as second:
        seen = second.order("^(Host|Device)Error.*|^applied", {"tun": "zks1"}, wait=1)
        assert "another instance runs in this network namespace already (process" in seen
        assert re.match(r"HostError.*\d+, zks0\)", seen)
        left = second.recover()["left"]
        assert len(left) == 1 and "another instance" in left[0]
    same(before, holder.picture())
    holder.end()


CONFLICTS = {
    "rule add priority 50 fwmark 0x7a6b lookup 99": "somebody else uses what would be ours",
    "rule add priority 999 lookup 31339": "somebody else uses what would be ours",
    f"route add default via {leak.GATEWAY4} table 31339": "somebody else uses what would be ours",
    "link add zks0 type bridge": "the interface name zks0 is taken",
}


@pytest.mark.parametrize("command", CONFLICTS)
def test_somebody_else_has_it(holder: Holder, space: Space, command: str) -> None:
    space.client.ip(command)
    before = holder.picture()
    assert CONFLICTS[command] in holder.order(r"^\w+Error.*|^applied", wait=1)
    same(before, holder.picture())
    space.client.ip(command.replace(" add ", " del "))


@pytest.mark.parametrize("damage", ["torn", "garbage", "version", "empty", "gone"])
def test_a_journal_that_is_damaged(holder: Holder, damage: str) -> None:
    holder.apply()
    holder.end("kill")
    (journal,) = holder.directory.glob("*.journal")
    text = journal.read_text()
    if damage == "gone":
        journal.unlink()
    else:
        changed = {
            "torn": text[:-20],
            "garbage": "\x00\xff" * 100,
            "version": text.replace('"zks_lwip_journal": 1', '"zks_lwip_journal": 7'),
            "empty": "",
        }
        journal.write_text(changed[damage], encoding="latin-1")
    recovery = holder.recover()
    known = damage == "torn"
    assert any("nft delete table inet zks_lwip" in line for line in recovery["undone"])
    assert len([line for line in recovery["undone"] if "rule del" in line]) > 10
    if damage in ("garbage", "version"):
        assert "settings that only it knew (sysctl, resolver) were left" in recovery["left"][0]
    if not known:
        execute(holder.space, "sysctl -qw net.ipv4.conf.all.src_valid_mark=0")
    assert holder.recover() == {"undone": [], "left": []}


@pytest.mark.parametrize("user", [None, "nobody"])
def test_without_privileges_it_still_works(holder: Holder, detector: Detector, user: str) -> None:
    """Set-up done, all but CAP_NET_ADMIN given away; changing and undoing must work with that."""
    seen = len(holder.child.stdout)
    holder.order("^applied", drop=user)
    uid, *held = holder.child.wait_for("^user (.*)", after=seen).group(1).split()
    assert (int(uid), held) == (NOBODY if user else 0, [str(1 << 12)])
    holder.update({"ipv6": False})
    assert "from all unreachable proto 122" in execute(holder.space, "ip -6 rule")
    execute(holder.space, "nft flush ruleset; ip rule del priority 130")
    time.sleep(0.5)
    assert "table inet zks_lwip" in holder.picture() and "130:" in holder.picture()
    holder.end()
    assert holder.child.stdout[-1] == "ended 0"


@pytest.mark.parametrize("what", ["missing", "failing"])
def test_without_nft(holder: Holder, space: Space, what: str) -> None:
    """It refuses, names the package, and has changed nothing."""
    instead = "/dev/null" if what == "missing" else "/bin/false"
    order = {"config": {"state_dir": str(holder.directory)}, "wait": 1}
    argv = space.client.command([sys.executable, "-m", "tests.netns.host.hold_host"])
    script = f'mount --bind {instead} "$(command -v nft || echo /usr/sbin/nft)"; exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *argv],
        input=json.dumps(order), capture_output=True, text=True, timeout=20, cwd=ROOT)  # fmt: skip
    expected = "install the package nftables" if what == "missing" else "nft -f - failed"
    assert re.search(f"HostError.*{expected}", done.stdout), done


def test_recover_needs_root(holder: Holder, tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from zks_lwip.errors import PrivilegeError\n"
        "from zks_lwip.host.recover import recover\n"
        "try: recover(pathlib.Path(sys.argv[1]))\n"
        "except PrivilegeError as error: print(error)\n"
    )
    argv = [sys.executable, "-c", code, str(holder.directory)]
    argv = holder.space.client.command(argv, user=NOBODY)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, cwd=ROOT)
    assert "run it as root" in done.stdout, done.stderr


def test_a_namespace_of_a_name(holder: Holder, space: Space) -> None:
    """``--netns``: the TUN is there, no marks are needed, and recover finds it from outside."""

    def rules(net: Namespace) -> str:
        argv = ["ip", "-n", net.name, "rule"]
        return subprocess.run(argv, capture_output=True, text=True, timeout=10).stdout

    with contextlib.closing(Namespace("captured")) as captured:
        with contextlib.closing(Holder(space, holder.directory)) as second:
            second.apply(netns=captured.name)
            assert "lookup 31339" in rules(captured) and "fwmark" not in rules(captured)
            assert "31339" not in rules(space.client)
            second.end("kill")
            assert second.recover()["left"] == []
            assert "31339" not in rules(captured)
            second.apply(netns=captured.name)
            second.end("kill")
    assert list(holder.directory.glob("*.journal"))
    assert holder.recover() == {"undone": [], "left": []}, "the namespace has gone, and all in it"
