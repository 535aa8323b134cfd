"""Clients that are slow, malformed, many, or none: what they get, and what they cost."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.kits.clock import PatientClock
from tests.kits.proxy import (
    asked,
    connected,
    everything,
    exactly,
    proxying,
    request,
    reset,
    through,
)
from tests.kits.tunnel import eventually, tunnel_and_worker
from zks_lwip.errors import ConfigError, PrivilegeError
from zks_lwip.proxy import ProxyConfig, ProxyServer


@asynccontextmanager
async def world(**config: Any) -> AsyncIterator[ProxyServer]:
    async with tunnel_and_worker() as (tunnel, _), proxying(tunnel, **config) as server:
        yield server


async def works(server: ProxyServer) -> None:
    """An honest client is served."""
    stream = await through(server, "far.example", 80)
    await stream.send_all(b"x")
    assert await exactly(stream, 1) == b"x"
    await stream.aclose()


HALVES = [
    b"",
    b"\x05",
    b"\x05\x02\x00",
    b"\x05\x01\x00\x05\x01\x00\x03\xff" + b"a" * 100,
    b"G",
    b"CONNECT far.example:80 HTTP/1.1\r\n",
]


@pytest.mark.parametrize("half", HALVES)
async def test_half_a_handshake_ends_in_time(half: bytes) -> None:
    async with world(handshake_timeout=0.2) as server:
        stream = await connected(server)
        if half:
            await stream.send_all(half)
        with trio.fail_after(60):
            await everything(stream)
        await eventually(lambda: server.counters.clients_late == 1)
        await works(server)


async def test_a_slow_client_is_not_given_more_time_for_each_byte() -> None:
    async with world(handshake_timeout=0.5) as server:
        stream = await connected(server)
        with trio.fail_after(60), pytest.raises(trio.BrokenResourceError):
            for byte in b"\x05\xff" + bytes(300):
                await stream.send_all(bytes((byte,)))
                await trio.sleep(0.05)
        assert server.counters.clients_late == 1


@pytest.mark.parametrize("half", HALVES)
async def test_a_client_that_goes_away_in_the_handshake(half: bytes) -> None:
    async with world() as server:
        for go in (reset, lambda stream: stream.socket.close()):
            stream = await connected(server)
            if half:
                await stream.send_all(half)
            go(stream)
        await eventually(lambda: server.counters.clients == 2 and not server.stats()["handshakes"])
        await works(server)


WRONG = [
    (b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00", b"\x00\x5b" + bytes(6)),
    (b"\x16\x03\x01\x02\x00\x01", b""),
    (b"\x00" * 100, b""),
    (b"\xff" * 100_000, b""),
    (b"\x05\x00", b"\x05\xff"),
    (b"\x05\x01\x01", b"\x05\xff"),
    (b"\x05\x01\x00" + request(2, "192.0.2.1", 80), b"\x05\x00\x05\x07\x00\x01" + bytes(6)),
    (b"\x05\x01\x00" + request(9, "192.0.2.1", 80), b"\x05\x00\x05\x07\x00\x01" + bytes(6)),
    (b"\x05\x01\x00\x05\x01\x00\x09" + bytes(9), b"\x05\x00\x05\x08\x00\x01" + bytes(6)),
    (b"\x05\x01\x00" + request(1, "a\0b", 80), b"\x05\x00\x05\x04\x00\x01" + bytes(6)),
    (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
    (b"GET / HTTP/9.9 x\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
    (b"HEAD x://y HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 501 Not Implemented"),
    (b"CONNECT x:80 HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
    (b"GET http://x/ HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 20_000, b"HTTP/1.1 431 "),
    (b"A" * 100_000, b"HTTP/1.1 431 "),
]


@pytest.mark.parametrize(("data", "answer"), WRONG, ids=[str(n) for n in range(len(WRONG))])
async def test_what_is_wrong_is_answered_and_closed(data: bytes, answer: bytes) -> None:
    async with world() as server:
        stream = await connected(server)
        try:
            await stream.send_all(data)
            await stream.send_eof()
            got = await everything(stream)
        except trio.BrokenResourceError:
            assert len(data) > 50_000, "a reset is for those who send on and on"
        else:
            assert got.startswith(answer) and (got or not answer)
        await eventually(lambda: not server.stats()["handshakes"] and not server.stats()["flows"])
        await works(server)


@given(data=st.binary(min_size=1, max_size=2000), start=st.sampled_from([b"", b"\x05\x01\x00"]))
@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_bytes_leave_it_well(data: bytes, start: bytes) -> None:
    async def main() -> None:
        async with world(handshake_timeout=0.3) as server:
            stream = await connected(server)
            try:
                await stream.send_all(start + data)
                await stream.send_eof()
                await everything(stream)
            except trio.BrokenResourceError:
                pass  # it may be cut off
            await works(server)

    trio.run(main, clock=PatientClock())


async def test_a_thousand_at_once() -> None:
    """Half a handshake each; an honest client is served beside them, and all are soon gone."""
    async with world(handshake_timeout=3.0) as server:
        streams = [await connected(server) for _ in range(1000)]
        for number, stream in enumerate(streams):
            await stream.send_all(HALVES[number % len(HALVES)] or b"\x05")
        await eventually(lambda: server.counters.clients == 1000)
        await works(server)
        await eventually(lambda: not server.stats()["handshakes"])
        assert server.counters.clients_late + server.counters.clients_evicted == 1000
        await works(server)


async def test_over_the_limit_the_oldest_gives_way() -> None:
    async with world(max_handshakes=10) as server:
        streams = [await connected(server) for _ in range(30)]
        await eventually(lambda: server.counters.clients == 30)
        assert server.stats()["handshakes"] == 10 and server.counters.clients_evicted == 20
        for stream in streams[:20]:
            assert await stream.receive_some() == b""
        await works(server)


async def test_a_thousand_connections_at_once() -> None:
    async with world() as server:
        async with trio.open_nursery() as nursery:
            for _ in range(1000):
                nursery.start_soon(works, server)
        await eventually(lambda: not server.stats()["flows"])
        assert server.counters.connected == 1000


async def test_a_client_that_reads_no_answer_costs_no_more_than_its_time() -> None:
    async with world(handshake_timeout=0.3) as server:
        held = [(await asked(server, 1, "far.example", 80, SO_RCVBUF=1024))[0] for _ in range(5)]
        for stream in held:
            with trio.move_on_after(0.2):
                await stream.send_all(bytes(1 << 20))
        await works(server)
        for stream in held:
            reset(stream)
        await eventually(lambda: not server.stats()["flows"])


async def test_descriptors_that_lack_are_waited_for() -> None:
    """At the limit nothing is lost: what waits is accepted when there is one again."""
    resource = pytest.importorskip("resource")
    async with world() as server:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        client = socket.socket()
        highest = os.dup(client.fileno())
        os.close(highest)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
            client.connect(server.address)  # by the kernel: it is not accepted yet
            await trio.sleep(0.3)
            assert server.counters.clients == 0
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await eventually(lambda: server.counters.clients == 1)
        client.close()
        await works(server)


# passwords


@asynccontextmanager
async def guarded(tmp_path: Path, **config: Any) -> AsyncIterator[ProxyServer]:
    path = tmp_path / "passwords"
    path.write_text("me:secret\nyou:other\n", encoding="utf-8")
    path.chmod(0o600)
    async with world(password_file=path, failure_delay=0.1, **config) as server:
        yield server


def login(name: str, password: str) -> bytes:
    return b"\x05\x01\x02" + b"".join(
        (b"\x01", bytes((len(name),)), name.encode(), bytes((len(password),)), password.encode())
    )


async def test_a_password_is_asked_for_in_both_languages(tmp_path: Path) -> None:
    async with guarded(tmp_path) as server:
        stream = await connected(server)
        await stream.send_all(b"\x05\x01\x00" + request(1, "far.example", 80))
        assert await everything(stream) == b"\x05\xff"
        for head in ("CONNECT far.example:80", "GET http://far.example/", "GET /"):
            stream = await connected(server)
            await stream.send_all(f"{head} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            text = await everything(stream)
            assert text.startswith(b"HTTP/1.1 407 "), "nothing is told before that"
            assert b'\r\nProxy-Authenticate: Basic realm="zks-lwip"' in text
        assert server.counters.auth_failures == 0 and server.counters.connects == 0


async def test_a_right_password(tmp_path: Path) -> None:
    async with guarded(tmp_path) as server:
        stream = await connected(server)
        await stream.send_all(login("me", "secret") + request(1, "far.example", 80) + b"x")
        assert await exactly(stream, 15) == b"\x05\x02\x01\x00\x05\x00\x00\x01" + bytes(6) + b"x"
        stream = await connected(server)
        await stream.send_all(
            b"CONNECT far.example:80 HTTP/1.1\r\nHost: x\r\n"
            b"Proxy-Authorization: Basic bWU6c2VjcmV0\r\n\r\ny"
        )
        assert (await exactly(stream, 40)).endswith(b"\r\n\r\ny")


@pytest.mark.parametrize(("name", "password"), [("me", "other"), ("", ""), ("no", "secret")])
async def test_a_wrong_password(
    tmp_path: Path, name: str, password: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with guarded(tmp_path) as server:
        stream = await connected(server)
        began = trio.current_time()
        await stream.send_all(login(name, password) + request(1, "far.example", 80))
        assert await everything(stream) == b"\x05\x02\x01\x01"
        assert trio.current_time() - began >= 0.1
        stream = await connected(server)
        await stream.send_all(
            b"GET http://far.example/ HTTP/1.1\r\nHost: x\r\n"
            b"Proxy-Authorization: Basic bWU6d3Jvbmc=\r\n\r\n"
        )
        assert (await everything(stream)).startswith(b"HTTP/1.1 407 ")
        assert server.counters.auth_failures == 2 and server.counters.connects == 0
    said = [
        record.message for record in caplog.records if "authentication failed" in record.message
    ]
    assert said == ["proxy: authentication failed from 127.0.0.1"] * 2
    assert password not in "".join(said) or not password


async def test_without_passwords_any_will_do() -> None:
    async with world() as server:
        stream = await connected(server)
        await stream.send_all(login("who", "ever") + request(1, "far.example", 80))
        assert (await exactly(stream, 6))[4:] == b"\x05\x00"


async def test_a_name_that_is_gone_has_nothing_open(tmp_path: Path) -> None:
    async with guarded(tmp_path) as server:
        mine = await connected(server)
        await mine.send_all(login("me", "secret") + request(1, "far.example", 80))
        yours = await connected(server)
        await yours.send_all(login("you", "other") + request(1, "far.example", 80))
        for stream in (mine, yours):
            await exactly(stream, 14)
        path = tmp_path / "passwords"
        path.write_text("you:changed\n", encoding="utf-8")
        server.reload()
        with pytest.raises(trio.BrokenResourceError):
            await mine.receive_some()
        await yours.send_all(b"y")
        assert await exactly(yours, 1) == b"y"
        path.write_text("", encoding="utf-8")
        with pytest.raises(ConfigError):
            server.reload()


# listening


async def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match="in use; end what listens there .* another port"):
            ProxyServer(ProxyConfig(port=port))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may")
def test_a_port_that_needs_privilege() -> None:
    with pytest.raises(PrivilegeError, match=r"below 1024 .* give `listen` a higher one.*=80`"):
        ProxyServer(ProxyConfig(port=80))
