"""The system's resolver is told, and put back: systemd-resolved, resolvconf and openresolv, really.

(With stand-ins that write down every command: ``host/test_host_resolver.py``.)
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator

import pytest

from tests.kits import resolver_programs
from tests.kits.netns import lab
from tests.kits.netns.child import Child, until
from tests.kits.netns.lab import WORKER4, WORKER_PORT, Lab, Namespace
from tests.kits.netns.leak import Detector, Packet, housekeeping
from tests.kits.netns.resolvers import ResolverHost, missing
from tests.netns.host.conftest import nothing

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes network namespaces")


def to_worker(packet: Packet) -> bool:
    worker = (packet.destination, packet.port) == (WORKER4, WORKER_PORT)
    return housekeeping(packet) or (packet.protocol == socket.IPPROTO_TCP and worker)


@pytest.fixture
def host(net: Lab) -> Namespace:
    return net.add_host()


@pytest.fixture
def detector(host: Namespace) -> Iterator[Detector]:
    with contextlib.closing(Detector(host)) as found:
        found.allowed = to_worker
        yield found


@pytest.fixture(params=list(resolver_programs.PACKAGES))
def resolver(request: pytest.FixtureRequest, net: Lab, host: Namespace) -> Iterator[ResolverHost]:
    if why := missing(request.param):
        pytest.skip(why)
    with contextlib.closing(ResolverHost(net, host, request.param)) as made:
        yield made


def asks_directly(resolver: ResolverHost, detector: Detector) -> bool:
    """Whether a look-up succeeds by a question to the name server that is beside the tunnel."""
    with detector.watching() as found:
        assert resolver.looks_up()
    return (lab.NAMES4, 53) in {(packet.destination, packet.port) for packet in found}


@pytest.mark.parametrize("user", [None, "nobody"])
def test_told_and_put_back(
    worker: Child, resolver: ResolverHost, detector: Detector, user: str | None
) -> None:
    before = resolver.picture()

    def as_before() -> None:
        # (That the TUN has gone, systemd-resolved is told by the kernel, some time later.)
        until(lambda: resolver.picture() == before, message=lambda: resolver.picture())
        assert asks_directly(resolver, detector)

    assert lab.NAMES4 in before and asks_directly(resolver, detector), "the control"
    options = [] if user is None else ["--user", user]
    with resolver.connect(*options) as child:
        assert resolver.first_server() == "198.18.0.2"
        with detector.watching() as found:
            assert resolver.looks_up()
            assert resolver.looks_up("far"), "the host's search domain is lost"
        nothing(found)
        assert "trust-ad" in resolver.run("cat", "/etc/resolv.conf")
        resolver.zks("pause", "--for", "1h")
        assert asks_directly(resolver, detector)
        resolver.zks("pause", "--end")
        assert resolver.first_server() == "198.18.0.2"
        assert not asks_directly(resolver, detector)
        resolver.zks("disconnect")
        assert child.wait() == 0, child.output
    child.no_traceback()
    as_before()

    with resolver.connect(*options) as child:
        with detector.watching() as found:
            resolver.kill()
            child.wait()
            assert not resolver.looks_up(patience=5)
            time.sleep(0.2)
        nothing(found)
        resolver.zks("recover")
    as_before()
