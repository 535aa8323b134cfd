"""Options: what is taken, and that every refusal names the option and says what to write."""

from __future__ import annotations

import ast
import ipaddress
import os
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import trustme

from zks_lwip import config as config_module
from zks_lwip.config import (
    DnsOptions,
    HostOptions,
    Icmp,
    Ipv6,
    KillSwitch,
    Protocol,
    Proxy,
    StaticName,
    VpnConfig,
    WorkerEndpoint,
    parse_host_loopback,
    parse_static_name,
    parse_worker_url,
    read_token_file,
)
from zks_lwip.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("wss://worker.example", "wss://worker.example/tunnel"),
        ("wss://worker.example/", "wss://worker.example/tunnel"),
        ("wss://Worker.Example.:443/a/b", "wss://worker.example/a/b"),
        ("wss://worker.example:8443", "wss://worker.example:8443/tunnel"),
        ("ws://127.0.0.1:8787", "ws://127.0.0.1:8787/tunnel"),
        ("ws://[0:0::1]", "ws://[::1]/tunnel"),
        ("wss://bücher.example/x", "wss://xn--bcher-kva.example/x"),
    ],
)
def test_a_worker_url_is_normalised(text: str, shown: str) -> None:
    assert str(parse_worker_url(text)) == shown


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("worker.example", "wss://worker.example"),
        ("https://worker.example/x", "write wss://worker.example/x."),
        ("http://worker.example:8080", "write wss://worker.example:8080."),
        ("http://127.0.0.1:8787", "write ws://127.0.0.1:8787."),
        ("http://", "write wss://HOST[:PORT][/PATH]."),
        ("ftp://worker.example", "wss://"),
        ("wss://", "no host"),
        ("wss:///tunnel", "no host"),
        ("wss://worker.example:0", "port 0"),
        ("wss://worker.example:99999", "no URL"),
        ("wss://worker.example:port", "no URL"),
        ("wss://[::1", "no URL"),
        ("wss://-x.example", "neither an address nor a host name"),
        ("wss://a..b", "host name"),
        ("wss://worker.example/a b", "percent-encode"),
    ],
)
def test_a_wrong_worker_url_is_refused_with_advice(text: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_worker_url(text)
    assert caught.value.option == "worker" and str(caught.value).startswith("`worker` ")
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "wss://user:sesame@worker.example",
        "wss://sesame@worker.example",
        "wss://worker.example/tunnel?token=sesame",
        "wss://worker.example/#sesame",
        "user:sesame@worker.example",
    ],
)
def test_a_secret_in_a_url_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_worker_url(text)
    assert "sesame" not in str(caught.value)


