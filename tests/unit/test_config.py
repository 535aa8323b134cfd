"""Options: what is taken, and that every refusal names the option and says what to write."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest
import trustme

from zks_lwip.config import (
    Ipv6,
    StaticName,
    VpnConfig,
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
        ("https://worker.example", "wss://"),
        ("http://worker.example", "ws://"),
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
    assert "--worker" in str(caught.value)
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
    with pytest.raises(ConfigError, match="--plaintext"):
        VpnConfig(worker=far)
    assert VpnConfig(worker=far, plaintext=True).worker == far
    for near in ("ws://127.0.0.2", "ws://[::1]", "ws://localhost", "ws://a.localhost"):
        VpnConfig(worker=parse_worker_url(near))


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({"tun": "a" * 16}, "--tun"),
        ({"tun": ""}, "--tun"),
        ({"tun": "a/b"}, "--tun"),
        ({"tun": ".."}, "--tun"),
        ({"netns": "../x"}, "--netns"),
        ({"mtu": 1279}, "--mtu"),
        ({"mtu": 65536}, "--mtu"),
        ({"max_flows": 0}, "--max-flows"),
        ({"max_memory": 15}, "--max-memory 15 is out of range: give 16 to 65536"),
        ({"max_memory": 65537}, "--max-memory"),
        ({"grace": -1.0}, "--grace"),
        ({"grace": float("nan")}, "--grace"),
        ({"keepalive": 0.9}, "--keepalive"),
        ({"keepalive": 86401.0}, "--keepalive"),
        ({"keepalive": float("nan")}, "--keepalive"),
        ({"token": "x"}, "--worker"),
        ({"ca_file": Path("/nonexistent")}, "--worker"),
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
    with pytest.raises(ConfigError, match="--ca-file .*: it holds no certificate. Give a PEM"):
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
        with pytest.raises(ConfigError, match="--host-loopback"):
            parse_host_loopback(text)


def test_static_names() -> None:
    assert parse_static_name("Printer.LAN.=192.0.2.7") == StaticName(
        "printer.lan", ipaddress.ip_address("192.0.2.7")
    )
    assert str(parse_static_name("a=[2001:db8::1]")) == "a=2001:db8::1"
    for text in ("a", "a=", "=192.0.2.1", "a=b", "a b=192.0.2.1", "-a=192.0.2.1", "a=fe80::1%lo"):
        with pytest.raises(ConfigError, match="--dns-static"):
            parse_static_name(text)


@pytest.mark.parametrize(
    "text", ["sesame\n", "laptop sesame", "# ours\n\n  sesame  \nother x\n", "sesame\r\n"]
)
def test_a_token_file_gives_its_first_token(tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    assert read_token_file(path) == "sesame"


@pytest.mark.parametrize(
    "content", [b"", b"# only\n", b"a b sesame\n", b"ses\x00ame\n", b"s\xffsame\n", b"x" * 70000]
)
def test_a_bad_token_file_is_refused_and_not_repeated(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="--token-file") as caught:
        read_token_file(path)
    assert "ame" not in str(caught.value).replace("name", "")


def test_a_token_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ConfigError, match="--token-file"):
            read_token_file(path)


def test_the_default_configuration_is_the_embedded_worker() -> None:
    config = VpnConfig()
    assert config.embedded
    assert config.ipv6 is Ipv6.AUTO
