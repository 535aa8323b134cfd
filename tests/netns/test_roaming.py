"""``connect`` while the network changes under it: links, routers, other programs' hands, sleep.

What the firewall and the routes do meanwhile is also seen without a tunnel: ``host/``.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kits.netns import client, lab, machine, probe, servers
from tests.kits.netns.child import Child, until
from tests.kits.netns.commands import workers_of
from tests.kits.netns.lab import WORKER4, WORKER6, WORKER_PORT, ZKS, Lab, Namespace
from tests.kits.netns.leak import Detector, Packet, Prober, housekeeping
from tests.kits.netns.router import advertise
from tests.netns.host.conftest import nothing

PORT6 = 8796


def to_worker(packet: Packet) -> bool:
    there = packet.protocol, packet.destination, packet.port
    tcp = socket.IPPROTO_TCP
    return housekeeping(packet) or there in ((tcp, WORKER4, WORKER_PORT), (tcp, WORKER6, PORT6))


@pytest.fixture
def host(net: Lab) -> Iterator[Namespace]:
    """A host of its own, on a private LAN, too, where another name server is."""
    host = net.add_host()
    host.ip(f"addr add {probe.CLIENT4}/24 dev up0", f"addr add {probe.CLIENT6}/64 dev up0 nodad")
    lan = (f"{probe.NEIGHBOUR4}/24 dev {uplink(host)}", f"{probe.NEIGHBOUR6}/64 dev {uplink(host)}")
    net.mid.ip(*(f"addr add {address}" for address in lan))
    yield host
    net.mid.ip(*(f"addr del {address}" for address in lan))


@pytest.fixture
def detector(host: Namespace) -> Iterator[Detector]:
    with contextlib.closing(Detector(host)) as found:
        found.allowed = to_worker
        yield found


def uplink(host: Namespace) -> str:
    """The other end of up0, in ``mid``."""
    return "h" + host.name.rsplit("host", 1)[1]


def execute(host: Namespace, script: str) -> str:
    return Child("sh", host.command(["sh", "-c", script])).succeed()


def works(host: Namespace) -> bool:
    with host.entered(), contextlib.suppress(OSError):
        return client.who(lab.FAR4) == lab.MID4
    return False


def test_the_link_goes_and_a_router_brings_it_back(
    net: Lab, worker: Child, host: Namespace, detector: Detector
) -> None:
    """IPv6 alone, by router advertisements: at once another WebSocket, from another address."""
    first, second = "2a0e:1:8001:1::", "2a0e:1:8001:2::"
    host.ip("addr flush dev up0 scope global")
    net.mid.ip(*(f"addr add {net6}1/64 dev {uplink(host)} nodad" for net6 in (first, second)))
    net.mid.ip(f"route add 2a0e:1:8000::/44 dev {uplink(host)}")

    def router(prefix: str) -> None:
        def arrived() -> bool:
            advertise(net.mid, uplink(host), prefixes=(f"{prefix}/64",))
            return prefix.rstrip(":") in execute(host, "ip -6 addr show dev up0 -tentative")

        until(arrived)

    router(first)
    before = machine.picture(host.path)
    with (
        net.worker(listen=f"[{WORKER6}]:{PORT6}"),
        net.connect(host, "-v", "--grace", "1", url=f"ws://[{WORKER6}]:{PORT6}") as child,
        Prober(host) as prober,
        detector.watching() as found,
        host.entered(),
        client.connect(lab.FAR6, servers.ECHO) as sock,
    ):
        assert works(host)
        host.ip("link set up0 down")  # which takes its addresses and routes along
        child.wait_for("the network has changed")
        prober.rounds()
        seen = len(child.stderr)
        host.ip("link set up0 up")
        time.sleep(0.3)
        router(second)
        began = time.monotonic()
        child.wait_for("is up again", after=seen)
        assert time.monotonic() - began < 20, "silence of the worker takes 25 s to be noticed"
        assert works(host)
        sock.sendall(b"goes on")
        assert servers.receive_exactly(sock, 7) == b"goes on", "from the other address"
    nothing(found)
    child.no_traceback()
    after = machine.picture(host.path)
    for name in ("rules", "rules6", "nftables", "sysctls", "links"):
        assert before[name] == after[name]


HOSTILE = {
    "host route (DHCP option 121)": "ip route add {far4}/32 via {router4} dev up0",
    "halves of the internet": "ip route add 0.0.0.0/1 via {router4} dev up0; "
    "ip route add 128.0.0.0/1 via {router4} dev up0; "
    "ip route add ::/1 via {router6} dev up0; ip route add 8000::/1 via {router6} dev up0",
    "a public subnet on the link": "ip addr add 25.2.2.77/24 dev up0; "
    "ip addr add 2a0e:2:2::77/64 dev up0 nodad",
    "a router advertisement": "",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_lan(
    net: Lab, worker: Child, host: Namespace, detector: Detector, name: str
) -> None:
    """Routes and subnets that would lead past the tunnel: connected, and killed."""
    number = uplink(host).removeprefix("h")
    command = HOSTILE[name].format(
        far4=lab.FAR4, router4=f"25.1.{number}.1", router6=f"2a0e:1:{number}::1"
    )
    with net.connect(host, "-v") as child, Prober(host, rate=200) as prober:
        with detector.watching() as found:
            if command:
                execute(host, command)
            else:
                advertise(
                    net.mid, uplink(host), prefixes=("2a0e:2:2::/64",), routes=("2a0e:2::/32",)
                )
                until(lambda: "2a0e:2:2::/64 dev up0" in execute(host, "ip -6 route"))
            child.wait_for("the network has changed")
            prober.rounds(2)
            until(lambda: works(host))
            child.signal(signal.SIGKILL)
            child.wait()
            prober.rounds(2)
        nothing(found)
        with detector.watching() as found:
            Child("recover", host.command([*ZKS, "recover"])).succeed()
            prober.rounds(2)
        assert found, "the control"


UNDONE = {
    "rules": "ip rule flush; ip rule add priority 32766 lookup main; "
    "ip rule add priority 32767 lookup default; ip -6 rule flush; "
    "ip -6 rule add priority 32766 lookup main",
    "one rule": "ip rule del priority 100",
    "routes": "ip route flush table 31339; ip -6 route flush table 31339",
    "firewall": "nft flush ruleset",
    "link": "ip link set zks0 down",
    "address": "ip addr flush dev zks0",
    "setting": "sysctl -qw net.ipv4.conf.all.src_valid_mark=0; ip link set lo down; "
    "ip link set lo up",
}


@pytest.mark.parametrize("name", UNDONE)
def test_what_others_undo_is_done_again(
    net: Lab, worker: Child, host: Namespace, detector: Detector, name: str
) -> None:
    """And meanwhile the other half holds (for the firewall: but for sockets bound to a device)."""
    before = machine.picture(host.path)
    kinds = ("udp4", "tcp4", "ping4", "dns4", "udp6", "tcp6", "dns6")
    with net.connect(host, "-v") as child:
        whole = machine.picture(host.path)
        with Prober(host, *kinds, rate=300), detector.watching() as found:
            execute(host, UNDONE[name])
            child.wait_for("another program has undone")
            until(lambda: works(host))
        nothing(found)
        until(
            lambda: machine.difference(whole, machine.picture(host.path)) == "",
            message=lambda: machine.difference(whole, machine.picture(host.path)),
        )
        child.no_traceback()
    assert machine.difference(before, machine.picture(host.path)) == ""


def test_a_loop_is_reported(net: Lab, worker: Child, host: Namespace) -> None:
    """A foreign rule leads what goes to the worker into the TUN: said, refused, got over."""
    with net.connect(host, "-v") as child:
        assert works(host)
        host.ip(f"rule add priority 50 to {WORKER4}/32 lookup 31339")
        child.wait_for("a loop: the tunnel's own connection to the worker came back", timeout=100)
        assert child.descriptors() < 60, "it does not feed on itself"
        seen = len(child.stderr)
        host.ip(f"rule del priority 50 to {WORKER4}/32 lookup 31339")
        child.wait_for("is up again", after=seen)
        until(lambda: works(host))
    child.no_traceback()


def test_a_loop_of_the_embedded_worker_is_reported(net: Lab, host: Namespace) -> None:
    """It would feed on itself until all its sockets are used up."""
    number = uplink(host).removeprefix("h")
    with net.connect(host, embedded=True) as child, host.entered():
        assert client.who(lab.FAR4) == f"25.1.{number}.2"
        rules = {"4": "to 25.2.2.0/24 lookup 31339", "6": "to 2a0e:2:2::/64 lookup 31339"}
        for family, rule in rules.items():
            execute(host, f"ip -{family} rule add priority 50 fwmark 0x7a6b {rule}")
        for far in (lab.FAR4, lab.FAR6):
            refused = client.connect_error(far, servers.ECHO)
            assert refused in ("ECONNREFUSED", "EHOSTUNREACH")
        child.wait_for("a loop: a connection of the embedded worker's came back")
        (worker,) = workers_of(child.pid)
        assert len(list(Path(f"/proc/{worker}/fd").iterdir())) < 60, "it fed on itself"
        execute(host, "ip rule del priority 50; ip -6 rule del priority 50")
        assert client.who(lab.FAR4) == f"25.1.{number}.2"
    child.no_traceback()


@pytest.fixture(scope="module")
def clock_shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that shifts CLOCK_BOOTTIME: no namespace can, while a process runs in it."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler is installed")
    library = tmp_path_factory.mktemp("shim") / "clock.so"
    source = Path(__file__).parents[1] / "kits" / "netns" / "clock_shim.c"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True, timeout=200)
    return library


def test_the_machine_has_slept(net: Lab, worker: Child, host: Namespace, clock_shim: Path) -> None:
    """The clock that goes on in a suspend has jumped: at once another WebSocket."""
    slept = net.file("slept", "0")
    shim = ["env", f"LD_PRELOAD={clock_shim}", f"ZKS_TEST_SLEPT={slept}"]
    argv = [*shim, *ZKS, "connect", *net.tunnel_options(), "-v"]
    with Child("connect", host.command(argv, resolv=net.resolv)) as child:
        child.wait_for("^ready: ")
        with host.entered(), client.connect(lab.FAR4, servers.ECHO) as sock:
            time.sleep(6)
            sock.sendall(b"still there")
            control = servers.receive_exactly(sock, 11)
            assert control == b"still there", "the control: no jump, no other WebSocket"
            assert not any("slept" in line for line in child.stderr)
            slept.write_text("3600")
            child.wait_for("the machine has slept for 3600 s")
            began = time.monotonic()
            child.wait_for("the machine has slept: connecting")
            child.wait_for("is up again")
            assert time.monotonic() - began < 20, "silence of the worker takes 25 s to be noticed"
            sock.sendall(b"goes on")
            assert servers.receive_exactly(sock, 7) == b"goes on", "over the other WebSocket"
        assert works(host)
    child.no_traceback()
