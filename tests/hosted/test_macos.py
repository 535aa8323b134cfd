"""``connect`` on a Mac that is thrown away afterwards: a page, leaks, an end of either kind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosted import machine
from tests.hosted.outside import ELSEWHERE, PAGE, PAGE_PORT, WORKER, WORKER_PORT
from tests.kits.netns.child import Child
from zks_lwip.net.darwin import IP_BOUND_IF

pytestmark = [machine.only_on("darwin"), pytest.mark.slow]

ANCHOR = "com.apple/000.zks_lwip"
DNS = "State:/Network/Service/zks_lwip/DNS"
STATE = Path("/var/run/zks_lwip")
USER = 1  # daemon: pf takes what is not root's for the machine's programs


def ask(*argv: str, text: str = "", check: bool = True) -> list[str]:
    """Return what a program prints, line by line."""
    done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=60, check=check)
    return done.stdout.splitlines()


def picture() -> dict[str, list[str]]:
    """Return what must be after as before; routes that the kernel clones come and go."""
    routes = [line.split()[:4] for line in ask("netstat", "-rn")]
    return {
        "routes": [" ".join(each) for each in routes if len(each) == 4 and "W" not in each[2]],
        "interfaces": [name for _, name in socket.if_nameindex()],
        "pf": [line[:15] for line in ask("pfctl", "-s", "info") if line.startswith("Status:")],
        "pf's tokens": [x.partition(" days")[0] for x in ask("pfctl", "-s", "References")],
        "pf's rules": ask("pfctl", "-s", "rules"),
        "our rules": ask("pfctl", "-a", ANCHOR, "-s", "rules", check=False),
        "our tables": ask("pfctl", "-a", ANCHOR, "-s", "Tables", check=False),
        "resolver": resolver(),
        "our resolver": ask("scutil", text=f"show {DNS}\nquit\n"),
        "state": [path.name for path in STATE.iterdir()] if STATE.is_dir() else [],
    }


def resolver() -> list[str]:
    lines = [line.strip() for line in ask("scutil", "--dns")]
    return [line for line in lines if line.startswith(("nameserver[", "domain", "search domain"))]


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return machine.make_tokens(tmp_path_factory.mktemp("hosted"))


@pytest.fixture(scope="module")
def outside(tokens: Path) -> Iterator[Child]:
    argv = [sys.executable, "-m", "tests.hosted.outside_macos", str(tokens)]
    with Child("outside", argv) as child:
        child.wait_for("^outside utun")
        yield child
    print(child.output)  # which pytest shows where something has failed


@pytest.fixture
def unchanged(outside: Child) -> Iterator[None]:
    before = machine.settled(picture)
    yield
    machine.check_same(before, picture)


def uplink(outside: Child) -> int:
    """Return the index of the interface that leads outside."""
    return socket.if_nametoindex(outside.wait_for("^outside (utun[0-9]+)$")[1])


def reach(address: str, port: int, *, user: int = 0, bound_to: int = 0) -> OSError | None:
    """Connect, as a user and by an interface or whichever way the routes lead."""
    os.seteuid(user)
    try:
        sock = socket.socket(socket.AF_INET)  # pf asks whose it was when it was made
    finally:
        os.seteuid(0)
    with sock:
        sock.settimeout(30)
        if bound_to:
            sock.setsockopt(socket.IPPROTO_IP, IP_BOUND_IF, bound_to)
        try:
            sock.connect((address, port))
        except OSError as error:
            return error
    return None


def check_that_it_is_open(outside: Child) -> None:
    """What goes elsewhere gets there: without this, that it does not would show nothing."""
    seen = len(outside.stdout)
    assert isinstance(reach(ELSEWHERE, 80, user=USER), ConnectionRefusedError)
    outside.wait_for(f"^tcp {ELSEWHERE} 80$", after=seen)


def check_that_nothing_leaves(outside: Child) -> None:
    seen, leads_out = len(outside.stdout), uplink(outside)
    for user in (0, USER):
        assert reach(ELSEWHERE, 80, user=user, bound_to=leads_out) is not None
    assert reach(WORKER, PAGE_PORT, user=USER, bound_to=leads_out) is not None
    for port in (53, 443):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IP, IP_BOUND_IF, leads_out)
            try:
                sock.sendto(b"leak", (ELSEWHERE, port))
            except OSError as error:
                print(f"udp, port {port}: {error}")  # refused at once, or dropped
    # What the tunnel's own sockets may do comes behind all that, if any of it comes.
    assert reach(WORKER, WORKER_PORT, bound_to=leads_out) is None
    outside.wait_for(f"^tcp {WORKER} {WORKER_PORT}$", after=seen)
    assert [
        line for line in outside.stdout[seen:] if ELSEWHERE in line or f" {PAGE_PORT}" in line
    ] == []


def fetch(host: str) -> bytes:
    """Have an unconfigured curl of an ordinary user's fetch the page."""
    argv = ["/usr/bin/curl", "-sS", "--max-time", "60", f"http://{host}:{PAGE_PORT}/"]
    done = subprocess.run(argv, capture_output=True, timeout=90, user=USER, cwd="/")
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def wait_for_resolver() -> None:
    """Wait until the system's resolver has taken up our server: it is told, and does it later."""
    deadline = time.monotonic() + 30
    while not any(" : 198.18." in line for line in resolver()):
        assert time.monotonic() < deadline, "\n".join(resolver())
        time.sleep(0.2)


def test_a_page_comes_through_the_tunnel(outside: Child, tokens: Path, unchanged: None) -> None:
    check_that_it_is_open(outside)
    with machine.connect(tokens) as running:
        shown = machine.status()
        assert shown["state"] == "connected" and shown["interface"].startswith("utun")
        assert fetch(WORKER) == PAGE
        wait_for_resolver()
        assert fetch(machine.NAME) == PAGE
        traffic = machine.status()["traffic"]
        assert traffic["bytes_down"] >= 2 * len(PAGE) and traffic["dns_queries"] >= 1
        check_that_nothing_leaves(outside)
        machine.command("pause", "--for", "10m")
        check_that_it_is_open(outside)
        machine.command("pause", "--end")
        check_that_nothing_leaves(outside)
        running.signal(signal.SIGINT)
        assert running.wait() == 0
        running.no_traceback()
    check_that_it_is_open(outside)


def test_a_killed_one_leaves_it_closed_and_recover_opens_it(
    outside: Child, tokens: Path, unchanged: None
) -> None:
    running = machine.connect(tokens)
    running.signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert machine.status(code=35)["state"] == "dead-closed"
    seen = len(outside.stdout)
    assert reach(ELSEWHERE, 80, user=USER) is not None, "the routes lead outside again"
    check_that_nothing_leaves(outside)
    assert [line for line in outside.stdout[seen:] if ELSEWHERE in line] == []
    machine.command("recover")
    check_that_it_is_open(outside)


def test_disconnect_ends_one_that_took_over(outside: Child, tokens: Path, unchanged: None) -> None:
    """The next instance takes over what a dead one has left, closed all the while."""
    killed = machine.connect(tokens)
    killed.signal(signal.SIGKILL)
    killed.wait()
    with machine.connect(tokens) as running:
        assert fetch(WORKER) == PAGE
        machine.command("disconnect")
        assert running.wait() == 0
    check_that_it_is_open(outside)
