"""How long it takes until bytes flow, and until our commands answer."""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import ExitStack

from tests.bench.compare.contenders import AS_INSTALLED, Contender, Ours
from tests.bench.compare.figures import Figure
from tests.bench.compare.measures import Figures
from tests.bench.compare.site import Site
from tests.kits.netns.child import Child
from tests.kits.netns.lab import PYTHON, ZKS, Namespace

__all__ = ["start"]

_COMMANDS = {
    "import zks_lwip.vpn": [*PYTHON, "-c", "import zks_lwip.vpn"],
    "from zks_lwip.vpn import open_vpn": [*PYTHON, "-c", "from zks_lwip.vpn import open_vpn"],
    "--help": [*ZKS, "--help"],
    "connect --help": [*ZKS, "connect", "--help"],
}


def start(site: Site, contender: Contender, host: Namespace) -> Figures:
    """Measure a start of a contender that is down: its server is up when the clock starts."""
    with ExitStack() as stack:
        contender.start_server(site, stack)
        time.sleep(0.3)
        began = time.perf_counter()
        contender.start_client(site, host, stack)
        site.wait_through(host)
        took = time.perf_counter() - began
    yield Figure("start", "until the first byte has come back", "s"), took
    if isinstance(contender, Ours) and not contender.tls:
        yield Figure("start", "connect, its own worker, until ready", "s"), _embedded(site, host)
        for name, argv in _COMMANDS.items():
            yield Figure("start", name, "s", digits=3), _command(argv)


def _embedded(site: Site, host: Namespace) -> float:
    command = host.command([*ZKS, "connect"], resolv=site.net.resolv)
    began = time.perf_counter()
    with Child("connect", command, env=AS_INSTALLED) as child:
        child.wait_for("^ready: ")
        return time.perf_counter() - began


def _command(argv: list[str]) -> float:
    environment = {**os.environ, **AS_INSTALLED}
    began = time.perf_counter()
    subprocess.run(argv, env=environment, check=True, capture_output=True, timeout=60)
    return time.perf_counter() - began