def test_plain_ws_leaves_loopback_only_if_insisted() -> None:
    far = parse_worker_url("ws://192.0.2.1")
    with pytest.raises(ConfigError, match="insist with `plaintext`"):
        VpnConfig(worker=far)
    assert VpnConfig(worker=far, plaintext=True).worker == far
    for near in ("ws://127.0.0.2", "ws://[::1]", "ws://localhost", "ws://a.localhost"):
        VpnConfig(worker=parse_worker_url(near))


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({"tun": "a" * 16}, "`tun`"),
        ({"tun": ""}, "`tun`"),
        ({"tun": "a/b"}, "`tun`"),
        ({"tun": ".."}, "`tun`"),
        ({"netns": "../x"}, "`netns`"),
        ({"mtu": 1279}, "`mtu`"),
        ({"mtu": 65536}, "`mtu`"),
        ({"max_flows": 0}, "`max_flows`"),
        ({"max_memory": 15}, "`max_memory` 15 is out of range: give 16 to 65536"),
        ({"max_memory": 65537}, "`max_memory`"),
        ({"channels": 0}, "`channels` 0 is out of range: give 1 to 16"),
        ({"channels": 17}, "`channels`"),
        ({"resume": -1}, r"`resume` -1 is out of range: give 0 \(never\) to 3600"),
        ({"resume": 3601}, "`resume`"),
        ({"grace": -1.0}, "`grace`"),
        ({"grace": float("nan")}, "`grace`"),
        ({"keepalive": 0.9}, "`keepalive`"),
        ({"keepalive": 86401.0}, "`keepalive`"),
        ({"keepalive": float("nan")}, "`keepalive`"),
        ({"token": "x"}, "`token` is given without `worker`"),
        ({"ca_file": Path("/nonexistent")}, "`ca_file` is given without `worker`"),
    ],
)
def test_values_out_of_range_name_their_option(settings: dict[str, object], hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        VpnConfig(**settings)  # type: ignore[arg-type]


def test_a_ca_file_must_exist_and_make_sense(tmp_path: Path) -> None:
    pem = tmp_path / "ca.pem"
    with pytest.raises(ConfigError, match="No such file"):
        VpnConfig(worker=parse_worker_url("wss://w.example"), ca_file=pem)
    pem.write_text("")
    with pytest.raises(ConfigError, match="`ca_file` .*: it holds no certificate. Give a PEM"):
        VpnConfig(worker=parse_worker_url("wss://w.example"), ca_file=pem)
    trustme.CA().cert_pem.write_to_path(pem)
    VpnConfig(worker=parse_worker_url("wss://w.example"), ca_file=pem)
    with pytest.raises(ConfigError, match="no TLS"):
        VpnConfig(worker=parse_worker_url("ws://127.0.0.1"), ca_file=pem)


def test_the_token_is_never_shown() -> None:
    config = VpnConfig(worker=parse_worker_url("wss://w.example"), token="sesame")
    assert "sesame" not in repr(config)


def test_the_loopback_alias_belongs_to_the_embedded_worker() -> None:
    assert str(VpnConfig().loopback_alias) == "198.18.0.2"
    assert VpnConfig(worker=parse_worker_url("wss://w.example")).loopback_alias is None
    assert parse_host_loopback("none") is None
    assert parse_host_loopback(" 10.9.9.9 ") == ipaddress.IPv4Address("10.9.9.9")
    for text in ("::1", "127.0.0.1", "224.0.0.1", "0.0.0.0", "255.255.255.255", "yes"):
        with pytest.raises(ConfigError, match="^`host_loopback` "):
            parse_host_loopback(text)


def test_static_names() -> None:
    assert parse_static_name("Printer.LAN.=192.0.2.7") == StaticName(
        "printer.lan", ipaddress.ip_address("192.0.2.7")
    )
    assert str(parse_static_name("a=[2001:db8::1]")) == "a=2001:db8::1"
    for text in ("a", "a=", "=192.0.2.1", "a=b", "a b=192.0.2.1", "-a=192.0.2.1", "a=fe80::1%lo"):
        with pytest.raises(ConfigError, match="^`dns_static` "):
            parse_static_name(text)


@pytest.mark.parametrize(
    "text", ["sesame\n", "laptop sesame", "# ours\n\n  sesame  \nother x\n", "sesame\r\n"]
)
def test_a_token_file_gives_its_first_token(tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    path.chmod(0o600)
    assert read_token_file(path) == "sesame"


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
@pytest.mark.parametrize("mode", [0o604, 0o602, 0o644])
def test_a_token_file_for_everybody_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "token"
    path.write_text("sesame\n")
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"`token_file` .*mode {mode:03o}.*chmod 600") as caught:
        read_token_file(path)
    assert "sesame" not in str(caught.value)


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_a_token_file_for_its_group_is_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "token"
    path.write_text("sesame\n")
    path.chmod(0o640)
    assert read_token_file(path) == "sesame"
    assert "its group (mode 640)" in caplog.text


@pytest.mark.parametrize(
    "content", [b"", b"# only\n", b"a b sesame\n", b"ses\x00ame\n", b"s\xffsame\n", b"x" * 70000]
)
def test_a_bad_token_file_is_refused_and_not_repeated(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="^`token_file` ") as caught:
        read_token_file(path)
    assert "ame" not in str(caught.value).replace("name", "")


def test_a_token_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ConfigError, match="^`token_file` "):
            read_token_file(path)


