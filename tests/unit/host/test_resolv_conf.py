"""What is kept of the host's resolv.conf."""

from __future__ import annotations

from pathlib import Path

import pytest

from zks_lwip.host.linux.find_resolver import find_name_servers
from zks_lwip.host.resolv_conf import ResolvConf, parse_resolv_conf, read_resolv_conf


@pytest.mark.parametrize(
    ("text", "search", "options"),
    [
        ("", (), ()),
        (
            "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n",
            (".",),
            ("edns0", "trust-ad"),
        ),
        ("search a.example b.example\n", ("a.example", "b.example"), ()),
        ("search a.example\ndomain b.example c.example\n", ("b.example",), ()),
        ("domain b.example\nsearch\ta.example\n", ("a.example",), ()),
        ("options ndots:5\noptions ndots:2 no-aaaa\n", (), ("ndots:5", "ndots:2", "no-aaaa")),
        ("options timeout:1 attempts:1 rotate use-vc single-request ndots:x\n", (), ()),
        (" search a.example\n# search b.example\n;options trust-ad\n", (), ()),
        ("search a.example $(id) 'x;y' b\x00c \x1b[1m\n", ("a.example",), ()),
        ("search " + "x." * 200 + " " + "y " * 100, (), ()),
    ],
)
def test_what_is_kept(text: str, search: tuple[str, ...], options: tuple[str, ...]) -> None:
    found = parse_resolv_conf(text)
    if "y y y" in text:
        assert found.search == ("y",) * 31, "bounded, and one name is too long"
    else:
        assert (found.search, found.options) == (search, options)


def test_the_text_and_the_lines() -> None:
    wishes = ResolvConf(("a.example", "b"), ("ndots:2", "trust-ad"))
    assert wishes.lines() == ["search a.example b", "options ndots:2 trust-ad"]
    assert wishes.text("198.18.0.2") == (
        "nameserver 198.18.0.2\nsearch a.example b\noptions edns0 ndots:2 trust-ad\n"
    )
    assert ResolvConf().lines() == []
    assert parse_resolv_conf(wishes.text("192.0.2.1")).search == wishes.search


def test_reading(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    assert read_resolv_conf(path) == ResolvConf(), "missing"
    path.symlink_to("nowhere")
    assert read_resolv_conf(path) == ResolvConf(), "dangling"
    assert read_resolv_conf(tmp_path) == ResolvConf(), "a folder"
    path.unlink()
    path.write_bytes(b"search caf\xc3\xa9.example ok.example\n" + b"#" * 1_000_000)
    assert read_resolv_conf(path).search == ("ok.example",)


@pytest.mark.parametrize(
    ("used", "uplinks", "found"),
    [
        ("nameserver 192.168.7.1\nnameserver 10.0.0.1\n", "", (("192.168.7.1", "10.0.0.1"), False)),
        ("nameserver 127.0.0.53\n", "nameserver 192.168.7.1\n", (("192.168.7.1",), True)),
        (
            "nameserver 127.0.0.53\nnameserver 9.9.9.9\n",
            "nameserver 1.1.1.1\n",
            (("9.9.9.9", "1.1.1.1"), True),
        ),
        ("nameserver 127.0.0.1\n", "", ((), True)),
        ("nameserver fd07::1\nnameserver 192.168.7.1\n", "", (("192.168.7.1",), False)),
        (
            "nameserver fd07::1%eth0\nnameserver x\n nameserver 9.9.9.9\nnameserver\n",
            "",
            ((), False),
        ),
        ("", "nameserver 192.168.7.1\n", ((), False)),
    ],
)
def test_the_name_servers_that_are_asked(
    tmp_path: Path, used: str, uplinks: str, found: tuple[tuple[str, ...], bool]
) -> None:
    (tmp_path / "used").write_text(used)
    if uplinks:
        (tmp_path / "uplinks").write_text(uplinks)
    assert find_name_servers(tmp_path / "used", tmp_path / "uplinks") == found
