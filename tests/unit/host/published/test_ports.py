"""What ``-p`` is given, and which address inside a client is led to."""

from __future__ import annotations

import socket

import pytest

from zks_lwip.errors import ConfigError
from zks_lwip.host.published.inside import addresses_inside
from zks_lwip.host.published.listeners import bind_all
from zks_lwip.host.published.ports import MAX_PORTS, PublishedPort, Transport, parse_published
from zks_lwip.net.sockets import family_of

BOTH = (Transport.TCP, Transport.UDP)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8080", ("127.0.0.1", 8080, 8080, BOTH)),
        ("8080:80", ("127.0.0.1", 8080, 80, BOTH)),
        ("8080:80/tcp", ("127.0.0.1", 8080, 80, BOTH[:1])),
        ("53/UDP", ("127.0.0.1", 53, 53, BOTH[1:])),
        ("0:80", ("127.0.0.1", 0, 80, BOTH)),
        ("192.0.2.1:8080", ("192.0.2.1", 8080, 8080, BOTH)),
        ("0.0.0.0:8080:80", ("0.0.0.0", 8080, 80, BOTH)),
        ("127.0.0.1::80", ("127.0.0.1", 0, 80, BOTH)),
        ("localhost:8080:80", ("127.0.0.1", 8080, 80, BOTH)),
        ("[::1]:8080", ("::1", 8080, 8080, BOTH)),
        ("[::]:8080:80/udp", ("::", 8080, 80, BOTH[1:])),
        ("[fe80::1%eth0]:8080:80", ("fe80::1%eth0", 8080, 80, BOTH)),
    ],
)
def test_one_port(text: str, expected: tuple[str, int, int, tuple[Transport, ...]]) -> None:
    assert parse_published([text]) == (PublishedPort(*expected),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("9000-9002", [(9000, 9000), (9001, 9001), (9002, 9002)]),
        ("9000-9001:80-81/tcp", [(9000, 80), (9001, 81)]),
        ("[::1]:9000-9001:80-81", [(9000, 80), (9001, 81)]),
        ("0:80-81", [(0, 80), (0, 81)]),
    ],
)
def test_ranges(text: str, expected: list[tuple[int, int]]) -> None:
    assert [(port.port, port.inside) for port in parse_published([text])] == expected


