"""A host that is set up, among hostile networks, and other programs' hands."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kits.netns import client, leak
from tests.kits.netns.child import ROOT, Child, until
from tests.kits.netns.lab import NOBODY
from tests.kits.netns.leak import Detector, Prober, Probers, Space
from tests.kits.netns.talk import ALL, BRIEF, NONE, PATIENT, RP_FILTER, echo, new_socket, reaches
from tests.netns.host.conftest import Holder, execute, nothing, same
from zks_lwip.host.plan.config import MARK

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes network namespaces")


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
            assert reaches(space.client, leak.WORKER4, 8443, timeout=BRIEF) == NONE
            if mode == "strict":
                assert reaches(space.client, leak.FAR4, 8443, MARK, BRIEF) == NONE
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
            client.reset(tcp)  # or its bytes would be sent again, later, in other tests
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
    holder: Holder, space: Space, detector: Detector, fast_probers: Probers, name: str
) -> None:
    holder.apply()
    with detector.watching() as found:
        space.client.ip(*HOSTILE[name].splitlines())
        fast_probers.rounds(2)
        holder.end("kill")
        fast_probers.rounds()
    holder.apply()
    undo = HOSTILE[name].replace(" add ", " del ").replace(" nodad", "").splitlines()
    space.client.ip(*undo)
    holder.end()
    nothing(found)


def test_roaming(holder: Holder, space: Space, detector: Detector, fast_probers: Probers) -> None:
    """The link goes down and comes back in another LAN: followed, reported, and nothing leaks."""
    holder.apply()

    def rules() -> list[str]:
        return sorted(execute(space, "ip rule; ip -6 rule").split("\n"))

    def elsewhere() -> bool:
        shown = execute(space, "ip rule; nft list set inet zks_lwip lan4")
        there = "to 10.9.8.0/24 lookup main" in shown and "10.9.8.0/24," in shown
        return there and "192.168.77.0/24" not in shown

    at_home = rules()
    seen = len(holder.child.stdout)
    with detector.watching() as found:
        space.client.ip("link set up0 down", "addr flush dev up0")
        holder.child.wait_for("^moved", after=seen)
        seen = len(holder.child.stdout)
        space.client.ip("addr add 10.9.8.7/24 dev up0", "link set up0 up")
        space.client.ip("route add default via 10.9.8.1")
        holder.child.wait_for("^moved", after=seen)
        until(elsewhere)
        fast_probers.rounds()
    nothing(found)
    with detector.watching() as found:
        space.client.ip("addr flush dev up0", "link set up0 down", "link set up0 up")
        space.client.ip(
            f"addr replace {leak.CLIENT4}/24 dev up0",
            f"addr replace {leak.CLIENT6}/64 dev up0 nodad",
            f"route replace default via {leak.GATEWAY4}",
            f"route replace ::/0 via {leak.GATEWAY6}",
        )
        space.settle()
        until(lambda: rules() == at_home)
        fast_probers.rounds()
    nothing(found)
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
    kinds = ("udp4", "tcp4", "ping4", "dns4", "udp6", "tcp6", "dns6")
    with Prober(space.client, *kinds, rate=300) as prober:
        with detector.watching() as found:
            execute(space, FLUSHES[name])
            until(lambda: set(before.split("\n")) <= set(holder.picture().split("\n")))
            prober.rounds()
    nothing(found)
    holder.end()


_LEAVING = "inet zks_lwip leaving"
_HOOK = "type filter hook postrouting priority filter; policy"
TAMPERING = {
    "flushed": "nft flush table inet zks_lwip",
    "deleted": "nft delete table inet zks_lwip",
    "asleep": "nft add table inet zks_lwip '{ flags dormant; }'",
    "a chain flushed": f"nft flush chain {_LEAVING}",
    "a chain deleted": f"nft flush chain {_LEAVING}; nft delete chain {_LEAVING}",
    "a chain without its hook": f"nft flush chain {_LEAVING}; nft delete chain {_LEAVING}; "
    f"nft add chain {_LEAVING}",
    "a policy": f"nft add chain {_LEAVING} '{{ {_HOOK} drop; }}'",
    "a rule deleted": f"nft delete rule {_LEAVING} handle $(nft -a list chain {_LEAVING} | "
    "sed -n 's/.*drop # handle //p' | tail -1)",
    "a rule inserted": f"nft insert rule {_LEAVING} accept",
    "a set emptied": "nft flush set inet zks_lwip peers4",
    "an element added": f"nft add element inet zks_lwip peers4 '{{ {leak.FAR4} }}'",
    "a chain added": "nft add chain inet zks_lwip other '{ type filter hook output priority 0; }'",
}


def table(space: Space) -> str:
    """Our firewall, without what it counts."""
    return execute(space, "nft -s list table inet zks_lwip")


@pytest.mark.parametrize("what", TAMPERING)
def test_whatever_is_done_to_our_table_is_mended(
    holder: Holder, space: Space, detector: Detector, what: str
) -> None:
    """Afterwards it holds what only it can: sockets that are bound to a link."""
    holder.apply()
    before = table(space)
    with Prober(space.client, "udp4-bound", "tcp6-bound", "dns4-bound", rate=300) as prober:
        Child("sh", space.client.command(["sh", "-ec", TAMPERING[what]])).succeed()
        until(lambda: table(space) == before, message=lambda: table(space))
        with detector.watching() as found:
            prober.rounds(2)
    nothing(found)
    holder.end()
    assert holder.child.stdout[-1] == "ended 0"


@pytest.mark.parametrize("what", ["asleep", "a chain without its hook"])
def test_what_is_done_to_a_table_without_an_instance_is_mended_by_the_next(
    holder: Holder, space: Space, detector: Detector, what: str
) -> None:
    holder.apply()
    before = table(space)
    holder.end("kill")
    execute(space, TAMPERING[what])
    assert table(space) != before
    holder.apply()
    assert table(space) == before
    with (
        Prober(space.client, "udp4-bound", "tcp6-bound", "dns4-bound", rate=300) as prober,
        detector.watching() as found,
    ):
        prober.rounds(2)
    nothing(found)
    holder.end()
    assert holder.child.stdout[-1] == "ended 0"


def test_a_table_that_is_as_it_was_is_left_alone(holder: Holder, space: Space) -> None:
    """Others' tables change often; and listing ours gives the same each time."""
    holder.apply(
        inbound=[22, 8022], lan=False, bypass=[f"198.51.{n}.0/24" for n in range(0, 90, 2)]
    )
    handles = execute(space, "nft -a list table inet zks_lwip")
    for _ in range(8):
        execute(space, "nft add table ip other; nft delete table ip other")
        execute(space, "ip addr add 10.9.9.9/32 dev lo; ip addr del 10.9.9.9/32 dev lo")
        time.sleep(0.15)
    assert execute(space, "nft -a list table inet zks_lwip") == handles
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
    def probe(timeout: float) -> str:
        with new_socket(space.gateway, timeout=timeout) as one:
            try:
                one.connect(("198.18.0.1", 80))
            except OSError as error:
                return type(error).__name__
        return "connected"

    space.gateway.ip(f"route add 198.18.0.0/30 via {leak.CLIENT4}")
    space.client.ip("addr add 198.18.0.1/30 dev lo")
    assert probe(PATIENT) == "ConnectionRefusedError", "the control: the host answers for its own"
    space.client.ip("addr del 198.18.0.1/30 dev lo")
    for mode in ("strict", "route"):  # without a firewall, the answer goes into the TUN
        holder.apply(kill_switch=mode)
        assert probe(BRIEF) == "TimeoutError", mode
        holder.end()
    space.gateway.ip("route del 198.18.0.0/30")


