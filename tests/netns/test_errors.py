"""``connect()`` tells the truth: what the far end, the network or the policy said."""

from __future__ import annotations

import pytest

from tests.kits.netns import client, lab, servers
from tests.kits.netns.child import Child
from tests.kits.netns.lab import Lab
from tests.netns.conftest import Way

ERRORS = [
    (lab.FAR4, servers.CLOSED, "ECONNREFUSED"),
    (lab.FAR6, servers.CLOSED, "ECONNREFUSED"),
    (lab.NO_ROUTE4, 80, "ENETUNREACH"),
    (lab.NO_ROUTE6, 80, "ENETUNREACH"),
    (lab.NO_HOST4, 80, "EHOSTUNREACH"),
    (lab.NO_HOST6, 80, "EHOSTUNREACH"),
    # refused by policy: "administratively prohibited" (ICMP 3/13, ICMPv6 1/1), which Linux shows so
    (lab.PRIVATE4, servers.WHO, "EHOSTUNREACH"),
    (lab.PRIVATE6, servers.WHO, "EACCES"),
    ("127.9.9.9", servers.WHO, "ECONNREFUSED"),  # the host's own loopback, never captured
]


@pytest.mark.parametrize(("host", "port", "expected"), ERRORS)
def test_connect_fails_as_on_a_real_network(
    tunnel: Child, net: Lab, host: str, port: int, expected: str
) -> None:
    with net.host.entered():
        assert client.connect_error(host, port) == expected


@pytest.mark.parametrize("host", [lab.SILENT4, lab.SILENT6])
def test_silence_of_the_far_end_is_a_timeout(tunnel: Child, net: Lab, host: str) -> None:
    """The host's own TCP gives up; nothing answers for the far end."""
    with net.host.entered():
        assert client.connect_error(host, 80, syn_retries=1) == "ETIMEDOUT"


def test_errors_whichever_way_in(way: Way) -> None:
    cases = [(*case, 4) for case in ERRORS if not case[0].startswith("127.")]
    cases.append((lab.SILENT4, 80, "ETIMEDOUT", 1))
    arguments = [f"{host}|{port}|{retries}" for host, port, _, retries in cases]
    assert way.client("errors", *arguments).split() == [expected for _, _, expected, _ in cases]


def test_the_policy_not_the_network_refused(net: Lab, tunnel: Child) -> None:
    """Control: the private address is reachable from the worker, and --allow lets it through."""
    with net.host.entered():
        before = client.callers(lab.FAR4)
        assert client.connect_error(lab.PRIVATE4, servers.WHO) != "connected"
        assert client.callers(lab.FAR4) == before + 1
    host, port = net.add_host(), lab.WORKER_PORT + 1
    options = ["--allow", f"{lab.PRIVATE4}/32", "--allow", "fd66::/16"]
    with (
        net.worker(*options, listen=f"{lab.WORKER4}:{port}"),
        net.connect(host, url=f"ws://{lab.WORKER4}:{port}"),
        host.entered(),
    ):
        assert client.connect_error(lab.PRIVATE4, servers.WHO) == "connected"
        assert client.connect_error(lab.PRIVATE6, servers.WHO) == "connected"
        assert client.udp_exchange(lab.PRIVATE4, servers.ECHO, b"x") == b"x"


def test_a_scan_sees_only_the_open_ports(tunnel: Child, net: Lab) -> None:
    """A held SYN means that a closed port is never seen open."""
    ports = [servers.ECHO, *range(7100, 7140), servers.HTTP]
    with net.host.entered():
        opened = [p for p in ports if client.connect_error(lab.FAR4, p) == "connected"]
    assert opened == [servers.ECHO, servers.HTTP]
