"""The harness by direct routing, without the product: the control of what the other files claim."""

from __future__ import annotations

import pytest

from tests.kits.netns import client, lab, machine, servers
from tests.kits.netns.lab import Lab, Namespace


@pytest.fixture(scope="module")
def direct(net: Lab) -> Namespace:
    """A host without a tunnel."""
    return net.add_host()


@pytest.mark.parametrize("far", [lab.FAR4, lab.FAR6])
def test_direct_connections_show_the_hosts_own_address(direct: Namespace, far: str) -> None:
    with direct.entered():
        assert client.who(far) not in (lab.MID4, lab.MID6)


def test_transfers_and_half_close(direct: Namespace) -> None:
    with direct.entered():
        client.duplex_many(lab.FAR4, servers.DUPLEX, 5, 5_000_000)
        client.client_closes_first(lab.FAR6, 1_000_000)
        client.server_closes_first(lab.FAR4, 1_000_000)


def test_a_transfer_that_differs_is_noticed(direct: Namespace) -> None:
    with direct.entered(), client.connect(lab.FAR4, servers.SINK) as sock:
        chunks = list(servers.pattern(200_000))
        sock.sendall(b"".join([chunks[1], chunks[0], *chunks[2:]]))
        sock.shutdown(1)
        with sock.makefile() as lines:
            assert lines.readline().split()[1] != servers.pattern_digest(200_000)


def test_errors_and_the_private_address_exist(direct: Namespace) -> None:
    with direct.entered():
        assert client.connect_error(lab.FAR4, servers.CLOSED) == "ECONNREFUSED"
        assert client.connect_error(lab.SILENT4, 80, syn_retries=1) == "ETIMEDOUT"
        assert client.connect_error(lab.PRIVATE4, servers.WHO) == "connected"
        assert client.connect_error(lab.PRIVATE6, servers.WHO) == "connected"


def test_names_are_answered_at_the_name_server_only(net: Lab, direct: Namespace) -> None:
    at_far = net.application(direct, "dig", f"@{lab.NAMES4}", "far.zks.test", "+short").succeed()
    assert at_far == lab.FAR4
    code = net.application(direct, "dig", "far.zks.test", "+short", "+time=1", "+tries=1").wait()
    assert code != 0


def test_a_change_of_the_machine_is_noticed(direct: Namespace) -> None:
    before = machine.picture(direct.path)
    assert machine.difference(before, machine.picture(direct.path)) == ""
    direct.ip("rule add fwmark 7 lookup main", "-6 route add 2a0e:5::/64 dev lo"[3:])
    direct.sysctl("net.ipv4.conf.all.rp_filter=2")
    changed = machine.difference(before, machine.picture(direct.path))
    for part in ("rules", "routes6", "sysctls"):
        assert f"+++ {part}" in changed
    direct.ip("rule del fwmark 7 lookup main", "route del 2a0e:5::/64 dev lo")