def test_a_failure_once_ready_does_not_open(
    holder: Holder, detector: Detector, fast_probers: Probers
) -> None:
    holder.apply()
    with detector.watching() as found:
        holder.send('update "crash"')
        holder.child.wait_for("HostError: as ordered", after=holder.seen)
        holder.end()
        fast_probers.rounds()
    nothing(found)
    assert holder.recover()["left"] == []


def test_the_tun_is_removed_by_another_program(holder: Holder, space: Space) -> None:
    holder.apply()
    space.client.ip("link del zks0")
    holder.child.wait_for(
        "DeviceError: the interface zks0 was removed by another program", after=holder.seen
    )
    holder.end()


def test_two_instances_refuse(holder: Holder, space: Space) -> None:
    holder.apply()
    before = holder.picture()
    with contextlib.closing(Holder(space, holder.directory)) as second:
        seen = second.order("^(Host|Device)Error.*|^applied", {"tun": "zks1"}, wait=1)
        assert "another instance runs in this network namespace already (process" in seen
        assert re.match(r"HostError.*\d+, zks0\)", seen)
        assert second.recover() == {"undone": [], "left": []}, "it is not taken for a dead one"
    same(before, holder.picture())
    holder.end()


CONFLICTS = {
    "rule add priority 50 fwmark 0x7a6b lookup 99": "another program uses what would be ours",
    "rule add priority 999 lookup 31339": "another program uses what would be ours",
    f"route add default via {leak.GATEWAY4} table 31339": "another program uses what would be ours",
    "link add zks0 type bridge": "the interface name zks0 is taken",
}


@pytest.mark.parametrize("command", CONFLICTS)
def test_another_program_has_it(holder: Holder, space: Space, command: str) -> None:
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
            "torn": text.rstrip("\0")[:-20],
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


@pytest.mark.parametrize("what", ["missing", "failing"])
def test_without_nft(holder: Holder, space: Space, what: str) -> None:
    """It refuses, names the package, and has changed nothing."""
    instead = "/dev/null" if what == "missing" else "/bin/false"
    order = {"config": {"state_dir": str(holder.directory)}, "wait": 1}
    argv = space.client.command([sys.executable, "-m", "tests.kits.netns.hold_host"])
    script = f'mount --bind {instead} "$(command -v nft || echo /usr/sbin/nft)"; exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *argv],
        input=json.dumps(order), capture_output=True, text=True, timeout=60, cwd=ROOT)  # fmt: skip
    expected = "install the package nftables" if what == "missing" else "nft -f - failed"
    assert re.search(f"HostError.*{expected}", done.stdout), done


def test_recover_needs_root(holder: Holder, tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from zks_lwip.errors import PrivilegeError\n"
        "from zks_lwip.host.linux.recover import recover\n"
        "try: recover(pathlib.Path(sys.argv[1]))\n"
        "except PrivilegeError as error: print(error)\n"
    )
    argv = [sys.executable, "-c", code, str(holder.directory)]
    argv = holder.space.client.command(argv, user=NOBODY)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert "run it as root" in done.stdout, done.stderr
