"""The DNS options as they are written, and what follows from them."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path

import pytest

from zks_lwip.dns import Via
from zks_lwip.dns.options import DnsOptions, Dot, make_service, parse_static_name
from zks_lwip.errors import ConfigError


class Tunnel:
    up = True
    silent = False

    def slowness(self) -> float:
        return 0.0

    def start_dns_query(self, message: bytes, on_answer: Callable[[bytes | None], None]) -> None:
        return None

    async def dns_query(self, message: bytes) -> bytes:
        raise AssertionError("not asked")

    async def connect_tcp(self, host: str, port: int):  # type: ignore[no-untyped-def]
        raise AssertionError("not asked")


def test_defaults() -> None:
    options = DnsOptions.parse()
    assert options == DnsOptions() and options.via is Via.AUTO and options.dot is Dot.ALLOW


def test_what_is_asked_from_this_machine() -> None:
    options = DnsOptions.parse(
        servers=["https://dns.example/q@192.0.2.1,2001:db8::1"], forward=["lan=192.168.1.1"]
    )
    lan = ipaddress.ip_network("192.168.1.1")
    both = (lan, ipaddress.ip_network("192.0.2.1"), ipaddress.ip_network("2001:db8::1"))
    assert options.outside(embedded=True) == both
    assert options.outside(embedded=False) == (lan,)
    assert DnsOptions(via=Via.DIRECT).outside(embedded=False)[0] == ipaddress.ip_network("1.1.1.1")
    with pytest.raises(ConfigError, match="`dns.via` worker"):
        DnsOptions(via=Via.WORKER).outside(embedded=True)
    with pytest.raises(ConfigError, match="`protocol` v1"):
        options.outside(embedded=False, v1=True)
    assert DnsOptions().outside(embedded=False, v1=True) == ()
    by_worker = DnsOptions.parse(forward=["cluster.local=worker", "lan=192.168.1.1"])
    assert by_worker.outside(embedded=False) == (lan,)
    with pytest.raises(ConfigError, match="the worker is this machine"):
        by_worker.outside(embedded=True)


def test_a_link_local_server_is_let_out_without_its_zone() -> None:
    options = DnsOptions.parse(forward=["lan=fe80::1%eth0"])
    assert list(map(str, options.outside(embedded=False))) == ["fe80::1/128"]


def test_dns_over_tls_of_the_applications() -> None:
    assert DnsOptions(dot=Dot.BLOCK).refuses(853)
    assert not DnsOptions(dot=Dot.BLOCK).refuses(443)
    assert not DnsOptions().refuses(853)


def test_what_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`dns.forward`"):
        DnsOptions.parse(forward=["lan"])
    with pytest.raises(ConfigError, match="`dns.block`"):
        DnsOptions.parse(block=[tmp_path / "none"])
    with pytest.raises(ConfigError, match="`dns.servers` 9.9.9.9"):
        DnsOptions.parse(servers=["9.9.9.9"])
    with pytest.raises(ConfigError, match="`dns.via` worker"):
        DnsOptions.parse(servers=["https://1.1.1.1/"], via="worker")


def test_the_service_that_comes_of_it(tmp_path: Path) -> None:
    block = tmp_path / "block"
    block.write_text("ads.example\n")
    options = DnsOptions.parse(block=[block], forward=["lan=192.168.1.1"])
    service = make_service(
        options, Tunnel(), embedded=False, static=[parse_static_name("a.test=192.0.2.1")]
    )
    names = [name for name in service.stats() if name.startswith("asked")]
    assert names == [
        "asked https://cloudflare-dns.com/dns-query",
        "asked https://dns.quad9.net/dns-query",
        "asked worker",
        "asked 192.168.1.1#53",
    ]
    assert service.stats()["blocked_names"] == 1
