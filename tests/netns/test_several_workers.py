"""``connect`` with two workers: the nearer one, the other when that is gone, and nothing beside."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kits.netns import client, lab, probe, servers
from tests.kits.netns.child import Child, until
from tests.kits.netns.commands import counters, run, status
from tests.kits.netns.lab import MID4, WORKER4, Lab, Namespace
from tests.kits.netns.leak import Detector, Packet, Prober, housekeeping
from tests.kits.netns.link import Link
from tests.netns.host.conftest import nothing

NEAR, FAR = f"{WORKER4}:8801", "25.1.200.1:8802"
"""Where workers listen, the second behind a link of 600 ms each way."""
BESIDE = f"{MID4}:8803"
"""At another address, as near as the first."""
DELAY = 0.6


def url(place: str) -> str:
    return f"ws://{place}/tunnel"


def two(*places: str) -> list[str]:
    return [word for place in places for word in ("--worker", url(place))]


def workers(host: Namespace) -> dict[str, dict[str, Any]]:
    """What ``status`` says of each, by its place."""
    told: Any = status(host)["workers"]
    return {each["worker"].split("/")[2]: each for each in told}


@pytest.fixture
def host(net: Lab) -> Namespace:
    return net.add_host()


@pytest.fixture
def link(net: Lab, host: Namespace) -> Iterator[Link]:
    """A second way, a slow one, from the host to ``mid``."""
    with Link(host, "slow0", net.mid, "slow1") as link:
        link.set(delay=DELAY)
        net.mid.ip("addr add 25.1.200.1/24 dev slow1", "link set slow1 up")
        host.ip("addr add 25.1.200.2/24 dev slow0", "link set slow0 up")
        yield link


@pytest.mark.usefixtures("link")
def test_the_nearer_worker_is_in_use_and_the_other_when_it_is_killed(
    net: Lab, host: Namespace
) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(net.worker(listen=FAR))
        near = stack.enter_context(net.worker(listen=NEAR))
        child = stack.enter_context(net.connect(host, "-v", *two(FAR, NEAR)))
        line = child.wait_for("^ready: ").string
        assert line == f"ready: zks0 → {url(NEAR)} (of 2 workers)"
        until(lambda: all(each["connect_seconds"] for each in workers(host).values()))
        known = workers(host)
        assert known[FAR]["connect_seconds"] >= 2 * DELAY > known[NEAR]["connect_seconds"]
        assert (known[NEAR]["in_use"], known[FAR]["in_use"]) == (True, False)
        with host.entered():
            assert client.who(lab.FAR4) == lab.MID4
            sock = stack.enter_context(client.connect(lab.FAR4, servers.ECHO))
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
            near.process.kill()
            near.wait()
            began = time.monotonic()
            assert client.who(lab.FAR4) == lab.MID4
            took = time.monotonic() - began
            print(f"{took * 1000:.0f} ms from the death of the worker to the next connection")
            assert took < 20, "0.5 s on a machine that has nothing else to do"
        known = workers(host)
        assert known[FAR]["in_use"] and known[NEAR]["problem"]
        assert status(host)["worker"] == url(FAR)
        shown = "\n".join(run(host, "status").stdout)
        assert re.search(rf"^worker {url(FAR)}: in use, connects in \d\d\d+ ms$", shown, re.M), (
            shown
        )
        resting = rf"^worker {url(NEAR)}: (not in use|carries what is left), .* ms: \w.*"
        assert re.search(resting, shown, re.M), shown
        stack.enter_context(net.worker(listen=NEAR))
        with host.entered(), pytest.raises(ConnectionResetError):
            sock.recv(1)  # it was the other worker's, which knows nothing of it
        until(lambda: not workers(host)[NEAR]["problem"])
        for _ in range(5):
            with host.entered():
                assert client.who(lab.FAR4) == lab.MID4
        assert workers(host)[FAR]["in_use"], "it has not been well for long"
        assert counters(child)["tunnel"]["worker_switches"] == 1
        assert child.stop() == 0
        child.no_traceback()


@contextlib.contextmanager
def worker_of_later(net: Lab, host: Namespace, listen: str) -> Iterator[None]:
    """Another worker, which the tunnel does not begin with, however near it seems to be."""
    with net.worker(listen=listen):
        until(lambda: not workers(host)[listen]["problem"])
        yield


def echoed(sock: socket.socket, text: bytes) -> None:
    sock.sendall(text)
    assert servers.receive_exactly(sock, len(text)) == text


def test_a_worker_that_has_gone_silent_is_not_waited_for(
    net: Lab, host: Namespace, link: Link
) -> None:
    """New connections go to the other one; those of before go on when there is a way again."""
    link.set(delay=0.001)
    with (
        net.worker(listen=FAR),
        net.connect(host, "-v", *two(FAR, BESIDE)) as child,
        worker_of_later(net, host, BESIDE),
        host.entered(),
        client.connect(lab.FAR4, servers.ECHO) as sock,
    ):
        child.wait_for(f"^ready: zks0 → {url(FAR)}")
        echoed(sock, b"before")
        link.blackhole()
        sock.sendall(b"while there is no way")
        began = time.monotonic()
        assert client.who(lab.FAR4) == lab.MID4
        took = time.monotonic() - began
        print(f"{took:.1f} s from the beginning of the silence to the next connection")
        assert took < 20, "2 s to suspect it, and what is lost of the SYN; 25 s until it is dead"
        assert workers(host)[BESIDE]["in_use"]
        for _ in range(3):
            assert client.who(lab.FAR4) == lab.MID4
        link.restore()
        assert servers.receive_exactly(sock, 21) == b"while there is no way"
        echoed(sock, b"after")
        assert counters(child)["tunnel"]["sessions_lost"] == 0
    child.no_traceback()


def test_a_worker_that_is_told_to_go_is_left_without_a_break(net: Lab, host: Namespace) -> None:
    with (
        net.worker(listen=NEAR) as near,
        net.connect(host, *two(NEAR, BESIDE)) as child,
        worker_of_later(net, host, BESIDE),
        host.entered(),
        client.connect(lab.FAR4, servers.ECHO) as sock,
    ):
        child.wait_for(f"^ready: zks0 → {url(NEAR)}")
        echoed(sock, b"before")
        near.signal(signal.SIGTERM)
        # (by a signal: within its 10 s there is no time for many processes)
        until(lambda: counters(child)["tunnel"]["worker_switches"] >= 1)
        began = time.monotonic()
        assert client.who(lab.FAR4) == lab.MID4
        assert time.monotonic() - began < 9, "the worker that goes has 10 s"
        echoed(sock, b"it may end what it has begun")
        assert workers(host)[BESIDE]["in_use"]
        client.reset(sock)
        assert near.wait() == 0
    child.no_traceback()


def test_a_worker_that_refuses_the_token_is_a_warning(net: Lab, host: Namespace) -> None:
    other = net.secret("another-token", "another-token\n")
    with net.worker("--token-file", str(other), listen=NEAR, token=False):
        with net.connect(host, *two(NEAR, BESIDE), ready=False) as child:
            child.wait_for(f"{NEAR}.*401.*The other workers are used")
            with net.worker(listen=BESIDE):
                child.wait_for(f"^ready: zks0 → {url(BESIDE)}")
                with host.entered():
                    assert client.who(lab.FAR4) == lab.MID4
        child.no_traceback()
        each = ["--token-file", str(other), "--token-file", str(net.token_file)]
        with net.connect(host, *two(NEAR, BESIDE), *each) as child:
            child.wait_for(f"^ready: zks0 → {url(NEAR)}")
    child.no_traceback()


def test_a_dry_run_shows_what_may_be_reached(net: Lab, host: Namespace) -> None:
    options = ["--dry-run", "--worker", "wss://one.example", "--worker", "wss://two.example"]
    options += ["--worker-address", "-", "--worker-address", "192.0.2.7"]
    child = net.connect(host, *options, ready=False)
    shown = child.succeed()
    assert "# the addresses of one.example join `peers` when they have been looked up" in shown
    assert "192.0.2.7" in shown and "two.example" not in shown


def test_where_all_refuse_it_is_one_error(net: Lab, host: Namespace) -> None:
    wrong = net.secret("wrong-token", "not-the-token\n")
    with net.worker(listen=NEAR), net.worker(listen=BESIDE):
        child = net.connect(host, *two(NEAR, BESIDE), "--token-file", str(wrong), ready=False)
        assert child.wait() == 13, child.output
    assert "none of the 2 workers" in child.output
    assert url(NEAR) in child.output and url(BESIDE) in child.output
    child.no_traceback()


def to_workers(packet: Packet) -> bool:
    place = f"{packet.destination}:{packet.port}"
    return housekeeping(packet) or (
        packet.protocol == socket.IPPROTO_TCP and place in (NEAR, BESIDE)
    )


@pytest.fixture
def exposed(net: Lab) -> Iterator[Namespace]:
    """A host on a private LAN, too, where another name server is."""
    host = net.add_host()
    uplink = "h" + host.name.rsplit("host", 1)[1]
    host.ip(f"addr add {probe.CLIENT4}/24 dev up0", f"addr add {probe.CLIENT6}/64 dev up0 nodad")
    lan = (f"{probe.NEIGHBOUR4}/24 dev {uplink}", f"{probe.NEIGHBOUR6}/64 dev {uplink}")
    net.mid.ip(*(f"addr add {address} nodad" for address in lan))
    yield host
    net.mid.ip(*(f"addr del {address}" for address in lan))


def test_nothing_leaves_but_to_the_workers(net: Lab, exposed: Namespace) -> None:
    """Steady, while one of them is gone, both are, and one is back."""
    with contextlib.ExitStack() as stack:
        detector = stack.enter_context(contextlib.closing(Detector(exposed)))
        detector.allowed = to_workers
        near = stack.enter_context(net.worker(listen=NEAR))
        beside = stack.enter_context(net.worker(listen=BESIDE))
        child = stack.enter_context(net.connect(exposed, "--grace", "1", *two(NEAR, BESIDE)))
        told = status(exposed)
        assert told["peers"] == [f"{WORKER4}/32", f"{MID4}/32"]
        prober = stack.enter_context(Prober(exposed, rate=150))
        found = stack.enter_context(detector.watching())
        prober.rounds()
        near.process.kill()
        near.wait()
        prober.rounds()
        assert status(exposed)["worker"] == url(BESIDE)
        beside.process.kill()
        beside.wait()
        until(lambda: any("Trying again" in line for line in child.stderr))
        prober.rounds()
        stack.enter_context(net.worker(listen=NEAR))
        with exposed.entered():
            until(lambda: client.connect_error(lab.FAR4, servers.ECHO) == "connected", 90)
        prober.rounds()
        child.process.kill()
        child.wait()
        prober.rounds()
        prober.stop()
    nothing(found)
    Child("recover", exposed.command([*lab.ZKS, "recover"])).succeed()
