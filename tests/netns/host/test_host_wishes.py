"""What a user may wish: exceptions, callers, forwarding, a pause, fewer privileges."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from tests.kits.netns import leak, talk
from tests.kits.netns.child import Child, until
from tests.kits.netns.containers import INTERFACE, address4, container
from tests.kits.netns.lab import NOBODY, Namespace
from tests.kits.netns.leak import Detector, Prober, Probers, Space
from tests.kits.netns.talk import ALL, BRIEF, NONE, PATIENT
from tests.netns.host.conftest import Holder, execute, nothing, same
from zks_lwip.host.journal import Journal
from zks_lwip.host.plan.steps import Cgroup
from zks_lwip.net.netns import NamespaceThread

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes network namespaces")

SIOCGSKNS = 0x894C
"""Opens the namespace of a socket; not in Python's socket module."""


@pytest.mark.parametrize("lan", [True, False])
def test_the_lan(holder: Holder, space: Space, lan: bool) -> None:
    with talk.echo(space.gateway, leak.NEIGHBOUR4, 8443):
        holder.apply(lan=lan)
        timeout = PATIENT if lan else BRIEF
        found = talk.reaches(space.client, leak.NEIGHBOUR4, 8443, timeout=timeout)
        assert found == (ALL if lan else NONE)
        holder.end()


@pytest.mark.parametrize("forward", [False, True])
def test_forwarded_traffic(holder: Holder, space: Space, detector: Detector, forward: bool) -> None:
    with container(space.client) as inner:
        with Prober(inner, "udp4", "tcp4", "dns4", interface=INTERFACE) as prober:
            with detector.watching():
                until(lambda: bool(detector.seen()), message=lambda: "it is not forwarded")
            holder.order("^closed", {"forward": forward, "lan": False})
            with detector.watching() as found:
                holder.expect("^applied")
                seen = len(holder.child.stdout)
                prober.rounds(2)
                if forward:
                    holder.in_tun("4 17 9999")
                holder.end("kill")
                tunnelled = [x for x in holder.child.stdout[seen:] if x.startswith("tun 4 17")]
                assert bool(tunnelled) == forward
                prober.rounds()
            nothing(found)
        with talk.echo(inner, address4(0), 80):
            holder.apply(forward=forward, lan=False)
            assert talk.reaches(space.client, address4(0), 80) == ALL, (
                "its own containers are no LAN"
            )
            holder.end()


@pytest.mark.parametrize("rp_filter", [0, 1])
def test_callers_from_outside(holder: Holder, space: Space, rp_filter: int) -> None:
    execute(space, talk.RP_FILTER.format(rp_filter))
    space.gateway.ip(f"route add 10.77.0.0/24 dev lo src {leak.FAR4}")

    def call(kind: int, timeout: float) -> bool:
        with talk.caller(space.gateway, kind, timeout=timeout, host=leak.FAR4) as one:
            return talk.answered(one, leak.CLIENT4, 8022)

    def call_both(timeout: float = PATIENT) -> tuple[bool, bool]:
        return call(socket.SOCK_STREAM, timeout), call(socket.SOCK_DGRAM, timeout)

    try:
        with talk.echo(space.client, leak.CLIENT4, 8022):
            assert call_both() == ALL, "the control"
            holder.apply()
            assert call_both(BRIEF) == NONE
            holder.end()
            holder.apply(inbound=[8022])
            assert call_both() == ALL
            holder.end("kill")
            # Accepted connections have the mark from the start: no TUN is needed.
            assert call(socket.SOCK_STREAM, PATIENT)
            holder.apply(inbound=[8022])
            holder.end()
    finally:
        space.gateway.ip("route del 10.77.0.0/24")
        execute(space, talk.RP_FILTER.format(0))


def leaving(detector: Detector, prober: Prober | Probers) -> set[tuple[str, int]]:
    with detector.watching() as found:
        prober.rounds(2)
    return {(packet.destination, packet.port) for packet in found}


def test_bypass_and_only(holder: Holder, space: Space, detector: Detector) -> None:
    names = ("udp4", "tcp4", "dns4", "dnstcp4", "udp6", "dns6", "landns4")
    with Prober(space.client, *names, rate=200) as prober:
        holder.apply(bypass=["25.2.2.0/24"])
        assert leaving(detector, prober) == {(leak.FAR4, 9999), (leak.FAR4, 80)}, "not its DNS"
        holder.update({"only": ["25.2.0.0/16"]})
        assert leaving(detector, prober) == {(leak.FAR6, 9999)}
        holder.update({"only": ["2a0e:2:2::/64"]})
        assert leaving(detector, prober) == {(leak.FAR4, 9999), (leak.FAR4, 80)}
        holder.update({"bypass_users": [0]})
        everything = {(leak.FAR4, 9999), (leak.FAR4, 80), (leak.FAR6, 9999)}
        assert leaving(detector, prober) == everything
        holder.update({"bypass_users": [NOBODY]})
        assert leaving(detector, prober) == set()
        holder.end()


def test_pause_and_resume(holder: Holder, detector: Detector, fast_probers: Probers) -> None:
    holder.apply()
    # The kernel adds the routes of an address some time after the address, this one last.
    until(lambda: "anycast fdb5:7a6b:7301:: dev zks0" in holder.picture())
    before = holder.picture()
    holder.update("pause")
    assert (leak.FAR4, 80) in leaving(detector, fast_probers)
    holder.update("resume")
    with detector.watching() as found:
        fast_probers.rounds(2)
    nothing(found)
    same(before, holder.picture())
    holder.update("pause")
    holder.end("kill")
    assert holder.recover()["left"] == []


