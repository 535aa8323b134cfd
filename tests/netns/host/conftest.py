"""A host that is set up and taken down again and again: what the tests of ``host`` share."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kits.netns import leak
from tests.kits.netns.child import Child
from tests.kits.netns.leak import Detector, Packet, Prober, Probers, Space

PICTURE = """
for family in -4 -6; do printf 'rule\\nroute show table all\\n' | ip $family -batch -; done
nft -s list ruleset; ip -br addr
cd /proc/sys/net
for name in ipv4/conf/all/src_valid_mark ipv4/conf/all/rp_filter ipv4/tcp_fwmark_accept \\
    ipv4/conf/up0/rp_filter ipv6/conf/all/disable_ipv6; do
    read -r value <$name && echo "$name = $value"
done
"""
"""(Taken a thousand times: it starts few programs.)"""
PEERS = [f"{leak.WORKER4}/32"]


class Holder:
    """Holds hosts set up, one process after another (see ``hold_host.py``)."""

    def __init__(self, space: Space, directory: Path) -> None:
        self.space = space
        self.directory = directory
        self.seen = 0
        self.running = False
        self._read, self._write = os.pipe()
        argv = [sys.executable, "-m", "tests.kits.netns.hold_host"]
        self.child = Child("holder", space.client.command(argv), stdin=self._read)
        os.close(self._read)

    def send(self, line: str) -> None:
        os.write(self._write, f"{line}\n".encode())

    def order(self, pattern: str, config: dict[str, object] | None = None, **order: object) -> str:
        """Give an order and wait for a line of its answer."""
        self.seen = len(self.child.stdout)
        values = {"state_dir": str(self.directory), "peers": PEERS} | (config or {})
        self.send(json.dumps({"config": values, **order}))
        found = self.expect(pattern)
        if order.keys() & {"die", "term", "fail", "recover", "wait"}:
            self.expect("^ended")
        return found

    def expect(self, pattern: str) -> str:
        """Wait for a line since the last order."""
        found = self.child.wait_for(f"{pattern}|^ended.*", after=self.seen).group(0)
        self.running = not found.startswith("ended")
        if not re.search(pattern, found):
            self.child.wait_for(pattern, 0, after=self.seen)  # says what there is instead
        return found

    def steps(self, config: dict[str, object] | None = None) -> int:
        """How many steps the plan has: with each new one, there is more to be tested."""
        seen = len(self.child.stdout)
        self.order("^ended 1", config, fail=0)
        return int(self.child.wait_for(r"^steps (\d+)", after=seen).group(1))

    def apply(self, **config: object) -> None:
        self.order("^applied", config)

    def end(self, how: str = "stop") -> None:
        self.seen = len(self.child.stdout)
        self.send(how)
        self.expect("^ended")

    def update(self, what: object) -> None:
        seen = len(self.child.stdout)
        if isinstance(what, dict):
            what = {"state_dir": str(self.directory), "peers": PEERS} | what
        self.send(f"update {json.dumps(what)}")
        self.child.wait_for("^updated", after=seen)

    def recover(self) -> dict[str, list[str]]:
        line = self.order("^recovered .*$", recover=str(self.directory))
        return json.loads(line.split(" ", 1)[1])

    def picture(self) -> str:
        # (In which order the kernel lists its tables is not worth comparing.)
        return "\n".join(sorted(execute(self.space, PICTURE).splitlines()))

    def picture_like(self, before: str) -> str:
        """The picture when it is as before, which may take what the kernel does later a moment."""
        deadline = time.monotonic() + 20
        while set((now := self.picture()).split("\n")) != set(before.split("\n")):
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        return now

    def in_tun(self, pattern: str) -> None:
        """Wait until a packet like that ("VERSION PROTOCOL PORT") comes out of the TUN."""
        self.child.wait_for(f"^tun {pattern}$", after=len(self.child.stdout))

    def close(self) -> None:
        if self.running:
            self.send("kill")
        os.close(self._write)
        self.child.wait()


def execute(space: Space, script: str) -> str:
    argv = ["nsenter", f"--net={space.client.path}", "sh", "-c", script]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60).stdout


class Kit:
    """A client's namespace with all that is needed to set it up, and to see what leaves."""

    def __init__(self, *, containers: bool = False) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="zks-state-"))
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, self.directory)
            self.space = stack.enter_context(contextlib.closing(Space(containers=containers)))
            self.detector = stack.enter_context(contextlib.closing(Detector(self.space.client)))
            self.holder = stack.enter_context(
                contextlib.closing(Holder(self.space, self.directory))
            )
            self._stack = stack.pop_all()

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(scope="package")
def kits() -> Iterator[dict[bool, Kit]]:
    """The kits, without containers and with, that tests share as long as they leave them so."""
    made: dict[bool, Kit] = {}
    yield made
    for kit in made.values():
        kit.close()


@pytest.fixture
def kit(
    request: pytest.FixtureRequest, machine_is_left_as_found: None, kits: dict[bool, Kit]
) -> Iterator[Kit]:
    """The host is compared before and after every test; it has containers where they are probed."""
    containers = not {"probers", "fast_probers"}.isdisjoint(request.fixturenames)
    if containers not in kits:
        kits[containers] = Kit(containers=containers)
    kit = kits[containers]
    before = kit.holder.picture()
    yield kit
    after = kit.holder.picture_like(before)
    journals = [path.name for path in kit.directory.iterdir() if path.stat().st_size]
    if set(after.split("\n")) != set(before.split("\n")) or journals or kit.holder.running:
        del kits[containers]
        kit.close()
    same(before, after)
    assert not journals


@pytest.fixture
def holder(kit: Kit) -> Holder:
    return kit.holder


@pytest.fixture
def space(kit: Kit) -> Space:
    return kit.space


@pytest.fixture
def detector(kit: Kit) -> Detector:
    return kit.detector


@pytest.fixture
def prober(space: Space) -> Iterator[Prober]:
    """50 probes a second, of every kind."""
    with Prober(space.client) as child:
        yield child


@pytest.fixture
def probers(space: Space) -> Iterator[Probers]:
    """100 probes a second of the host's, and as many of each of its containers'."""
    with Probers(space.client, space.containers, rate=100) as started:
        yield started


@pytest.fixture
def fast_probers(space: Space) -> Iterator[Probers]:
    """All kinds of probes, of the host and its containers, in a fraction of a second."""
    with Probers(space.client, space.containers, rate=400) as started:
        yield started


@pytest.fixture
def fast(space: Space) -> Iterator[Prober]:
    """All kinds of probes in a tenth of a second."""
    with Prober(space.client, rate=400) as child:
        yield child


def same(before: str, after: str, what: str = "") -> None:
    """Two pictures are equal; what is not is shown. (The kernel may list a route twice.)"""
    old, new = (set(text.split("\n")) for text in (before, after))
    assert old == new, f"{what} gone: {[*(old - new)]}, new: {[*(new - old)]}"


def nothing(found: dict[Packet, int]) -> None:
    assert not found, "\n".join(f"{n} × {packet}" for packet, n in found.items())
