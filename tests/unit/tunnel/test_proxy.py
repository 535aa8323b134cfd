"""HTTPS_PROXY: when it is heeded, and the way to a worker through a real one."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trustme

from zks_lwip.config import HostOptions, VpnConfig, parse_worker_address, parse_worker_url
from zks_lwip.errors import AuthError, CertificateError, ConfigError, TunnelError, WorkerUnreachable
from zks_lwip.tunnel.proxy import Proxy, parse_proxy, proxy_for
from zks_lwip.vpn.capture import Capture

from ...kits import connect_proxy
from ...kits.tunnel import listening, quick, raw_server, working
from .test_dial import ca_file, connected, failing, server_tls

WORKER = parse_worker_url("wss://worker.example")


@pytest.mark.parametrize(
    ("text", "proxy"),
    [
        ("http://192.0.2.1:3128", Proxy("192.0.2.1", 3128)),
        ("http://proxy.example/", Proxy("proxy.example", 80)),
        ("proxy.example:8080", Proxy("proxy.example", 8080)),
        ("http://[2001:db8::1]:3128", Proxy("2001:db8::1", 3128)),
        ("http://me:a%40b@192.0.2.1:1", Proxy("192.0.2.1", 1, "me:a@b")),
    ],
)
def test_a_proxy_is_read(text: str, proxy: Proxy) -> None:
    assert parse_proxy(text) == proxy


@pytest.mark.parametrize(
    "text", ["https://u:secret@p.example", "socks5://p", "http://", "http://a:x", "http://a:0"]
)
def test_what_is_no_proxy_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="HTTPS_PROXY") as caught:
        parse_proxy(text)
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(Proxy("p", 1, "u:secret"))


@pytest.mark.parametrize(
    ("environment", "worker", "used"),
    [
        ({"HTTPS_PROXY": "http://p:1"}, WORKER, True),
        ({"https_proxy": "http://p:1"}, WORKER, True),
        ({"HTTPS_PROXY": " "}, WORKER, False),
        ({"HTTP_PROXY": "http://p:1"}, WORKER, False),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, WORKER, False),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "a.example, .Example"}, WORKER, False),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "other.example,ample"}, WORKER, True),
        (
            {"HTTPS_PROXY": "http://p:1", "no_proxy": "192.0.2.0/24"},
            parse_worker_url("wss://192.0.2.9"),
            False,
        ),
        ({"HTTPS_PROXY": "http://p:1"}, parse_worker_url("wss://127.0.0.1"), False),
        ({"HTTPS_PROXY": "http://p:1"}, parse_worker_url("ws://192.0.2.9"), False),
    ],
)
def test_when_it_is_heeded(environment: dict[str, str], worker: Any, used: bool) -> None:
    assert (proxy_for(worker, environment) is not None) is used


@asynccontextmanager
async def proxied(**options: Any) -> AsyncIterator[Proxy]:
    async with listening(partial(connect_proxy.serve, **options)) as url:
        worker = parse_worker_url(url)
        yield Proxy(worker.host, worker.port)


async def test_tls_with_a_worker_that_only_the_proxy_can_find(tmp_path: Path) -> None:
    ca = trustme.CA()
    asked: list[str] = []
    names = {"worker.example": "127.0.0.1"}
    async with working(tls=server_tls(ca, "worker.example")) as worker:
        port = parse_worker_url(worker.url).port
        url = f"wss://worker.example:{port}/tunnel"
        async with proxied(asked=asked, names=names) as proxy:
            config = quick(url, proxy=proxy, ca_file=ca_file(ca, tmp_path))
            async with connected(config) as connection:
                assert connection.stream.version() in ("TLSv1.2", "TLSv1.3")
            # The address that is given goes to the proxy; the name stays for TLS.
            config = quick(url, proxy=proxy, ca_file=ca_file(ca, tmp_path), address="127.0.0.1")
            async with connected(config):
                pass
            other = quick(url, proxy=proxy)
            assert isinstance(await failing(other), CertificateError)
    assert asked == [f"worker.example:{port}", f"127.0.0.1:{port}", f"worker.example:{port}"]


async def test_credentials(tmp_path: Path) -> None:
    ca = trustme.CA()
    async with working(tls=server_tls(ca, "127.0.0.1")) as worker:
        async with proxied(credentials="me:pass") as proxy:
            options: dict[str, Any] = {"ca_file": ca_file(ca, tmp_path)}
            right = Proxy(proxy.host, proxy.port, "me:pass")
            async with connected(quick(worker.url, proxy=right, **options)):
                pass
            error = await failing(quick(worker.url, proxy=proxy, **options))
            assert isinstance(error, AuthError) and "407" in str(error)


@pytest.mark.parametrize(
    ("answer", "kind", "hint"),
    [
        (b"HTTP/1.1 502 Bad\r\n\r\n", WorkerUnreachable, "502 Bad: it could not connect"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", TunnelError, "does not let us"),
        (b"SSH-2.0-x\r\n\r\n", TunnelError, "not answer as an HTTP proxy"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000, TunnelError, "not answer as an HTTP proxy"),
        (b"HTTP/1.1 200", WorkerUnreachable, "hung up"),
    ],
)
async def test_a_proxy_that_does_not(answer: bytes, kind: type[Exception], hint: str) -> None:
    async with listening(raw_server(None, answer)) as url:
        proxy = Proxy("127.0.0.1", parse_worker_url(url).port)
        error = await failing(quick("wss://worker.example", proxy=proxy))
    assert isinstance(error, kind) and hint in str(error)


async def test_a_proxy_that_is_silent_or_absent() -> None:
    async with listening(raw_server(None, then_hang=True)) as url:
        proxy = Proxy("127.0.0.1", parse_worker_url(url).port)
        error = await failing(quick("wss://worker.example", proxy=proxy, connect_timeout=0.2))
        assert isinstance(error, WorkerUnreachable) and "the proxy" in str(error)
    with trio.fail_after(30):
        error = await failing(quick("wss://worker.example", proxy=proxy))
    assert isinstance(error, WorkerUnreachable) and "refused" in str(error)


async def test_a_proxys_name_is_looked_up_as_the_workers_would_be() -> None:
    asked: list[str] = []

    async def resolve(name: str) -> list[str]:
        asked.append(name)
        raise OSError("no such name")

    error = await failing(
        quick("wss://worker.example", proxy=Proxy("proxy.example", 1), resolve=resolve)
    )
    assert asked == ["proxy.example"]
    assert isinstance(error, WorkerUnreachable) and "the proxy http://proxy.example:1" in str(error)


@pytest.mark.skipif(sys.platform != "linux", reason="captures are for Linux")
@pytest.mark.parametrize(
    ("proxy", "address", "noted"),
    [
        (None, None, ["worker.example"]),
        (None, "192.0.2.1", []),
        ("http://proxy.example:3128", None, ["proxy.example"]),
        ("http://192.0.2.2:3128", None, []),
    ],
)
def test_a_plan_says_whose_addresses_are_not_known_yet(
    proxy: str | None, address: str | None, noted: list[str]
) -> None:
    config = VpnConfig(
        worker=parse_worker_url("wss://worker.example"),
        worker_address=None if address is None else parse_worker_address(address),
        proxy=None if proxy is None else parse_proxy(proxy),
        host=HostOptions(bypass_hosts=("other.example",)),
    )
    notes = Capture(config, cast(Any, SimpleNamespace(mark=1))).notes
    expected = [f"the addresses of {host} join `peers`" for host in noted]
    assert [note.split(" when")[0] for note in notes if "`peers`" in note] == expected
    assert any("other.example" in note for note in notes)