def test_refused_packets_are_counted(holder: Holder, space: Space) -> None:
    holder.apply()
    holder.update("count")
    with Prober(space.client, "udp4-bound", "dns4-bound", rate=200) as prober:
        prober.rounds(10)
    holder.update("count")
    counts = [int(x.split()[1]) for x in holder.child.stdout[holder.seen :] if "refused" in x]
    assert counts[0] == 0 and counts[1] > 10
    holder.end()


def state_of(child: Child) -> str:
    return Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_the_kill_switch_route_and_off(
    holder: Holder, space: Space, detector: Detector, fast: Prober
) -> None:
    """What they promise, and what they say that they do not."""
    for mode in ("route", "off"):
        holder.apply(kill_switch=mode)
        assert "table inet" not in holder.picture()
        alive = leaving(detector, fast)
        holder.end("kill")
        dead = leaving(detector, fast)
        bound = {(leak.FAR4, 9999), (leak.FAR4, 80), (leak.NAMES4, 53)}
        assert bound <= alive, "sockets bound to a device go around routes"
        with Prober(space.client, "udp4", "tcp4", "dns4", "udp6", "tcp6") as others:
            fast.signal(signal.SIGSTOP)
            until(lambda: state_of(fast) == "T")
            unbound = leaving(detector, others)
            fast.signal(signal.SIGCONT)
        assert unbound == (set() if mode == "route" else unbound) and dead
        if mode == "off":
            assert (leak.FAR4, 9999) in unbound, "back to the host's own network"
        assert holder.recover()["left"] == []


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

    def done_again() -> bool:
        picture = holder.picture()
        return "table inet zks_lwip" in picture and "130:" in picture

    until(done_again)
    holder.end()
    assert holder.child.stdout[-1] == "ended 0"


def test_a_namespace_of_a_name(holder: Holder, space: Space) -> None:
    """``--netns``: the TUN is there, no marks are needed, and recover finds it from outside."""

    def rules(net: Namespace) -> str:
        argv = ["ip", "-n", net.name, "rule"]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60).stdout

    with contextlib.closing(Namespace("named")) as captured:
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


def test_a_namespace_with_the_number_of_one_that_has_gone(holder: Holder) -> None:
    """Nothing in it is of the old one, of which there is what outlives a namespace."""
    path = "/sys/fs/cgroup/zks_lwip-1"
    with contextlib.closing(Namespace("newer")) as newer:
        journal = Journal(holder.directory, os.stat(newer.path).st_ino, cookie=1)
        journal.begin("older", "zks0")
        journal.append(Cgroup(path))
        journal.close()
        assert holder.recover() == {"undone": [f"rmdir {path}"], "left": []}


def test_a_namespace_that_has_lost_its_name(holder: Holder, space: Space) -> None:
    """It lives on with a process, as a container's does, and is found through that."""
    with contextlib.closing(Namespace("nameless")) as captured:
        with contextlib.closing(Holder(space, holder.directory)) as second:
            second.apply(netns=captured.name)
            second.end("kill")
        argv = captured.command(["cat"])
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as inside:
            assert inside.stdin and inside.stdout
            inside.stdin.write(b"there\n")
            inside.stdin.flush()
            assert inside.stdout.readline() == b"there\n"
            subprocess.run(["ip", "netns", "del", captured.name], check=True, timeout=60)
            recovery = holder.recover()
            assert recovery["left"] == []
            assert any("rule del" in line for line in recovery["undone"])
            look = ["nsenter", f"--net=/proc/{inside.pid}/ns/net", "ip", "rule"]
            rules = subprocess.run(look, capture_output=True, text=True, check=True, timeout=60)
            assert "31339" not in rules.stdout
            inside.stdin.close()


@pytest.mark.parametrize("how", ["descriptor", "thread", "socket"])
def test_a_namespace_that_only_one_thing_holds(holder: Holder, space: Space, how: str) -> None:
    """It has no name, and is no process's: what is in force there is taken down all the same."""
    with contextlib.closing(Namespace("held")) as captured, contextlib.ExitStack() as held:
        with contextlib.closing(Holder(space, holder.directory)) as second:
            second.apply(netns=captured.name)
            second.end("kill")
        if how == "thread":
            thread = held.enter_context(contextlib.closing(NamespaceThread(captured.name)))
            place = f"/proc/self/task/{thread.call(threading.get_native_id)}/ns/net"
        elif how == "socket":
            with contextlib.closing(NamespaceThread(captured.name)) as thread:
                sock = held.enter_context(thread.call(socket.socket))
        else:
            kept = os.open(captured.path, os.O_RDONLY | os.O_CLOEXEC)
            held.callback(os.close, kept)
            place = f"/proc/self/fd/{kept}"
        subprocess.run(["ip", "netns", "del", captured.name], check=True, timeout=60)
        recovery = holder.recover()
        assert recovery["left"] == [] and any("rule del" in line for line in recovery["undone"])
        if how == "socket":
            kept = fcntl.ioctl(sock, SIOCGSKNS)
            held.callback(os.close, kept)
            place = f"/proc/self/fd/{kept}"
        look = NamespaceThread(place)
        held.callback(look.close)
        assert "31339" not in look.call(rules_here)


def rules_here() -> str:
    """The rules of the calling thread's namespace."""
    return subprocess.run(["ip", "rule"], capture_output=True, text=True, timeout=60).stdout
