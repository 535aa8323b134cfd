"""``connect`` on a machine with Windows that is thrown away afterwards: a page, leaks, ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.hosted import machine
from tests.hosted.outside import ELSEWHERE, PAGE, PAGE_PORT, WORKER, WORKER_PORT
from tests.hosted.outside_windows import NAME, OURS
from tests.kits.netns.child import Child
from zks_lwip.net.sockets import IP_UNICAST_IF

pytestmark = [machine.only_on("win32"), pytest.mark.slow]

SYSTEM = Path(os.environ.get("SystemRoot", "C:\\Windows")) / "System32"
CURL = str(SYSTEM / "curl.exe")
"""Another program than ours: the kill switch knows the tunnel's sockets by the program."""
NETSH = str(SYSTEM / "netsh.exe")
STATE = Path("C:\\ProgramData\\zks_lwip")
LIFETIME = re.compile(r" (?:\d+[dhms])+(?= )")
NO_NAME, REFUSED, UNREACHABLE = 6, 7, 28
"""What curl ends with: the name was not resolved, the connection failed at once, or there was no
answer in time."""


def ask(*argv: str) -> list[str]:
    """Return what a program prints, line by line."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, errors="replace")
    return [" ".join(line.split()) for line in done.stdout.splitlines()]


def picture() -> dict[str, list[str]]:
    """Return what must be after as before."""
    found = {
        # Without what is left of the time that an address is for.
        f"{what}, {version}": [
            LIFETIME.sub("", line) for line in ask(NETSH, "interface", version, "show", what)
        ]
        for version in ("ipv4", "ipv6")
        for what in ("route", "addresses", "dnsservers")
    }
    filters = ask(NETSH, "wfp", "show", "filters", "file=-")
    found["filters"] = [line for line in filters if "zks_lwip" in line]
    # An empty journal is one that nothing has to be undone of.
    found["state"] = [
        path.name
        for path in (STATE.iterdir() if STATE.is_dir() else ())
        if path.suffix != ".log" and path.stat().st_size
    ]
    return found


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return machine.make_tokens(tmp_path_factory.mktemp("hosted"))


@pytest.fixture(scope="module")
def outside(tokens: Path) -> Iterator[Child]:
    argv = [sys.executable, "-m", "tests.hosted.outside_windows", str(tokens)]
    child = Child("outside", argv)
    try:
        child.wait_for(f"^outside {NAME}")
        yield child
    finally:
        child.process.kill()
        child.wait()
        print(child.output)  # which pytest shows where something has failed


@pytest.fixture
def unchanged(outside: Child) -> Iterator[None]:
    before = machine.settled(picture)
    yield
    machine.check_same(before, picture)


def curl(url: str, *options: str) -> subprocess.CompletedProcess[bytes]:
    argv = [CURL, "-sS", "--noproxy", "*", "--max-time", "30", *options, url]
    return subprocess.run(argv, capture_output=True, timeout=90)


def fetch(host: str) -> bytes:
    """Have an unconfigured curl fetch the page."""
    done = curl(f"http://{host}:{PAGE_PORT}/")
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


def fetch_by_name() -> bytes:
    """As by address, once Windows' resolver asks at the TUN: it is told, and does it later."""
    url, deadline = f"http://{machine.NAME}:{PAGE_PORT}/", time.monotonic() + 30
    while (done := curl(url)).returncode == NO_NAME:
        assert time.monotonic() < deadline, done.stderr.decode(errors="replace")
        time.sleep(0.5)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


def check_that_it_is_open(outside: Child) -> None:
    """What goes elsewhere gets there: without this, that it does not would show nothing."""
    seen = len(outside.stdout)
    assert curl(f"http://{ELSEWHERE}/").returncode == REFUSED
    outside.wait_for(f"^tcp {ELSEWHERE} 80$", after=seen)


def check_that_nothing_leaves(outside: Child) -> None:
    """Neither of another program, bound to the uplink's address, nor of the same interpreter."""
    seen = len(outside.stdout)
    for host, port in ((ELSEWHERE, 80), (WORKER, PAGE_PORT)):
        done = curl(f"http://{host}:{port}/", "--interface", OURS, "--max-time", "5")
        assert done.returncode in (REFUSED, UNREACHABLE), done.stderr
    index = struct.pack("!I", uplink())
    for port in (53, 443):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IP, IP_UNICAST_IF, index)
            try:
                sock.sendto(b"leak", (ELSEWHERE, port))
            except OSError as error:
                print(f"udp, port {port}: {error}")  # refused at once, or dropped
    # What the tunnel's own sockets may do comes behind all that, if any of it comes.
    with socket.socket(socket.AF_INET) as sock:
        sock.settimeout(30)
        sock.setsockopt(socket.IPPROTO_IP, IP_UNICAST_IF, index)
        sock.connect((WORKER, WORKER_PORT))
    outside.wait_for(f"^tcp {WORKER} {WORKER_PORT}$", after=seen)
    lines = outside.stdout[seen:]
    assert [line for line in lines if ELSEWHERE in line or f" {PAGE_PORT}" in line] == []