def test_the_default_configuration_is_the_embedded_worker() -> None:
    config = VpnConfig()
    assert config.embedded
    assert config.ipv6 is Ipv6.AUTO


def endpoint(url: str, **more: Any) -> WorkerEndpoint:
    return WorkerEndpoint(url=parse_worker_url(url), **more)


def test_several_workers_share_a_token_or_have_their_own() -> None:
    shared = VpnConfig(
        workers=(endpoint("wss://a.example"), endpoint("wss://b.example", token="b")),
        token="secret",
    )
    assert not shared.embedded and shared.loopback_alias is None
    told = shared.tunnel().workers
    assert [(each.worker.host, each.token) for each in told] == [
        ("a.example", "secret"),
        ("b.example", "b"),
    ]
    assert "secret" not in repr(shared) and "'b'" not in repr(shared.workers)


def test_each_of_several_workers_has_its_address_and_proxy() -> None:
    config = VpnConfig(
        workers=(
            endpoint("wss://a.example", address=ipaddress.ip_address("192.0.2.1")),
            endpoint("wss://b.example", proxy=Proxy("proxy.lan", 3128)),
        )
    )
    first, second = config.tunnel().workers
    assert (first.address, first.proxy) == ("192.0.2.1", None)
    assert (second.address, str(second.proxy)) == (None, "http://proxy.lan:3128")


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"worker": parse_worker_url("wss://c.example")}, "workers"),
        ({"workers": (endpoint("wss://a.example"), endpoint("wss://A.example/"))}, "worker"),
        ({"workers": (endpoint("wss://a.example"), endpoint("ws://192.0.2.1"))}, None),
        ({"workers": tuple(endpoint(f"wss://{n}.example") for n in range(17))}, "worker"),
        ({"worker_address": ipaddress.ip_address("192.0.2.1")}, "worker_address"),
        ({"proxy": Proxy("proxy.lan", 3128)}, "proxy"),
        ({"workers": (endpoint("ws://[::1]"),), "ca_file": Path("/dev/null")}, "ca_file"),
    ],
)
def test_what_does_not_go_with_several_workers(options: dict[str, Any], option: str | None) -> None:
    workers = (endpoint("wss://a.example"), endpoint("wss://b.example"))
    with pytest.raises(ConfigError) as caught:
        VpnConfig(**{"workers": workers, **options})
    assert caught.value.option == option


def test_texts_are_read_as_what_they_say() -> None:
    config = VpnConfig(
        worker="wss://worker.example",
        worker_address="192.0.2.1",
        proxy="http://proxy.example:3128",
        protocol="v2",
        kill_switch="route",
        ipv6="block",
        icmp="off",
        dns=DnsOptions(via="worker", dot="block"),
        dns_static=["printer.lan=192.0.2.7"],
    )
    assert config.worker == parse_worker_url("wss://worker.example")
    assert (config.ipv6, config.icmp, config.kill_switch) == (
        Ipv6.BLOCK,
        Icmp.OFF,
        KillSwitch.ROUTE,
    )
    assert config.gateway.ipv6 is Ipv6.BLOCK and config.protocol is Protocol.V2
    assert config.dns is not None and config.dns.refuses(853)
    assert config.dns_static == (parse_static_name("printer.lan=192.0.2.7"),)
    (endpoint,) = config.endpoints
    assert str(endpoint.address) == "192.0.2.1" and endpoint.proxy is not None
    assert VpnConfig(host_loopback="none").loopback_alias is None
    several = VpnConfig(workers=["wss://a.example", WorkerEndpoint(url="wss://b.example")])
    assert [each.url.host for each in several.endpoints] == ["a.example", "b.example"]


