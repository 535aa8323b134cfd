"""Names of special use are answered here, whatever their spelling and type; others are not."""

from __future__ import annotations

import ipaddress
import sys
from pathlib import Path

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zks_lwip.dns.local import LocalNames, parse_static_name
from zks_lwip.dns.message.query import Query, examine
from zks_lwip.dns.special import ENDINGS, ZONES
from zks_lwip.errors import ConfigError

HERE = LocalNames(hosts=None)
SOA = "none.invalid. 1 3600 1200 604800 300"


def asked(name: str, kind: str = "A", **arguments: object) -> Query:
    message = dns.message.make_query(name, kind, use_edns=0, **arguments)  # type: ignore[arg-type]
    query = examine(message.to_wire())
    assert isinstance(query, Query)
    return query


def answered(
    name: str, kind: str = "A", local: LocalNames = HERE, **arguments: object
) -> dns.message.Message | None:
    """The answer that is given here, if any, as dnspython reads it."""
    query = asked(name, kind, **arguments)
    found = local.lookup(query)
    if found is None:
        return None
    answer, origin = found
    message = dns.message.from_wire(answer.render(query))
    assert message.question[0].name == dns.name.from_text(name)
    if origin == "special" and not message.answer and "use-application" not in name:
        (soa,) = message.authority
        assert message.question[0].name.is_subdomain(soa.name)
        assert (soa.rdtype, soa.ttl, soa[0].minimum) == (dns.rdatatype.SOA, 300, 300)
        assert message.options[0].code == 29 and message.options[0].text
    return message


def verdict(name: str, kind: str = "A", local: LocalNames = HERE) -> str:
    """ "asked", or the records of the answer, or its code."""
    message = answered(name, kind, local)
    if message is None:
        return "asked"
    records = " ".join(str(data) for rrset in message.answer for data in rrset)
    return records or dns.rcode.to_text(message.rcode())


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        # RFC 6762
        ("foo.local", "A", "NXDOMAIN"),
        ("FOO.Local", "AAAA", "NXDOMAIN"),
        ("_http._tcp.local", "SRV", "NXDOMAIN"),
        ("foo.local", "ANY", "NXDOMAIN"),
        ("foo.local", "TYPE65280", "NXDOMAIN"),
        ("local", "SOA", "NXDOMAIN"),  # else nss-mdns gives multicast DNS up
        ("local", "NS", "NXDOMAIN"),
        ("foo.local.example", "A", "asked"),
        ("notlocal.example", "A", "asked"),
        ("xlocal.x", "A", "asked"),
        # RFC 8375
        ("printer.home.arpa", "A", "NXDOMAIN"),
        ("home.arpa", "A", "NOERROR"),
        ("home.arpa", "NS", "home.arpa."),
        ("home.arpa", "DS", "asked"),
        ("x.home.arpa", "DS", "NXDOMAIN"),
        ("nothome.arpa", "A", "asked"),
        ("home.arpa.example", "A", "asked"),
        # RFC 6761
        ("localhost", "A", "127.0.0.1"),
        ("a.b.LOCALHOST", "AAAA", "::1"),
        ("localhost", "ANY", "127.0.0.1 ::1"),
        ("localhost", "MX", "NOERROR"),
        ("x.invalid", "A", "NXDOMAIN"),
        ("invalid", "A", "NXDOMAIN"),
        ("x.test", "A", "asked"),
        ("www.example.com", "A", "asked"),
        # RFC 7686, RFC 9476
        ("x.onion", "A", "NXDOMAIN"),
        ("x.y.alt", "TXT", "NXDOMAIN"),
        # RFC 9462, and Mozilla's canary
        ("_dns.resolver.arpa", "SVCB", "NOERROR"),
        ("resolver.arpa", "A", "NOERROR"),
        ("use-application-dns.net", "A", "NXDOMAIN"),
        # RFC 6303
        ("1.1.168.192.in-addr.arpa", "PTR", "NXDOMAIN"),
        ("lb._dns-sd._udp.0.1.168.192.in-addr.arpa", "PTR", "NXDOMAIN"),
        ("168.192.in-addr.arpa", "SOA", f"168.192.in-addr.arpa. {SOA}"),
        ("168.192.IN-ADDR.arpa", "NS", "168.192.in-addr.arpa."),
        ("168.192.in-addr.arpa", "DS", "asked"),
        ("168.192.in-addr.arpa", "A", "NOERROR"),
        ("192.in-addr.arpa", "NS", "asked"),
        ("in-addr.arpa", "NS", "asked"),
        ("arpa", "NS", "asked"),
        ("1.0.0.127.in-addr.arpa", "PTR", "localhost."),
        ("1.0.0.127.in-addr.arpa", "A", "NOERROR"),
        ("2.0.0.127.in-addr.arpa", "PTR", "NXDOMAIN"),
        (f"1.{'0.' * 31}ip6.arpa", "PTR", "localhost."),
        (f"{'0.' * 32}ip6.arpa", "PTR", "NOERROR"),
        (f"2.{'0.' * 31}ip6.arpa", "PTR", "asked"),
        ("d.f.ip6.arpa", "NS", "d.f.ip6.arpa."),
        ("f.ip6.arpa", "NS", "asked"),
        # Without a dot: host names only.
        ("printer", "A", "NOERROR"),
        ("Printer", "AAAA", "NOERROR"),
        ("printer", "HTTPS", "NOERROR"),
        ("com", "A", "NOERROR"),
        ("com", "NS", "asked"),
        ("com", "DS", "asked"),
        ("com", "SOA", "asked"),
        (".", "NS", "asked"),
        (".", "A", "asked"),
    ],
)  # fmt: skip
def test_who_answers(name: str, kind: str, expected: str) -> None:
    assert verdict(name, kind) == expected