def uplink() -> int:
    """Return the index of the interface that leads outside."""
    words = ("powershell", "-NoProfile", "-Command", f"(Get-NetAdapter {NAME}).ifIndex")
    return int(ask(*words)[0])


def kill(running: Child) -> None:
    """Kill an instance, and wait until its adapter has gone, which Windows sees to."""
    running.process.kill()
    running.wait()
    deadline = time.monotonic() + 60
    while any("zks0" in line for line in ask(NETSH, "interface", "show", "interface")):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def check_folder() -> None:
    """Only administrators and the system may use the folder of journals."""
    lines = ask(str(SYSTEM / "icacls.exe"), str(STATE))
    entries = [line.removeprefix(str(STATE)).strip() for line in lines if ":(" in line]
    assert sorted(entry.partition(":")[0] for entry in entries) == [
        "BUILTIN\\Administrators",
        "NT AUTHORITY\\SYSTEM",
    ]


def wait_until(state: str) -> None:
    deadline = time.monotonic() + 120
    while True:
        child = Child("status", [*machine.ZKS, "status", "--json"])
        child.wait()
        if child.stdout and f'"state": "{state}"' in child.stdout[0]:
            return
        assert time.monotonic() < deadline, child.output
        time.sleep(0.5)


def test_a_page_comes_through_the_tunnel(outside: Child, tokens: Path, unchanged: None) -> None:
    check_that_it_is_open(outside)
    with machine.connect(tokens) as running:
        shown = machine.status()
        assert shown["state"] == "connected" and shown["interface"] == "zks0"
        check_folder()
        assert fetch(WORKER) == PAGE
        assert fetch_by_name() == PAGE
        traffic = machine.status()["traffic"]
        assert traffic["bytes_down"] >= 2 * len(PAGE) and traffic["dns_queries"] >= 1
        check_that_nothing_leaves(outside)
        machine.command("pause", "--for", "10m")
        check_that_it_is_open(outside)
        machine.command("pause", "--end")
        check_that_nothing_leaves(outside)
        machine.command("disconnect")
        assert running.wait() == 0
        running.no_traceback()
    check_that_it_is_open(outside)


def test_ctrl_break_ends_it(outside: Child, tokens: Path, unchanged: None) -> None:
    running = machine.connect(tokens, new_group=True)
    running.signal(getattr(signal, "CTRL_BREAK_EVENT"))  # noqa: B009  # Windows alone has it
    assert running.wait() == 0
    running.no_traceback()
    check_that_it_is_open(outside)


def test_a_killed_one_leaves_it_closed_and_recover_opens_it(
    outside: Child, tokens: Path, unchanged: None
) -> None:
    running = machine.connect(tokens)
    kill(running)
    assert machine.status(code=35)["state"] == "dead-closed"
    assert curl(f"http://{ELSEWHERE}/").returncode in (REFUSED, UNREACHABLE)
    check_that_nothing_leaves(outside)
    machine.command("recover")
    check_that_it_is_open(outside)


def test_disconnect_ends_one_that_took_over(outside: Child, tokens: Path, unchanged: None) -> None:
    """The next instance takes over what a dead one has left, closed all the while."""
    killed = machine.connect(tokens)
    kill(killed)
    with machine.connect(tokens) as running:
        assert fetch(WORKER) == PAGE
        machine.command("disconnect")
        assert running.wait() == 0
    check_that_it_is_open(outside)


def service(*words: str) -> None:
    machine.command("service", *words)


def arguments(tokens: Path) -> Sequence[str]:
    url = f"ws://{WORKER}:{WORKER_PORT}"
    return ["--worker", url, "--plaintext", "--token-file", str(tokens), "-v"]


def test_the_service(outside: Child, tokens: Path, unchanged: None) -> None:
    service("install", "--manual", "--", *arguments(tokens))
    try:
        service("start")
        wait_until("connected")
        assert fetch(WORKER) == PAGE
        service("stop")
        check_that_it_is_open(outside)
        assert "ready: zks0" in (STATE / "service.log").read_text(encoding="utf-8")
    finally:
        service("remove")
