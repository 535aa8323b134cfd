"""Our commands in a host, and what they say: status, counters, children."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kits.netns import machine
from tests.kits.netns.child import Child, descendants, until
from tests.kits.netns.lab import ZKS, Lab, Namespace

_ENDED = (FileNotFoundError, ProcessLookupError)


@pytest.fixture(scope="module")
def host(net: Lab) -> Namespace:
    """The host that the tests of a file set up and take down, one after the other.

    With a /run/zks_lwip of its own: `recover` looks at every journal that is there.
    """
    host = net.add_host()
    host.state = net.directory / f"state-of-{host.name}"
    host.state.mkdir(mode=0o700)
    return host


@pytest.fixture
def unchanged(host: Namespace) -> Iterator[None]:
    """What a test does to ``host`` is undone at its end, and no journal is left."""
    before = machine.picture(host.path)
    yield
    assert machine.difference(before, machine.picture(host.path)) == ""
    inode = os.stat(host.path).st_ino
    assert host.state is not None
    left = [path for path in host.state.glob(f"net-{inode}.*") if path.stat().st_size]
    assert not left


def run(host: Namespace, *argv: str, code: int = 0, user: int | None = None) -> Child:
    """A command of ours in ``host``, ended, with this exit code."""
    child = Child(argv[0], host.command([*ZKS, *argv], user=user))
    assert child.wait() == code, child.output
    child.no_traceback()
    return child


def status(host: Namespace, code: int = 0) -> dict[str, object]:
    """What ``status --json`` says."""
    return dict(json.loads(run(host, "status", "--json", code=code).stdout[0]))


def current_state(host: Namespace) -> str:
    """The state that ``status`` names, whatever its exit code."""
    child = Child("status", host.command([*ZKS, "status", "--json"]))
    child.wait()
    assert child.stdout, child.output
    return str(json.loads(child.stdout[0])["state"])


def direct(host: Namespace) -> str:
    """The address that the host has at its uplink."""
    return (
        Child("ip", host.command(["ip", "-4", "-br", "addr", "show", "dev", "up0"]))
        .succeed()
        .split()[2]
        .split("/")[0]
    )


def wait_for_no_tun(host: Namespace) -> None:
    """Wait until the TUN of a killed ``connect`` is gone.

    The kernel takes it, and the routes over it, down by and by.
    """
    links = ["ip", "-br", "link"]
    until(lambda: "zks0" not in Child("ip", host.command(links)).succeed())


def counters(connect: Child) -> dict[str, Any]:
    """What SIGUSR1 makes it tell."""
    seen = len(connect.stderr)
    connect.signal(signal.SIGUSR1)
    until(lambda: any(line.startswith("{") for line in connect.stderr[seen:]))
    line = next(line for line in connect.stderr[seen:] if line.startswith("{"))
    found: dict[str, Any] = json.loads(line)
    return found


def flows(connect: Child) -> int:
    """How many TCP connections it holds, those that end among them."""
    told = counters(connect)
    return max(told["gateway"]["flows"], told["stack"]["flows"])


def workers_of(pid: int) -> list[int]:
    """The embedded worker of ``connect``, if it has one."""
    found = []
    for one in descendants(pid)[1:]:
        with contextlib.suppress(*_ENDED):
            # (Not "--worker": of `connect`, and for a moment of what it is about to start.)
            if b"worker" in Path(f"/proc/{one}/cmdline").read_bytes().split(b"\0"):
                found.append(one)
    return found
