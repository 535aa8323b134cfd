"""Errors name options; the command line shows its flags in their place."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import zks_lwip
from zks_lwip.cli import main
from zks_lwip.cli.flags import FLAGS, describe
from zks_lwip.config import VpnConfig
from zks_lwip.dns.options import DnsOptions
from zks_lwip.errors import ConfigError, HostError
from zks_lwip.host.options import HostOptions
from zks_lwip.proxy import ProxyConfig
from zks_lwip.worker import WorkerConfig


def named_options() -> Iterator[str]:
    """Yield the options that ``ConfigError(message, option)`` is given anywhere in the package."""
    for path in Path(zks_lwip.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and getattr(node.func, "id", "") == "ConfigError"
                and len(node.args) == 2
                and isinstance(node.args[1], ast.Constant)
            ):
                yield str(node.args[1].value)


def test_every_option_that_an_error_names_has_its_flag() -> None:
    found = set(named_options())
    assert len(found) > 15 and found - {"proxy"} <= FLAGS.keys()  # for Python alone


def test_every_flag_exists() -> None:
    known = set()
    for name in ("connect", "doctor", "proxy", "run", "top", "worker"):
        command = main.get_command(click.Context(main), name)
        assert command is not None
        known |= {flag for parameter in command.params for flag in parameter.opts}
    assert set(FLAGS.values()) <= known


@pytest.mark.parametrize(
    "name",
    sorted(FLAGS.keys() - {"download", "listen", "metrics", "once", "processes", "publish", "yes"}),
)
def test_every_option_is_a_field(name: str) -> None:
    first, _, second = name.rpartition(".")
    owners = {
        "": (VpnConfig, WorkerConfig, ProxyConfig),
        "dns": (DnsOptions,),
        "host": (HostOptions,),
    }
    assert any(second in owner.__dataclass_fields__ for owner in owners[first])


def test_an_error_says_which_option() -> None:
    with pytest.raises(ConfigError) as caught:
        VpnConfig(mtu=70000)
    assert caught.value.option == "mtu"
    range_ = "is out of range: give 1280 (which IPv6 needs, RFC 8200 §5) to 65535."
    assert str(caught.value) == f"`mtu` 70000 {range_}"
    assert describe(caught.value) == f"--mtu 70000 {range_}"


def test_other_words_between_backticks_stay() -> None:
    with pytest.raises(ConfigError) as caught:
        VpnConfig(netns="a/b")
    assert describe(caught.value) == (
        "--netns 'a/b' is no namespace name: give one that `ip netns list` shows, without a path."
    )
    error = ConfigError("`host.only` and `recover`")
    assert error.option is None and describe(error) == "--only and `recover`"
    assert describe(HostError("`mtu`")) == "--mtu"
