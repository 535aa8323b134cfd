"""The SSRF rules of PROTOCOL.md §7."""

from __future__ import annotations

import ctypes
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zks_lwip.errors import ConfigError
from zks_lwip.worker.policy import (
    InvalidHost,
    IPAddress,
    Policy,
    embedded_ipv4,
    parse_address,
    parse_network,
)

REFUSED = [
    ("0.0.0.0", "unspecified"),
    ("0.1.2.3", "unspecified"),
    ("10.0.0.1", "private"),
    ("10.255.255.255", "private"),
    ("100.64.0.1", "carrier-grade NAT"),
    ("100.127.255.255", "carrier-grade NAT"),
    ("127.0.0.1", "loopback"),
    ("127.255.255.254", "loopback"),
    ("169.254.1.1", "link-local"),
    ("169.254.169.254", "cloud metadata"),
    ("168.63.129.16", "cloud metadata"),
    ("100.100.100.200", "cloud metadata"),
    ("172.16.0.1", "private"),
    ("172.31.255.255", "private"),
    ("192.0.0.8", "reserved"),
    ("192.0.2.1", "documentation"),
    ("192.88.99.1", "reserved"),
    ("192.168.1.1", "private"),
    ("198.18.0.1", "benchmarking"),
    ("198.51.100.1", "documentation"),
    ("203.0.113.1", "documentation"),
    ("224.0.0.1", "multicast"),
    ("239.255.255.250", "multicast"),
    ("240.0.0.1", "reserved"),
    ("255.255.255.255", "broadcast"),
    ("::", "unspecified"),
    ("::1", "loopback"),
    ("::7f00:1", "loopback (embedded 127.0.0.1)"),
    ("::8.8.8.8", "IPv4-compatible"),
    ("::ffff:10.0.0.1", "private"),
    ("::ffff:0:127.0.0.1", "loopback (embedded 127.0.0.1)"),
    ("64:ff9b::169.254.169.254", "cloud metadata (embedded 169.254.169.254)"),
    ("64:ff9b::c0a8:1", "private (embedded 192.168.0.1)"),
    ("64:ff9b:1::808:808", "local-use NAT64"),
    ("100::1", "discard-only"),
    ("2001:2::1", "benchmarking"),
    ("2001:db8::1", "documentation"),
    ("2001:10::1", "reserved"),
    ("2002:7f00:1::1", "loopback (embedded 127.0.0.1)"),
    ("2002:a00:1::", "private (embedded 10.0.0.1)"),
    # Teredo: server 65.54.227.120, client 192.168.0.1 (its bits inverted); then a private server
    ("2001:0:4136:e378:8000:63bf:3f57:fffe", "private (embedded 192.168.0.1)"),
    ("2001:0:a00:1:8000:63bf:f7f7:f7f7", "private (embedded 10.0.0.1)"),
    ("3fff::1", "documentation"),
    ("4000::1", "reserved"),
    ("5f00::1", "reserved"),
    ("fc00::1", "unique-local"),
    ("fd00:ec2::254", "cloud metadata"),
    ("fd12::1", "unique-local"),
    ("fe80::1", "link-local"),
    ("fec0::1", "site-local"),
    ("ff02::1", "multicast"),
    ("2a00::5efe:127.0.0.1", "loopback (embedded 127.0.0.1)"),
]

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.1",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.1",
    "192.167.255.255",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2001:4860:4860::8888",
    "2606:4700:4700::1111",
    "2a00::1",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "2002:808:808::1",
    "2001:0:4136:e378:8000:63bf:f7f7:f7f7",  # Teredo, client 8.8.8.8
]


@pytest.mark.parametrize(("host", "reason"), REFUSED)
def test_refused(host: str, reason: str) -> None:
    policy = Policy()
    assert policy.refusal(ip_address(host)) == reason
    assert not policy.permits(host)


@pytest.mark.parametrize("host", PUBLIC)
def test_public(host: str) -> None:
    policy = Policy()
    assert policy.refusal(ip_address(host)) is None
    assert policy.permits(host)


def test_allow() -> None:
    policy = Policy([ip_network("10.1.0.0/16"), ip_network("fd00::/8"), ip_network("127.0.0.0/8")])
    for host in (
        "10.1.2.3",
        "::ffff:10.1.2.3",
        "64:ff9b::10.1.2.3",
        "2002:a01:203::",
        "::127.0.0.1",
        "fd12::1",
        "127.1",
        "8.8.8.8",
    ):
        assert policy.permits(host), host
    for host in (
        "10.2.0.1",
        "::ffff:10.2.0.1",
        "64:ff9b::10.2.0.1",
        "fc00::1",
        "::1",
        "192.168.0.1",
    ):
        assert not policy.permits(host), host


def test_allowed_ipv6_network_allows_what_it_embeds() -> None:
    policy = Policy([ip_network("64:ff9b::/96")])
    assert policy.permits("64:ff9b::10.0.0.1")
    assert not policy.permits("10.0.0.1")


