"""How resolvers are written."""

from __future__ import annotations

import pytest

from zks_lwip.dns.upstream.parse import DEFAULT_SERVERS, parse_forward, parse_server
from zks_lwip.dns.upstream.transports import TRANSPORTS
from zks_lwip.errors import ConfigError


@pytest.mark.parametrize("scheme", TRANSPORTS)
def test_each_transport_is_read_by_its_scheme(scheme: str) -> None:
    transport = TRANSPORTS[scheme]
    server = parse_server(f"{scheme}://dns.example@192.0.2.1")
    assert (server.scheme, server.port) == (scheme, transport.default_port)
    assert (server.path, server.authority) == (transport.default_path, "dns.example")
    assert str(parse_server(f"{server}@192.0.2.1")) == str(server)
    with pytest.raises(ConfigError, match=f"{scheme}://"):
        parse_server("nowhere://dns.example@192.0.2.1")


def test_a_name_with_addresses() -> None:
    server = parse_server("https://DNS.example/dns-query@9.9.9.9,2620:fe::fe,[2620:fe::9]")
    assert (server.scheme, server.host, server.port) == ("https", "dns.example", 443)
    assert server.addresses == ("9.9.9.9", "2620:fe::fe", "2620:fe::9")
    assert (server.path, server.get, server.authority) == ("/dns-query", False, "dns.example")
    assert str(server) == "https://dns.example/dns-query"


def test_ports_paths_and_get() -> None:
    server = parse_server("https://dns.example:8443/q?x=1{?dns}@192.0.2.1")
    assert (server.port, server.path, server.get) == (8443, "/q?x=1", True)
    assert server.authority == "dns.example:8443"
    assert parse_server("https://dns.example@192.0.2.1").path == "/dns-query"


def test_tls() -> None:
    server = parse_server("tls://dns.example@192.0.2.1")
    assert (server.scheme, server.port, server.path) == ("tls", 853, "")
    assert parse_server("tls://dns.example:8853@192.0.2.1").authority == "dns.example:8853"


def test_an_address_needs_no_other() -> None:
    assert parse_server("https://1.1.1.1/dns-query").addresses == ("1.1.1.1",)
    server = parse_server("https://[2620:fe::fe]/dns-query")
    assert (server.addresses, server.authority) == (("2620:fe::fe",), "[2620:fe::fe]")


def test_the_defaults_are_cloudflare_and_quad9() -> None:
    first, second = DEFAULT_SERVERS
    assert first.host == "cloudflare-dns.com" and "1.1.1.1" in first.addresses
    assert second.host == "dns.quad9.net" and "2620:fe::fe" in second.addresses


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("9.9.9.9", "must begin with https://"),
        ("http://dns.example/@192.0.2.1", "must begin with https://"),
        ("udp://9.9.9.9", "must begin with https://"),
        ("https://dns.example/dns-query", "say at which addresses dns.example is"),
        ("https://dns.example/dns-query@", "IP addresses, with commas"),
        ("https://dns.example/dns-query@dns2.example", "IP addresses, with commas"),
        ("https:///dns-query@192.0.2.1", "is not a host name"),
        ("https://a b/dns-query@192.0.2.1", "is not a host name"),
        ("https://dns.example/a b@192.0.2.1", "characters"),
        ("https://dns.example/#x@192.0.2.1", "fragment"),
        ("https://dns.example:x/@192.0.2.1", "[Pp]ort"),
        ("https://dns.example:99999/@192.0.2.1", "[Pp]ort"),
        ("https://dns.example:0/@192.0.2.1", "[Pp]ort"),
        ("https://[::1/dns-query", "Invalid"),
        ("tls://dns.example/path@192.0.2.1", "no path"),
    ],
)
def test_what_is_wrong_is_said(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_server(text)


def test_forward() -> None:
    assert parse_forward("Corp.example.=192.168.1.1") == ("corp.example", "192.168.1.1", 53)
    assert parse_forward("lan=[fe80::1]:5353") == ("lan", "fe80::1", 5353)
    assert parse_forward("lan=fd00::1") == ("lan", "fd00::1", 53)
    assert parse_forward("lan=192.168.1.1:5300") == ("lan", "192.168.1.1", 5300)
    assert parse_forward("Cluster.Local=worker") == ("cluster.local", "worker", 0)


@pytest.mark.parametrize(
    "text",
    ["lan", "=192.168.1.1", "lan=", "lan=router", "lan=1.2.3.4:0", "a b=1.2.3.4", "lan=[::1"],
)
def test_malformed_forwards(text: str) -> None:
    with pytest.raises(ConfigError, match="`dns.forward`"):
        parse_forward(text)
