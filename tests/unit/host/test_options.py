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
from zks_lwip.host.options import HostOptions, parse_duration, parse_network, parse_user


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
        ({"bypass": ["192.0.2.1/24"]}, "`host.bypass` 192.0.2.1/24: .*host bits"),
        ({"bypass": ["192.0.2"]}, "`host.bypass` 192.0.2: "),
        ({"bypass": ["0x7f.1"]}, "`host.bypass` 0x7f.1: "),
        ({"bypass": ["a b"]}, "`host.bypass` a b: "),
        ({"bypass": [""]}, "`host.bypass` : "),
        ({"bypass": ["fe80::1%eth0"]}, "`host.bypass` fe80"),
        ({"bypass": ["user:"]}, "no user"),
        ({"bypass": ["user:no-such-user"]}, "`host.bypass` user:no-such-user"),
        ({"bypass": ["0.0.0.0/0"]}, "nothing would be tunnelled"),
        ({"bypass": ["10.0.0.0/8", "10.1.0.0/16"]}, "overlaps"),
        ({"only": ["10.0.0.0/8", "10.0.0.0/9"]}, "overlaps"),
        ({"only": ["10.0.0.0/8"], "bypass": ["192.0.2.1"]}, "exclude"),
        ({"only": ["10.0.0.0/8"], "bypass": ["a.example"]}, "exclude"),
        ({"only": ["example.com"]}, "`host.only` example.com"),
        ({"inbound": [0]}, "`host.inbound` 0"),
        ({"mark": "0"}, "`host.mark` 0x0 is out of range"),
        ({"mark": "0xffffffff"}, "`host.mark` 0xffffffff is out of range"),
        ({"mark": "zk"}, "`host.mark` zk: give a number such as 0x7a6b"),
        ({"mark": "-1"}, "`host.mark` -1: give a number"),
        ({"mark": "0x100000000"}, "`host.mark` 0x100000000: give a number"),
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


def test_reading_options() -> None:
    assert parse_network("10.0.0.0/8", "host.bypass") == ipaddress.ip_network("10.0.0.0/8")
    assert parse_network("fd00::1", "host.bypass") == ipaddress.ip_network("fd00::1/128")
    for wrong in ("", "10.0.0.1/8", "300.1.1.1", "10.0.0.0/33", "a.example"):
        with pytest.raises(ConfigError, match="`host.only` "):
            parse_network(wrong, "host.only")
    assert parse_user("root", "host.bypass") == 0 and parse_user("1234", "host.bypass") == 1234
    with pytest.raises(ConfigError, match="no user of that name"):
        parse_user("no-such-user", "host.bypass")
