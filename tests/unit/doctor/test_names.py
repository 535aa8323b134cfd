"""What ``doctor`` says of a worker's name: as ``connect`` finds it, and as the system does."""

from __future__ import annotations

import socket
from contextlib import aclosing
from pathlib import Path

from tests.kits import dns_servers as servers
from tests.kits.worker import running_worker
from zks_lwip.config import DnsOptions, VpnConfig
from zks_lwip.dns.local import parse_static_name
from zks_lwip.doctor.finding import Finding, Level
from zks_lwip.doctor.names import Found, compare, look_up
from zks_lwip.doctor.worker import examine_worker
from zks_lwip.tunnel.options import WorkerEndpoint

NAME = "worker.example"
HERE = Found(["192.0.2.1", "2001:db8::1"])
THERE = Found(["192.0.2.2"])
NOWHERE = Found([], "no such name")


async def test_a_name_is_looked_up_over_https_as_connect_does_it(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    servers.AUTHORITY.cert_pem.write_to_path(authority)
    async with servers.listening(servers.http2, None, servers.server_context("h2")) as server:
        url = f"https://{servers.NAME}:{server.port}/q@127.0.0.1"
        config = VpnConfig(dns=DnsOptions.parse(servers=[url]), ca_file=authority)
        # That server knows ok.example, which no other does; .invalid is answered by none.
        finding, addresses = await look_up(config, "ok.example", as_connect=True)
        assert list(addresses) == ["192.0.2.1"]
        assert finding.level is Level.WARNING and "192.0.2.1" in finding.text
        finding, addresses = await look_up(config, "no.invalid", as_connect=True)
        assert not addresses and finding.level is Level.FAILURE


async def test_a_name_of_the_settings_is_not_the_systems() -> None:
    static = (parse_static_name("localhost=192.0.2.9"),)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"https://dns.example:{closed.getsockname()[1]}/q@127.0.0.1"
        config = VpnConfig(dns=DnsOptions.parse(servers=[url]), dns_static=static)
        finding, addresses = await look_up(config, "localhost", as_connect=True)
        assert list(addresses) == ["192.0.2.9"] and finding.level is Level.NOTE
        assert "127.0.0.1" in finding.text or "::1" in finding.text
        finding, addresses = await look_up(config, "localhost", as_connect=False)
        assert set(addresses) <= {"127.0.0.1", "::1"} and finding.level is Level.OK
        finding, _ = await look_up(config, "worker.example", as_connect=True)
    assert finding.level is Level.FAILURE and "refused" in finding.text
    assert "`worker_address`" in finding.remedy and "`dns.servers`" in finding.remedy


async def test_a_worker_is_examined_where_its_name_leads() -> None:
    async with running_worker() as (_, (_, port)):
        endpoint = WorkerEndpoint(url=f"ws://localhost:{port}/tunnel")
        config = VpnConfig(workers=(endpoint,))
        async with aclosing(examine_worker(config, endpoint, None)) as findings:
            found: dict[str, Finding] = {each.name: each async for each in findings}
    assert next(iter(found)) == "name" and found["name"].level is Level.OK
    assert found["worker"].level is found["token"].level is Level.OK
    assert "127.0.0.1" in found["worker"].text


def test_what_both_say() -> None:
    assert compare(NAME, HERE, Found(["192.0.2.1"])).level is Level.OK
    assert compare(NAME, HERE, THERE).level is Level.NOTE
    assert compare(NAME, HERE, NOWHERE).level is Level.WARNING
    only_the_system = compare(NAME, NOWHERE, THERE)
    assert only_the_system.level is Level.FAILURE and "192.0.2.2" in only_the_system.text
    assert "nor does" in compare(NAME, NOWHERE, NOWHERE).text
    assert compare(NAME, None, THERE).level is Level.OK
    assert compare(NAME, None, NOWHERE).level is Level.FAILURE
    for ours, system in ((HERE, NOWHERE), (NOWHERE, THERE), (NOWHERE, NOWHERE), (None, NOWHERE)):
        assert compare(NAME, ours, system).remedy