@pytest.mark.parametrize(
    "text",
    [
        "8080",
        "0.0.0.0:8080:80/udp",
        "[::1]:8080:80/tcp",
        "[fe80::1%eth0]:0:80",
    ],
)
def test_what_is_shown_can_be_given(text: str) -> None:
    (port,) = parse_published([text])
    assert parse_published([str(port)]) == (port,)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "a port is missing"),
        ("0", "'0' is no port; a port is 1 to 65535"),
        ("8080:0", "'0' is no port; a port is 1 to 65535"),
        ("65536", "'65536' is no port; a port is 0 to 65535"),
        ("8080:99999999", "is no port"),
        ("٣", "is no port"),
        ("-1", "a port is missing"),
        ("8080:", "a port is missing"),
        (":8080", "the address is missing"),
        ("127.0.0.1:", "a port is missing"),
        ("example.com:80", "'example.com' is no address"),
        ("*:80:80", "all addresses are 0.0.0.0 or"),
        ("::1:80", "an IPv6 address stands in brackets"),
        ("[::1]", "behind [ADDRESS] comes :PORT"),
        ("[::1:80", "behind [ADDRESS] comes :PORT"),
        ("[::1]:80:80:80", "a port is missing"),
        ("80/sctp", "'sctp' is neither tcp nor udp"),
        ("80/", "'' is neither tcp nor udp"),
        ("80/tcp/udp", "neither tcp nor udp"),
        ("90-80", "the range 90-80 is none"),
        ("0-2:1-3", "the range 0-2 is none"),
        ("80-82:90-93", "the two ranges have different lengths"),
        ("80-82:90", "the two ranges have different lengths"),
        ("1-65535", "at most 1024"),
    ],
)
def test_what_cannot_be_used(text: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_published([text])
    assert why in str(caught.value)
    assert repr(text) in str(caught.value)
    assert caught.value.option == "publish"


def test_several() -> None:
    assert len(parse_published(["80", "80", "81/tcp", "81/udp", "[::1]:80", "0:1", "0:2"])) == 6
    with pytest.raises(ConfigError, match=r"tcp 127.0.0.1:80 is published already"):
        parse_published(["80:8080", "80:8081/tcp"])
    half = MAX_PORTS // 2
    assert len(parse_published([f"1000-{999 + half}"])) == half
    with pytest.raises(ConfigError, match="more than 1024 ports"):
        parse_published([f"1000-{999 + half}", "10/udp"])


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        ("127.0.0.1", ("127.0.0.1", "::1")),
        ("127.9.9.9", ("127.0.0.1", "::1")),
        ("::ffff:127.0.0.1", ("127.0.0.1", "::1")),
        ("::1", ("::1", "127.0.0.1")),
        ("192.0.2.7", ("198.18.0.1", "fdb5:7a6b:7301::1")),
        ("::ffff:192.0.2.7", ("198.18.0.1", "fdb5:7a6b:7301::1")),
        ("2001:db8::7", ("fdb5:7a6b:7301::1", "198.18.0.1")),
        ("fe80::7%eth0", ("fdb5:7a6b:7301::1", "198.18.0.1")),
    ],
)
def test_where_a_client_arrives(client: str, expected: tuple[str, str]) -> None:
    """A loopback of another machine is never the command's own."""
    assert addresses_inside(client, ipv6=True) == expected
    assert addresses_inside(client, ipv6=False) == tuple(a for a in expected if ":" not in a)


def test_a_free_port_is_the_same_for_both_protocols() -> None:
    ((_, listeners),) = bind_all(parse_published(["0:80"]))
    try:
        assert [one.transport for one in listeners] == list(BOTH)
        numbers = {one.socket.getsockname() for one in listeners}
        assert len(numbers) == 1
        assert {("127.0.0.1", one.port.port) for one in listeners} == numbers
    finally:
        for one in listeners:
            one.socket.close()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_port_that_is_taken(kind: int) -> None:
    address = "127.87.3.1"  # no connection of another program has it, with that port
    with socket.socket(type=kind) as other:
        other.bind((address, 0))
        if kind == socket.SOCK_STREAM:
            other.listen()
        port = other.getsockname()[1]
        name, flag = ("tcp", "ltnp") if kind == socket.SOCK_STREAM else ("udp", "lunp")
        with pytest.raises(ConfigError) as caught:
            bind_all(parse_published(["0:1", f"{address}:{port}:80"]))
    assert f"{address}:{port}:80/{name}: cannot listen on" in str(caught.value)
    assert f"ss -{flag}" in str(caught.value)
    assert f"any free one (`publish` {address}:0:80)" in str(caught.value)


@pytest.mark.parametrize(
    ("given", "suggested"),
    [
        ("127.0.0.1:{}:80", "0:80"),
        ("127.87.3.2:{}:80/tcp", "127.87.3.2:0:80/tcp"),
        ("[::1]:{}:80", "[::1]:0:80"),
    ],
)
def test_a_free_port_is_suggested_at_the_address_that_was_given(given: str, suggested: str) -> None:
    (port,) = parse_published([given.format(1)])
    with socket.create_server((port.address, 0), family=family_of(port.address)) as other:
        ports = parse_published([given.format(other.getsockname()[1])])
        with pytest.raises(ConfigError) as caught:
            bind_all(ports)
    assert f"(`publish` {suggested})" in str(caught.value)


def test_an_address_of_another_machine() -> None:
    with pytest.raises(ConfigError, match="give an address of this machine"):
        bind_all(parse_published(["192.0.2.1:8080:80"]))
