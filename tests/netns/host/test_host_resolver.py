"""systemd-resolved and resolvconf are told, where they serve the captured namespace.

Neither runs here: stand-ins of that name write down what they are asked.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.kits.netns.child import Child
from tests.kits.netns.leak import Space
from tests.netns.host.conftest import Holder

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes network namespaces")

STAND_IN = """#!/bin/sh
echo "$(basename $0) $*" >> {log}
[ -t 0 ] || sed 's/^/  /' >> {log}
"""
# Process 1 is in the captured namespace, as on a host; resolved's socket is where it would be.
AS_INIT = """
mount -t tmpfs none /run
mkdir -p /run/systemd/resolve
if [ "$1" = resolvectl ]; then touch /run/systemd/resolve/io.systemd.Resolve; fi
shift
exec "$@"
"""


class Resolver:
    """A holder that is process 1's child in namespaces where a resolver runs."""

    def __init__(self, space: Space, holder: Holder, name: str, directory: Path) -> None:
        self.log = directory / "log"
        self.log.write_text("")
        program = directory / name
        program.write_text(STAND_IN.format(log=self.log))
        program.chmod(0o755)
        self.config = json.dumps({"config": {"state_dir": str(holder.directory)}})
        self._read, self.write = os.pipe()
        argv = ["nsenter", f"--net={space.client.path}", "unshare", "-m", "-p", "-f",
                "--mount-proc", "sh", "-ec", AS_INIT, "sh", name,
                sys.executable, "-m", "tests.kits.netns.hold_host"]  # fmt: skip
        path = f"{directory}:{os.environ['PATH']}"
        self.child = Child("resolver", argv, stdin=self._read, env={"PATH": path})
        os.close(self._read)

    def order(self, line: str, pattern: str) -> None:
        seen = len(self.child.stdout)
        os.write(self.write, f"{line}\n".encode())
        self.child.wait_for(pattern, after=seen)

    def close(self) -> None:
        os.close(self.write)
        self.child.wait()


TOLD = {
    "resolvectl": [
        "resolvectl dns zks0 198.18.0.2",
        "resolvectl domain zks0 ~.",
        "resolvectl default-route zks0 true",
    ],
    "resolvconf": ["resolvconf -a zks0 -m 0 -x", "  nameserver 198.18.0.2"],
}


@pytest.mark.parametrize("name", ["resolvectl", "resolvconf"])
def test_in_a_pause_it_asks_whom_it_asked_before(
    space: Space, holder: Holder, name: str, tmp_path: Path
) -> None:
    resolver = Resolver(space, holder, name, tmp_path)
    try:
        resolver.order(resolver.config, "^applied")
        resolver.log.write_text("")
        resolver.order('update "pause"', "^updated")
        undone = {"resolvectl": "resolvectl revert zks0", "resolvconf": "resolvconf -d zks0 -f"}
        assert resolver.log.read_text().splitlines() == [undone[name]]
        resolver.log.write_text("")
        resolver.order('update "resume"', "^updated")
        assert resolver.log.read_text().splitlines() == TOLD[name]
        resolver.order("stop", "^ended")
    finally:
        resolver.close()


@pytest.mark.parametrize("name", ["resolvectl", "resolvconf"])
@pytest.mark.parametrize("how", ["stop", "kill"])
def test_the_resolver_is_told(
    space: Space, holder: Holder, name: str, how: str, tmp_path: Path
) -> None:
    resolver = Resolver(space, holder, name, tmp_path)
    try:
        resolver.order(resolver.config, "^applied")
        assert resolver.log.read_text().splitlines() == TOLD[name]
        resolver.log.write_text("")
        resolver.order(how, "^ended")
        if how == "kill":
            resolver.order(json.dumps({"recover": str(holder.directory)}), "^recovered")
        undone = {"resolvectl": [], "resolvconf": ["resolvconf -d zks0 -f"]}[name]
        assert resolver.log.read_text().splitlines() == undone, "resolved's goes with the link"
    finally:
        resolver.close()