def test_teredo_needs_both_ends_allowed() -> None:
    # server 10.0.0.1, client 192.168.0.1
    host = "2001:0:a00:1:8000:63bf:3f57:fffe"
    assert not Policy([ip_network("10.0.0.0/8")]).permits(host)
    assert Policy([ip_network("10.0.0.0/8"), ip_network("192.168.0.0/16")]).permits(host)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.1", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("0X7F.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("017700000001", "127.0.0.1"),
        ("0177.0.0.01", "127.0.0.1"),
        ("10.65535", "10.0.255.255"),
        ("192.168.257", "192.168.1.1"),
        ("0", "0.0.0.0"),
        ("1.2.3.4", "1.2.3.4"),
        ("::ffff:7f00:1", "127.0.0.1"),
        ("::FFFF:127.0.0.1", "127.0.0.1"),
        ("2001:DB8::1", "2001:db8::1"),
    ],
)
def test_odd_spellings(host: str, address: str) -> None:
    assert parse_address(host) == ip_address(address)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "fe80::1%eth0",
        "[::1]",
        "1:2",
        "127.0.0.1.",
        "256.0.0.1",
        "1.2.3.4.5",
        "08",
        "4294967296",
        "example.1",
        "foo.0x1",
        "127.0.0.1 ",
        "a b",
        "a\0b",
        "a/b",
        "user@host",
        "x" * 300,
        "a.09",
    ],
)
def test_neither_address_nor_name(host: str) -> None:
    with pytest.raises(InvalidHost):
        parse_address(host)


@pytest.mark.parametrize(
    "host", ["localhost", "example.com.", "a-b.c", "bücher.example", "1.example", "0x7g", "0x"]
)
def test_names(host: str) -> None:
    assert parse_address(host) is None
    assert Policy().check_literal(host) == (None, "not an address")


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0.0/33", "example.com", "", "::/129"])
def test_bad_network(text: str) -> None:
    with pytest.raises(ConfigError, match="^`allow` "):
        parse_network(text)


def test_network() -> None:
    assert parse_network("192.0.2.1") == ip_network("192.0.2.1/32")
    assert parse_network("fd00::/8") == ip_network("fd00::/8")


numbers = st.one_of(
    st.integers(0, 2**33).map(str),
    st.integers(0, 2**33).map(hex),
    st.integers(0, 2**33).map(lambda n: "0" + oct(n)[2:]),
    st.integers(0, 300).map(str),
    st.sampled_from(["", "08", "0x", "1a", "00"]),
)


@given(st.lists(numbers, min_size=1, max_size=5).map(".".join))
def test_reads_ipv4_as_the_system_does(host: str) -> None:
    libc = ctypes.CDLL(None)
    raw = ctypes.create_string_buffer(4)
    ok = bool(libc.inet_aton(host.encode(), raw))
    try:
        address = parse_address(host)
    except InvalidHost:
        address = None
    if ok:
        assert address == IPv4Address(raw.raw)
    else:
        assert not isinstance(address, IPv4Address)


@given(st.integers(0, 2**32 - 1).map(IPv4Address))
def test_no_embedding_opens_what_is_refused(address: IPv4Address) -> None:
    policy = Policy()
    value = int(address)
    forms = [
        IPv6Address(0xFFFF << 32 | value),
        IPv6Address(value),
        IPv6Address(0x64FF9B << 96 | value),
        IPv6Address(0x2002 << 112 | value << 80 | 1),
        IPv6Address(0x2001_0000 << 96 | 0x0808_0808 << 64 | (value ^ 0xFFFF_FFFF)),
        IPv6Address(0x2001_0000 << 96 | value << 64 | (0x0808_0808 ^ 0xFFFF_FFFF)),
    ]
    for form in forms:
        if value > 1:
            assert address in list(embedded_ipv4(form))
        if policy.refusal(address) is not None:
            assert policy.refusal(form) is not None, form


class Machine:
    """A machine with these addresses, which may change."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = set(map(ip_address, addresses))

    def owns(self, address: IPAddress) -> bool:
        return address in self.addresses

    owned_lately = owns


def test_own_addresses() -> None:
    machine = Machine("8.8.8.8", "2600::8")
    policy = Policy([ip_network("2600::9"), ip_network("9.9.9.9")], machine)
    own = ["8.8.8.8", "0x08080808", "2600::8", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]
    own += ["2002:808:808::1", "2001:0:101:101::f7f7:f7f7", "2600::200:5efe:8.8.8.8"]
    for host in own:
        address, reason = policy.check_literal(host)
        assert address is not None
        assert reason == policy.refusal(address) == "the worker's own address", host
        assert not policy.permits(host)
        assert Policy().refusal(address) is None
    assert policy.permits("8.8.8.9") and policy.permits("2600::7")
    for allowed in ("9.9.9.9", "2600::9", "64:ff9b::9.9.9.9"):
        machine.addresses.add(ip_address(allowed))
        assert policy.permits(allowed)
    assert policy.refusal(ip_address("127.0.0.1")) == "loopback"
    machine.addresses.clear()  # what was its own is not for ever
    assert policy.permits("8.8.8.8")
    machine.addresses.add(ip_address("1.1.1.1"))
    assert not policy.permits("1.1.1.1")


def test_what_connects_is_what_was_checked() -> None:
    """The text that is given to the socket is the parsed address, never the spelling that came."""
    address, reason = Policy().check_literal("0x08080808")
    assert str(address) == "8.8.8.8"
    assert reason is None
    assert socket.inet_aton("0x08080808") == socket.inet_aton(str(address))