def test_only_in_the_class_of_the_internet() -> None:
    assert answered("foo.local", rdclass="CH") is None
    assert answered("foo.local", rdclass="ANY") is not None


def test_the_bits_of_dnssec() -> None:
    message = answered("foo.local", want_dnssec=True)
    assert message is not None and message.ednsflags & dns.flags.DO
    assert not message.flags & dns.flags.AD
    query = dns.message.make_query("foo.local", "A", flags=dns.flags.RD | dns.flags.CD)
    read = examine(query.to_wire())
    assert isinstance(read, Query)
    found = HERE.lookup(read)
    assert found is not None
    plain = dns.message.from_wire(found[0].render(read))
    assert plain.flags & dns.flags.CD and plain.edns == -1 and plain.authority


PRIVATE = [
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "0.0.0.0/8", "127.0.0.0/8",
        "169.254.0.0/16", "100.64.0.0/10", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24",
        "198.18.0.0/15", "255.255.255.255/32", "::/128", "::1/128", "fc00::/7", "fe80::/10",
        "2001:db8::/32",
    )
]  # fmt: skip


def is_private(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    return any(parsed in network for network in PRIVATE)


def is_answered(address: str) -> bool:
    return HERE.lookup(asked(ipaddress.ip_address(address).reverse_pointer, "PTR")) is not None


EDGES = [
    "9.255.255.255", "10.0.0.0", "10.255.255.255", "11.0.0.0", "172.15.255.255", "172.16.0.0",
    "172.31.255.255", "172.32.0.0", "192.167.255.255", "192.168.0.0", "192.168.255.255",
    "192.169.0.0", "100.63.255.255", "100.64.0.0", "100.127.255.255", "100.128.0.0",
    "169.253.255.255", "169.254.0.0", "169.255.0.0", "126.255.255.255", "128.0.0.0", "1.0.0.0",
    "198.17.255.255", "198.18.0.2", "198.19.255.255", "198.20.0.0", "255.255.255.254",
    "255.255.255.255", "192.0.1.255", "192.0.2.0", "192.0.3.0", "8.8.8.8", "1.2.16.172",
    "::", "::1", "::2", "fb00::", "fbff:ffff::", "fc00::1", "fdff:ffff::", "fe00::", "fe7f::",
    "fe80::", "fe8f::1", "fe90::", "febf:ffff::", "fec0::", "fecf::", "ff02::1", "2001:db7::1",
    "2001:db8::", "2001:db8:ffff::", "2001:db9::", "2606:4700:4700::1111", "::ffff:10.0.0.1",
]  # fmt: skip


@pytest.mark.parametrize("address", EDGES)
def test_reverse_look_ups_at_the_edges(address: str) -> None:
    assert is_answered(address) == is_private(address)


@given(
    st.ip_addresses()
    | st.sampled_from(PRIVATE).flatmap(
        lambda network: st.ip_addresses(network=network)  # type: ignore[arg-type]
    )
    | st.sampled_from(PRIVATE).map(lambda network: network[-1])
)
def test_reverse_look_ups_of_private_addresses_and_no_others(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    assert is_answered(str(address)) == is_private(str(address))


@given(st.lists(st.binary(min_size=1, max_size=10), max_size=6), st.sampled_from(["A", "PTR"]))
def test_any_name_below_has_the_verdict_of_its_parent(labels: list[bytes], kind: str) -> None:
    for parent in ("local", "home.arpa", "16.172.in-addr.arpa", "d.f.ip6.arpa"):
        above = dns.name.from_text(parent)
        query = asked(str(dns.name.Name((*labels, *above.labels))), kind)
        assert HERE.lookup(query) is not None


def test_what_the_user_has_named_comes_first(tmp_path: Path) -> None:
    hosts, block = tmp_path / "hosts", tmp_path / "block"
    hosts.write_text("192.168.1.5 nas.local nas\n")
    block.write_text("ads.local\n0.0.0.0 zero.local\n")
    local = LocalNames(
        static=map(parse_static_name, ["db.home.arpa=10.0.0.9", "printer=10.0.0.8"]),
        hosts=hosts,
        block=[block],
        forward=["corp.local", "168.192.in-addr.arpa", "server", "one.onion"],
    )
    for name, kind, expected in (
        ("nas.local", "A", "192.168.1.5"),
        ("nas.local", "MX", "NOERROR"),
        ("nas", "A", "192.168.1.5"),
        ("other.local", "MX", "NXDOMAIN"),
        ("db.home.arpa", "A", "10.0.0.9"),
        ("printer", "A", "10.0.0.8"),
        ("5.1.168.192.in-addr.arpa", "PTR", "nas.local. nas."),
        ("9.0.0.10.in-addr.arpa", "PTR", "db.home.arpa."),
        ("9.0.0.10.in-addr.arpa", "TXT", "NOERROR"),
        ("8.0.0.10.in-addr.arpa", "TXT", "NOERROR"),
        ("7.0.0.10.in-addr.arpa", "PTR", "NXDOMAIN"),
        ("zero.local", "A", "0.0.0.0"),
        ("x.corp.local", "A", "asked"),
        ("corp.local", "A", "asked"),
        ("xcorp.local", "A", "NXDOMAIN"),
        ("6.1.168.192.in-addr.arpa", "PTR", "asked"),
        ("server", "A", "asked"),
        ("x.one.onion", "A", "asked"),
    ):
        assert (name, kind, verdict(name, kind, local)) == (name, kind, expected)
    found = local.lookup(asked("x.ads.local"))
    assert found is not None and found[1] == "blocked"


def test_a_malformed_domain_is_a_clear_error() -> None:
    with pytest.raises(ConfigError):
        LocalNames(hosts=None, static=[parse_static_name("a..local=192.0.2.1")])


@pytest.mark.skipif(sys.platform != "linux", reason="limits are other ones elsewhere")
def test_the_hosts_file_is_not_lost_for_want_of_descriptors(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("192.168.1.5 nas.local\n")
    local = LocalNames(hosts=hosts)
    hosts.write_text("192.168.1.50 nas.local\n")
    import resource  # not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        assert not local.refresh_hosts()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert verdict("nas.local", local=local) == "192.168.1.5"
    assert local.refresh_hosts()
    assert verdict("nas.local", local=local) == "192.168.1.50"
    hosts.unlink()
    assert local.refresh_hosts()
    assert verdict("nas.local", local=local) == "NXDOMAIN"


def test_no_zone_is_overlooked() -> None:
    assert all(name.endswith(ENDINGS) for name in ZONES)
