"""Nothing leaves outside the TUN: probes of every kind against a detector that is shown to detect.

The host is set up as ``connect`` does; there is no tunnel, so whatever leaves is a leak.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns import leak
from tests.netns.child import Child
from tests.netns.leak import Detector, Packet, Prober, Space
from zks_lwip.device._netns import run_in_netns

pytestmark = [
    pytest.mark.usefixtures("machine_is_left_as_found"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes network namespaces"),
]

PICTURE = (
    "ip rule; ip -6 rule; ip route show table all; ip -6 route show table all; nft list ruleset; "
    "ip -br addr; sysctl net.ipv4.conf.all.src_valid_mark net.ipv4.conf.all.rp_filter "
    "net.ipv4.tcp_fwmark_accept net.ipv4.conf.up0.rp_filter net.ipv6.conf.all.disable_ipv6"
)
PEERS = [f"{leak.WORKER4}/32"]


class Holder:
    """Holds hosts set up, one process after another (see ``hold_host.py``)."""

    def __init__(self, space: Space, directory: Path) -> None:
        self.space = space
        self.directory = directory
        self._read, self._write = os.pipe()
        argv = [sys.executable, "-m", "tests.netns.hold_host"]
        self.child = Child("holder", space.client.command(argv), stdin=self._read)
        os.close(self._read)

    def send(self, line: str) -> None:
        os.write(self._write, f"{line}\n".encode())

    def order(self, pattern: str, config: dict[str, object] | None = None, **order: object) -> str:
        """Give an order and wait for a line of its answer."""
        seen = len(self.child.stdout)
        values = {"state_dir": str(self.directory), "peers": PEERS} | (config or {})
        self.send(json.dumps({"config": values, **order}))
        return self.child.wait_for(pattern, after=seen).group(0)

    def steps(self) -> int:
        """How many steps the plan has: with each new one, there is more to be tested."""
        seen = len(self.child.stdout)
        self.order("^ended 1", fail=0)
        return int(self.child.wait_for(r"^steps (\d+)", after=seen).group(1))

    def apply(self, **config: object) -> None:
        self.order("^applied", config)

    def end(self, how: str = "stop") -> None:
        seen = len(self.child.stdout)
        self.send(how)
        self.child.wait_for("^ended", after=seen)

    def update(self, what: object) -> None:
        seen = len(self.child.stdout)
        if isinstance(what, dict):
            what = {"state_dir": str(self.directory), "peers": PEERS} | what
        self.send(f"update {json.dumps(what)}")
        self.child.wait_for("^updated", after=seen)

    def recover(self) -> dict[str, list[str]]:
        line = self.order("^recovered .*", recover=str(self.directory))
        return json.loads(line.split(" ", 1)[1])

    def picture(self) -> str:
        # (In which order the kernel lists its tables is not worth comparing.)
        return "\n".join(sorted(execute(self.space, PICTURE).splitlines()))

    def in_tun(self, pattern: str, timeout: float = 3) -> None:
        """Wait until a packet like that ("VERSION PROTOCOL PORT") comes out of the TUN."""
        self.child.wait_for(f"^tun {pattern}$", timeout, after=len(self.child.stdout))

    def close(self) -> None:
        os.close(self._write)
        self.child.stop()


def execute(space: Space, script: str) -> str:
    argv = ["nsenter", f"--net={space.client.path}", "sh", "-c", script]
    return subprocess.run(argv, capture_output=True, text=True, timeout=20).stdout


@pytest.fixture(scope="module")
def space() -> Iterator[Space]:
    with contextlib.closing(Space()) as built:
        yield built


@pytest.fixture(scope="module")
def module_holder(space: Space) -> Iterator[Holder]:
    directory = Path(tempfile.mkdtemp(prefix="zks-state-"))
    with contextlib.closing(Holder(space, directory)) as holder:
        yield holder
    shutil.rmtree(directory)


@pytest.fixture
def holder(module_holder: Holder) -> Iterator[Holder]:
    """Every test must leave the host as it found it."""
    before = module_holder.picture()
    yield module_holder
    assert module_holder.picture() == before
    assert not list(module_holder.directory.glob("*.journal"))


@pytest.fixture(scope="module")
def detector(space: Space) -> Iterator[Detector]:
    with contextlib.closing(Detector(space.client)) as built:
        yield built


@pytest.fixture(scope="module")
def prober(space: Space) -> Iterator[Prober]:
    with Prober(space.client) as child:
        yield child


@pytest.fixture(scope="module")
def fast(space: Space) -> Iterator[Prober]:
    """All kinds of probes in a tenth of a second."""
    with Prober(space.client, rate=400) as child:
        yield child


def nothing(found: dict[Packet, int]) -> None:
    assert not found, "\n".join(f"{n} × {packet}" for packet, n in found.items())


def test_the_detector_detects(detector: Detector, fast: Prober) -> None:
    """The control: without us each kind of probe is seen leaving, by every address that it has."""
    with detector.watching() as found:
        time.sleep(0.6)
    seen = {(p.protocol, p.destination, p.port) for p in found}
    assert seen == {
        (socket.IPPROTO_ICMP, leak.FAR4, 0),
        (socket.IPPROTO_ICMPV6, leak.FAR6, 0),
        *((socket.IPPROTO_UDP, host, 9999) for host in (leak.FAR4, leak.FAR6)),
        *((socket.IPPROTO_TCP, host, 80) for host in (leak.FAR4, leak.FAR6)),
        *((socket.IPPROTO_UDP, host, 53) for host in (leak.NAMES4, leak.NAMES6)),
        *((socket.IPPROTO_TCP, host, 53) for host in (leak.NAMES4, leak.NAMES6)),
        *((socket.IPPROTO_UDP, host, 53) for host in (leak.NEIGHBOUR4, leak.NEIGHBOUR6)),
    }


@pytest.mark.parametrize("ipv6", [True, False], ids=["tunnel6", "block6"])
@pytest.mark.parametrize("lan", [True, False], ids=["lan", "nolan"])
def test_nothing_leaves(
    holder: Holder, detector: Detector, prober: Prober, lan: bool, ipv6: bool
) -> None:
    """Steady, stopped (SIGSTOP), killed, taken over, restarted; 50 probes a second."""
    config = {"lan": lan, "ipv6": ipv6}
    holder.order("^closed", config)
    with detector.watching() as found:
        holder.child.wait_for("^applied")
        time.sleep(1)
        holder.end("kill")
        time.sleep(0.7)
        holder.apply(**config)
        time.sleep(0.3)
    holder.end()
    nothing(found)


def test_the_probes_go_into_the_tun(holder: Holder, fast: Prober) -> None:
    """What is not bound to a device does; DNS does even where the sender chose an interface."""
    holder.apply()
    for packet in (
        "4 17 9999",
        "4 6 80",
        "4 1 .*",
        "4 17 53",
        "4 6 53",
        "6 17 9999",
        "6 6 80",
        "6 17 53",
    ):
        holder.in_tun(packet)
    holder.end()


def test_dns_of_a_resolver_that_chooses_the_interface(holder: Holder, space: Space) -> None:
    holder.apply()
    with Prober(space.client, "dns4-unicast-if", "landns4-unicast-if"):
        holder.in_tun("4 17 53")
    holder.end()


def test_blocked_ipv6_fails_at_once_and_its_dns_is_ours(holder: Holder, space: Space) -> None:
    holder.apply(ipv6=False)
    with run_in_netns(space.client.path, socket.socket, socket.AF_INET6) as probe:
        start = time.monotonic()
        with pytest.raises(OSError, match="unreachable"):
            probe.connect((leak.FAR6, 80))
        assert time.monotonic() - start < 0.1
    with Prober(space.client, "dns6", "landns6"):
        holder.in_tun("6 17 53")
    seen = len(holder.child.stdout)
    holder.update({"ipv6": True})
    with Prober(space.client, "tcp6"):
        holder.child.wait_for("^tun 6 6 80", after=seen)
    holder.update({"ipv6": False})
    holder.end()


def test_a_death_before_each_step(holder: Holder, detector: Detector, fast: Prober) -> None:
    """The host is untouched or closed; then the next instance takes over, or ``recover`` undoes."""
    before = holder.picture()
    steps = holder.steps()
    assert steps > 20
    for number in range(steps):
        for after in ("recover", "take over"):
            holder.order("^ended -9", die=number)
            if number == 0:
                assert holder.picture() == before
            elif after == "recover":
                with detector.watching() as found:
                    time.sleep(0.1)
                nothing(found)
            if after == "recover":
                assert holder.recover()["left"] == []
            else:
                with detector.watching() as found:
                    if number == 0:
                        holder.order("^closed")
                        detector.leaks.clear()
                        holder.child.wait_for("^applied")
                    else:
                        holder.apply()
                nothing(found)
                holder.end()
            assert holder.picture() == before, f"step {number}, {after}"
    assert holder.recover() == {"undone": [], "left": []}


@pytest.mark.parametrize("how", ["term", "fail"])
def test_an_orderly_end_in_each_step(holder: Holder, how: str) -> None:
    before = holder.picture()
    steps = holder.steps()
    for number in range(steps):
        code = holder.order(r"^ended -?\d+", **{how: number})
        assert code == ("ended 0" if how == "term" else "ended 1")
        assert holder.picture() == before, f"step {number}"
    assert not list(holder.directory.glob("*.journal"))


def test_a_failed_take_over_stays_closed(holder: Holder, detector: Detector, fast: Prober) -> None:
    holder.apply()
    holder.end("kill")
    with detector.watching() as found:
        holder.order("^ended 1", fail=5)
        time.sleep(0.2)
    nothing(found)
    assert holder.recover()["left"] == []