@pytest.mark.parametrize(
    ("settings", "option", "hint"),
    [
        ({"ipv6": "blok"}, "ipv6", "auto, tunnel or block"),
        ({"kill_switch": "on"}, "kill_switch", "strict"),
        ({"icmp": None}, "icmp", "reply"),
        ({"protocol": "v3"}, "protocol", "v1 or v2"),
        ({"worker": "https://worker.example"}, "worker", "wss://"),
        ({"worker": "wss://w.example", "worker_address": "w"}, "worker_address", "address"),
        ({"worker": "wss://w.example", "proxy": "socks5://p.example"}, "proxy", "http://"),
        ({"workers": "wss://w.example"}, "workers", "list"),
        ({"dns_static": "a=192.0.2.1"}, "dns_static", "list"),
        ({"dns_static": ["a"]}, "dns_static", "NAME=ADDRESS"),
        ({"host_loopback": "300.1.1.1"}, "host_loopback", "IPv4"),
        ({"plaintext": "no"}, "plaintext", "True or False"),
        ({"mtu": "1500"}, "mtu", "whole number"),
        ({"mtu": True}, "mtu", "whole number"),
        ({"grace": "soon"}, "grace", "number"),
        ({"netns": 7}, "netns", "text"),
        ({"worker": b"wss://w.example"}, "worker", "cannot be used: give a URL"),
        ({"workers": [7]}, "workers", "7 cannot be used: give URLs"),
        ({"worker": "wss://w.example", "proxy": 7}, "proxy", "cannot be used: give a URL"),
        ({"host": None}, "host", "give HostOptions"),
        ({"host_loopback": 7}, "host_loopback", "give an IPv4 address"),
        ({"dns": "1.1.1.1"}, "dns", "give DnsOptions"),
        ({"dns_static": [7]}, "dns_static", "NAME=ADDRESS"),
        ({"allow_exclude": [7]}, "allow_exclude", "names of users"),
    ],
)
def test_a_wrong_value_names_its_field(settings: dict[str, Any], option: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(hint)) as caught:
        VpnConfig(**settings)
    assert caught.value.option == option and "--" not in str(caught.value)


@pytest.mark.parametrize("token", ["secret\nX-Injected: 1", "secret\r", "", b"secret", "s" * 5000])
def test_a_token_that_cannot_be_one_is_refused_and_not_shown(token: Any) -> None:
    for make in (
        lambda: VpnConfig(worker="wss://w.example", token=token),
        lambda: WorkerEndpoint(url="wss://w.example", token=token),
    ):
        with pytest.raises(ConfigError) as caught:
            make()
        assert caught.value.option == "token" and "secret" not in str(caught.value)


def test_texts_of_the_host_are_read_as_what_they_say() -> None:
    host = HostOptions(bypass=["203.0.113.0/24"], inbound=[22])
    assert host.bypass == (ipaddress.ip_network("203.0.113.0/24"),) and host.inbound == (22,)
    assert HostOptions(only=["10.1.0.0/16"]).only == (ipaddress.ip_network("10.1.0.0/16"),)


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({"lan": "block"}, "`host.lan` 'block' cannot be used: give True or False."),
        ({"bypass": "10.0.0.0/8"}, "`host.bypass` is a list: write ('10.0.0.0/8',)."),
        ({"bypass": ["10.0.0.1/8"]}, "`host.bypass` 10.0.0.1/8:"),
        ({"bypass": [7]}, "`host.bypass` 7 cannot be used: give networks."),
        ({"bypass_hosts": [7]}, "`host.bypass_hosts` 7 cannot be used"),
        ({"bypass_users": ["root"]}, "`host.bypass_users` 'root' cannot be used: give user ids."),
        ({"bypass_users": [-1]}, "`host.bypass_users` -1 cannot be used: give user ids."),
        ({"inbound": ["22"]}, "`host.inbound` '22' cannot be used: give ports."),
        ({"mark": "0x1a6b"}, "`host.mark` '0x1a6b' cannot be used: give a whole number."),
    ],
)
def test_a_wrong_value_of_the_host_names_its_field(settings: dict[str, Any], hint: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(hint)}"):
        HostOptions(**settings)


def test_type_checkers_know_every_field() -> None:
    source = Path(config_module.__file__).read_text(encoding="utf-8")
    (declared,) = (
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    )
    named = [argument.arg for argument in declared.args.kwonlyargs]
    assert sorted(named) == sorted(each.name for each in fields(VpnConfig))
