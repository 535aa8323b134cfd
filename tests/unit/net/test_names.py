"""Host names and ADDRESS:PORT in text."""

from __future__ import annotations

import pytest

from zks_lwip.net.names import (
    InvalidName,
    ends_in_number,
    host_name,
    join_host_port,
    parse_address_port,
    split_host_port,
    to_ascii,
)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Example.COM.", "example.com"),
        ("printer", "printer"),
        ("_dmarc.example", "_dmarc.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example。", "xn--bcher-kva.example"),
        ("straße.example", "xn--strae-oqa.example"),  # IDNA 2003 made it strasse
        ("_tcp.bücher.example", "_tcp.xn--bcher-kva.example"),
        ("１２７.0.0.1", "127.0.0.1"),
        ("a." * 126 + "b", "a." * 126 + "b"),
    ],
)
def test_host_names(text: str, name: str) -> None:
    assert host_name(text) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "a..b",
        "-a.example",
        "a-.example",
        "a b",
        "a/b",
        "a" * 64,
        "a." * 127 + "b",
        "☃☃.example",
        "ü" * 254,
        "a\u200db.example",
        "／.example",
    ],
)
def test_what_is_no_host_name(text: str) -> None:
    with pytest.raises(InvalidName):
        host_name(text)


def test_ascii_names_stay_as_they_are() -> None:
    assert to_ascii("Any Thing!.") == "Any Thing!."


def test_a_number_at_the_end_is_no_name() -> None:
    assert ends_in_number("192.0.2.1") and ends_in_number("a.0x7f")
    assert not ends_in_number("1.example") and not ends_in_number("a.1x")


@pytest.mark.parametrize(
    ("text", "default", "least", "expected"),
    [
        ("192.0.2.1:80", None, 1, ("192.0.2.1", 80)),
        ("192.0.2.1", 53, 1, ("192.0.2.1", 53)),
        ("[2001:db8::1]:80", None, 1, ("2001:db8::1", 80)),
        ("[2001:db8::1]", 53, 1, ("2001:db8::1", 53)),
        ("2001:db8::1", 53, 1, ("2001:db8::1", 53)),
        ("127.0.0.1:0", None, 0, ("127.0.0.1", 0)),
        ("[fe80::1%lo]:53", None, 1, ("fe80::1%lo", 53)),
    ],
)
def test_addresses_with_a_port(
    text: str, default: int | None, least: int, expected: tuple[str, int]
) -> None:
    address, port = parse_address_port(text, default, least=least)
    assert (str(address), port) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "192.0.2.1",
        "2001:db8::1",
        "[2001:db8::1]",
        "192.0.2.1:",
        "[::1",
        "[::1]80",
        "[::1]:",
        "192.0.2.1:0",
        "192.0.2.1:65536",
        "192.0.2.1:+5",
        "192.0.2.1:５",
        "192.0.2.1:" + "9" * 5000,
        "host:80",
    ],
)
def test_what_is_no_address_with_a_port(text: str) -> None:
    with pytest.raises(ValueError):
        parse_address_port(text)


def test_hosts_and_ports_are_joined_as_they_are_split() -> None:
    assert join_host_port("a", 1) == "a:1"
    assert join_host_port("::1", 1) == "[::1]:1"
    assert join_host_port("::1", None) == "[::1]"
    assert split_host_port("[::1]:1") == ("::1", "1")
    assert split_host_port("a") == ("a", "")
