"""Names that are looked up before there is a tunnel: over HTTPS from here, never plainly."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import dns.message
import dns.rrset
import pytest
import trio

from tests.kits import dns_servers as servers
from zks_lwip.dns.bootstrap import Bootstrap
from zks_lwip.dns.local import parse_static_name
from zks_lwip.dns.message.addresses import addresses_in
from zks_lwip.dns.message.wire import Type, WireError
from zks_lwip.dns.options import DnsOptions
from zks_lwip.errors import DnsError


def answer(kind: str, *records: tuple[str, str, str], rcode: int = 0) -> bytes:
    made = dns.message.make_response(dns.message.make_query("worker.example", kind))
    made.set_rcode(rcode)
    for name, record, data in records:
        made.answer.append(dns.rrset.from_text(name, 60, "IN", record, data))
    return made.to_wire()


def test_addresses_are_taken_through_aliases() -> None:
    message = answer(
        "A",
        ("worker.example.", "CNAME", "other.example."),
        ("other.example.", "A", "192.0.2.7"),
        ("other.example.", "A", "192.0.2.8"),
    )
    assert addresses_in(message, Type.A) == ["192.0.2.7", "192.0.2.8"]
    message = answer("AAAA", ("worker.example.", "AAAA", "2001:db8::7"))
    assert addresses_in(message, Type.AAAA) == ["2001:db8::7"]
    assert addresses_in(message, Type.A) == []


def test_what_is_no_answer() -> None:
    with pytest.raises(DnsError, match="no such name"):
        addresses_in(answer("A", rcode=3), Type.A)
    with pytest.raises(DnsError, match="no resolver could tell"):
        addresses_in(answer("A", rcode=2), Type.A)
    with pytest.raises(WireError):
        addresses_in(answer("A")[:-1], Type.A)


@asynccontextmanager
async def running(options: DnsOptions, **more: Any) -> AsyncIterator[Bootstrap]:
    bootstrap = Bootstrap(options, mark=None, hosts=None, **more)
    async with trio.open_nursery() as nursery:
        await nursery.start(bootstrap.run)
        yield bootstrap
        nursery.cancel_scope.cancel()


async def test_a_name_is_looked_up_over_https(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    servers.AUTHORITY.cert_pem.write_to_path(authority)
    async with servers.listening(servers.http2, None, servers.server_context("h2")) as server:
        options = DnsOptions.parse(
            servers=[f"https://{servers.NAME}:{server.port}/q@127.0.0.1"],
            via="tunnel",
            forward=["corp.example=192.0.2.53"],
        )
        assert Bootstrap.outside(options) == tuple(
            ipaddress.ip_network(text) for text in ("192.0.2.53", "127.0.0.1")
        )
        texts = ["here.example=192.0.2.99", "here.example=2001:db8::99"]
        static = [parse_static_name(text) for text in texts]
        async with running(options, ca_file=authority, static=static) as bootstrap:
            # (The server has no AAAA record.)
            assert await bootstrap.addresses("ok.example") == ["192.0.2.1"]
            assert await bootstrap.addresses("here.example") == ["2001:db8::99", "192.0.2.99"]


async def test_why_there_is_none() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        options = DnsOptions.parse(
            servers=[f"https://dns.example:{closed.getsockname()[1]}/q@127.0.0.1"]
        )
        async with running(options) as bootstrap:
            with pytest.raises(OSError, match="no resolver could tell: .*refused"):
                await bootstrap.addresses("worker.example")
            with pytest.raises(OSError, match="label"):
                await bootstrap.addresses("x" * 64)


async def test_a_name_that_is_not_asked_outside_says_what_to_do() -> None:
    async with running(DnsOptions.parse(servers=["https://dns.example:1/q@127.0.0.1"])) as names:
        with pytest.raises(OSError, match="no such name: .*RFC 6762.*--dns-forward"):
            await names.addresses("nas.local")
        with pytest.raises(OSError, match="no addresses: a name without a dot.*--dns-static"):
            await names.addresses("nas")
