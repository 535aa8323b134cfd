"""The options about the host, as they are written."""

from __future__ import annotations

import ipaddress
import os
import sys

import pytest

if sys.platform == "win32":
    pytest.skip("Windows has no database of users", allow_module_level=True)

import pwd

from zks_lwip.errors import ConfigError
from zks_lwip.host.options import HostOptions, parse_duration


def test_defaults() -> None:
    assert HostOptions.parse() == HostOptions()


def test_marks() -> None:
    for text in ("0x1A6B", "0X1a6b", "6763", "06763"):
        assert HostOptions.parse(mark=text).mark == 0x1A6B


def test_what_is_bypassed() -> None:
    me = pwd.getpwuid(os.getuid()).pw_name
    options = HostOptions.parse(
        bypass=["192.0.2.0/24", "2001:db8::1", "Printer.Example.", f"user:{me}", "user:0"]
        + ["192.0.2.0/24"]
    )
    assert options.bypass == (
        ipaddress.ip_network("192.0.2.0/24"),
        ipaddress.ip_network("2001:db8::1/128"),
    )
    assert options.bypass_hosts == ("printer.example",)
    assert options.bypass_users == tuple(dict.fromkeys((os.getuid(), 0)))


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"bypass": ["192.0.2.1/24"]}, "--bypass 192.0.2.1/24: .*host bits"),
        ({"bypass": ["192.0.2"]}, "--bypass 192.0.2: "),
        ({"bypass": ["0x7f.1"]}, "--bypass 0x7f.1: "),
        ({"bypass": ["a b"]}, "--bypass a b: "),
        ({"bypass": [""]}, "--bypass : "),
        ({"bypass": ["fe80::1%eth0"]}, "--bypass fe80"),
        ({"bypass": ["user:"]}, "no user"),
        ({"bypass": ["user:no-such-user"]}, "--bypass user:no-such-user"),
        ({"bypass": ["0.0.0.0/0"]}, "nothing would be tunnelled"),
        ({"bypass": ["10.0.0.0/8", "10.1.0.0/16"]}, "overlaps"),
        ({"only": ["10.0.0.0/8", "10.0.0.0/9"]}, "overlaps"),
        ({"only": ["10.0.0.0/8"], "bypass": ["192.0.2.1"]}, "exclude"),
        ({"only": ["10.0.0.0/8"], "bypass": ["a.example"]}, "exclude"),
        ({"only": ["example.com"]}, "--only example.com"),
        ({"inbound": [0]}, "--allow-inbound 0"),
        ({"mark": "0"}, "--mark 0x0 is out of range"),
        ({"mark": "0xffffffff"}, "--mark 0xffffffff is out of range"),
        ({"mark": "zk"}, "--mark zk: give a number such as 0x7a6b"),
        ({"mark": "-1"}, "--mark -1: give a number"),
        ({"mark": "0x100000000"}, "--mark 0x100000000: give a number"),
    ],
)
def test_what_is_refused(options: dict[str, object], hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        HostOptions.parse(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("5m", 300), ("1h", 3600), (" 5M ", 300)]
)
def test_a_duration(text: str, seconds: float) -> None:
    assert parse_duration(text, "--for", most=3600) == seconds


@pytest.mark.parametrize("text", ["", "0", "-5m", "5 m", "1.5h", "2h", "61m", "5d", "\u0665m"])
def test_no_duration(text: str) -> None:
    with pytest.raises(ConfigError, match="--for .*90s, 5m or 1h"):
        parse_duration(text, "--for", most=3600)
