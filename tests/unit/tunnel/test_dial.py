"""The way to a worker, and every way in which it is barred."""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from tests.kits.ports import SHORTEST_QUEUE
from zks_lwip.carrier.http import HttpResponse
from zks_lwip.carrier.upgrade import Accept, accept_websocket
from zks_lwip.carrier.versions import V2
from zks_lwip.errors import (
    AuthError,
    CertificateError,
    ConfigError,
    PrivilegeError,
    TunnelError,
    WorkerNotFound,
    WorkerUnreachable,
)
from zks_lwip.tunnel.dial import connect_worker
from zks_lwip.tunnel.options import TunnelConfig
from zks_lwip.tunnel.tcp_path import open_tcp

from ...kits.ports import on_one_port
from ...kits.tunnel import eventually, listening, quick, raw_server, read_head, working


@asynccontextmanager
async def connected(config: TunnelConfig) -> AsyncIterator[Any]:
    async with trio.open_nursery() as nursery:
        connection = await connect_worker(config, nursery)
        try:
            yield connection
        finally:
            await connection.aclose()


async def failing(config: TunnelConfig) -> TunnelError | ConfigError:
    """The error of connecting; fails if there is none, or if it is more than a sentence."""
    try:
        async with trio.open_nursery() as nursery:
            await connect_worker(config, nursery)
            pytest.fail("it connected")
    except* (TunnelError, ConfigError, PrivilegeError) as group:
        (error,) = group.exceptions
    text = str(error)
    assert text.endswith(".") and "\n" not in text and "Traceback" not in text
    assert isinstance(error, TunnelError | ConfigError | PrivilegeError)
    return error


Serve = Callable[[trio.SocketStream], Awaitable[None]]


async def answer_of(serve: Serve, **changes: Any) -> TunnelError | ConfigError:
    async with listening(serve) as url:
        return await failing(quick(url, **changes))


async def test_a_worker_is_connected_to_as_the_protocol_says() -> None:
    async with (
        working() as worker,
        connected(quick(worker.url, token="s3cret-token")) as connection,
    ):
        assert connection.subprotocol == V2.subprotocol
        (request,) = worker.requests
        assert request.path == "/tunnel"
        assert request.header(b"authorization") == b"Bearer s3cret-token"
        assert request.header(b"host") == worker.url.split("/")[2].encode()
        assert request.header(b"sec-websocket-extensions") is None
        assert request.header(b"zks-session") is None
        assert (request.header(b"user-agent") or b"").startswith(b"zks-lwip/")
        sock = connection.stream.socket
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# no worker, or another server


async def test_no_worker_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        error = await failing(quick(f"ws://127.0.0.1:{port}"))
    assert isinstance(error, WorkerUnreachable)
    assert f"ws://127.0.0.1:{port}/tunnel" in str(error) and "refused" in str(error)
    assert "check that it runs there" in str(error)


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EACCES, "a firewall forbids it"),
        (errno.EPERM, "a firewall forbids it"),
        (errno.ENETUNREACH, "check this machine's network"),
        (errno.EHOSTUNREACH, "check this machine's network"),
        (errno.EHOSTUNREACH, "a `connect` that runs here already"),
    ],
)
async def test_what_keeps_from_the_worker_is_told_from_a_worker_that_is_down(
    number: int, advice: str
) -> None:
    def fail(sock: trio.socket.SocketType, address: str, port: int) -> None:
        raise OSError(number, os.strerror(number))

    error = await failing(quick("ws://127.0.0.1:9", configure_socket=fail))
    assert isinstance(error, WorkerUnreachable)
    assert advice in str(error) and os.strerror(number) in str(error)


@pytest.mark.parametrize(
    ("token", "words"), [(None, "asks for a token"), ("wrong-one", "does not accept this token")]
)
async def test_a_token_that_is_missing_or_wrong(token: str | None, words: str) -> None:
    async with working() as worker:
        worker.token = "right"
        error = await failing(quick(worker.url, token=token))
    assert isinstance(error, AuthError)
    assert words in str(error) and "401" in str(error) and "`token`" in str(error)
    assert "wrong-one" not in repr(error)
    assert "wrong-one" not in repr(quick(worker.url, token=token))


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", AuthError, "403"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", WorkerNotFound, "404"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>" + b"x" * 9999,
            WorkerNotFound,
            "a web page): check host, port and path, and whether this network asks for a login",
        ),
        (
            b"HTTP/1.1 302 Found\r\nLocation: https://elsewhere.example/\r\n\r\n",
            WorkerNotFound,
            "redirects are never followed",
        ),
        (b"HTTP/1.1 400 Bad\r\nConnection: close\r\n\r\n", WorkerNotFound, "400"),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", WorkerUnreachable, "503"),
        (b"HTTP/1.1 429 Slow\r\nContent-Length: 0\r\n\r\n", WorkerUnreachable, "429"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", WorkerNotFound, "100"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", WorkerNotFound, "does not answer as a WebSocket"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", WorkerNotFound, "does not answer as a WebSocket"),
        (b"\x15\x03\x01\x00\x02\x02\x46", WorkerNotFound, "whether it expects wss://"),
        (b"\x15\x03\x01\x00\x02\x02\x46" * 9 + b"\r\n\r\n", WorkerNotFound, "does not answer"),
        (b"HTTP/1.1", WorkerUnreachable, "closed the connection"),
        (b"HTTPS", WorkerNotFound, "does not answer"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000, WorkerNotFound, "does not answer"),
        (b"HTTP/1.1 101 Up\r\nUpgr", WorkerUnreachable, "closed the connection"),
        (b"", WorkerUnreachable, "closed the connection"),
        (
            b"HTTP/1.1 101 Up\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
            b"Sec-WebSocket-Accept: bm8=\r\n\r\n",
            WorkerNotFound,
            "Bad accept token",
        ),
    ],
    ids=lambda value: value[:16].decode("latin-1") if isinstance(value, bytes) else None,
)
async def test_what_else_may_answer(answer: bytes, kind: type[Exception], words: str) -> None:
    with trio.fail_after(30):
        error = await answer_of(raw_server(None, answer))
    assert type(error) is kind
    assert words in str(error)


async def test_who_speaks_another_protocol_first_is_not_waited_for() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.send_all(b"220 mail.example ESMTP\r\n")
        await trio.sleep_forever()

    began = trio.current_time()
    with trio.fail_after(30):
        assert isinstance(await answer_of(serve), WorkerNotFound)
    assert trio.current_time() - began < 5, "the time for the upgrade ran out"


async def test_a_redirect_is_not_followed() -> None:
    async with working() as worker:
        location = worker.url.replace("ws:", "http:").encode()
        head = b"HTTP/1.1 307 Elsewhere\r\nLocation: " + location + b"\r\n\r\n"
        error = await answer_of(raw_server(None, head))
        assert worker.requests == []
    assert location.decode() in str(error)
    assert "or log in to this network first" in str(error)


async def test_a_body_without_end_is_not_read() -> None:
    sent = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal sent
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 404 No\r\nContent-Type: text/html\r\n\r\n")
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await stream.send_all(bytes(1 << 20))
                sent += 1

    with trio.fail_after(30):
        assert isinstance(await answer_of(serve), WorkerNotFound)
    assert sent < 20


async def test_a_websocket_server_that_is_no_worker() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        async with trio.open_nursery() as nursery:
            connection = await accept_websocket(nursery, stream, authorize=lambda _: Accept(None))
            assert connection is not None
            await connection.deliver(lambda message: None)
            closed.append(connection.closed_status)

    closed: list[int | None] = []
    error = await answer_of(serve)
    assert isinstance(error, WorkerNotFound)
    assert "zks-tunnel.v2" in str(error) and "`protocol` to v1" in str(error)


async def test_the_upgrade_is_not_answered() -> None:
    error = await answer_of(raw_server(then_hang=True), upgrade_timeout=0.2)
    assert isinstance(error, WorkerUnreachable) and "within 0.2 s" in str(error)


# TLS


def server_tls(ca: trustme.CA, *names: str, **options: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(*names, **options).configure_cert(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def ca_file(ca: trustme.CA, folder: Path) -> Path:
    path = folder / "ca.pem"
    ca.cert_pem.write_to_path(path)
    return path


async def test_tls_with_a_private_authority(tmp_path: Path) -> None:
    ca = trustme.CA()
    async with (
        working(tls=server_tls(ca, "127.0.0.1")) as worker,
        connected(quick(worker.url, ca_file=ca_file(ca, tmp_path))) as connection,
    ):
        assert connection.stream.version() in ("TLSv1.2", "TLSv1.3")
        assert connection.stream.selected_alpn_protocol() == "http/1.1"


async def test_a_certificate_of_an_unknown_authority() -> None:
    async with working(tls=server_tls(trustme.CA(), "127.0.0.1")) as worker:
        error = await failing(quick(worker.url, token="t"))
        assert worker.requests == []  # and the token was never sent
    assert isinstance(error, CertificateError)
    assert "does not verify" in str(error) and "`ca_file`" in str(error)
    assert "whether this network asks for a login" in str(error)


@pytest.mark.parametrize("names", [("worker.example",), ("127.0.0.9",)])
async def test_a_certificate_for_another_name(tmp_path: Path, names: tuple[str, ...]) -> None:
    ca = trustme.CA()
    async with working(tls=server_tls(ca, *names)) as worker:
        error = await failing(quick(worker.url, ca_file=ca_file(ca, tmp_path)))
        assert worker.requests == []
    assert isinstance(error, CertificateError) and "127.0.0.1" in str(error)


async def test_the_name_is_verified_where_the_address_is_given(tmp_path: Path) -> None:
    ca = trustme.CA()
    async with working(tls=server_tls(ca, "worker.example")) as worker:
        port = worker.url.rpartition(":")[2].split("/")[0]
        options = {"ca_file": ca_file(ca, tmp_path), "address": "127.0.0.1"}
        async with connected(quick(f"wss://worker.example:{port}/tunnel", **options)):
            pass
        error = await failing(quick(f"wss://other.example:{port}/tunnel", **options))
    assert isinstance(error, CertificateError)


async def test_a_certificate_that_has_expired(tmp_path: Path) -> None:
    import datetime

    ca = trustme.CA()
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    async with working(tls=server_tls(ca, "127.0.0.1", not_after=past)) as worker:
        error = await failing(quick(worker.url, ca_file=ca_file(ca, tmp_path)))
    assert isinstance(error, CertificateError) and "expired" in str(error)


async def test_old_tls_is_refused(tmp_path: Path) -> None:
    ca = trustme.CA()
    context = server_tls(ca, "127.0.0.1")
    with pytest.warns(DeprecationWarning):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1

    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        with pytest.raises(trio.BrokenResourceError):
            await stream.do_handshake()
        await trio.aclose_forcefully(stream)

    async with listening(serve, tls=context) as url:
        error = await failing(quick(url, ca_file=ca_file(ca, tmp_path)))
    assert isinstance(error, WorkerUnreachable) and "no TLS" in str(error)


async def test_wss_to_a_port_without_tls() -> None:
    async with listening(raw_server(0.05, b"HTTP/1.1 400 Bad Request\r\n\r\n")) as url:
        error = await failing(quick(url.replace("ws:", "wss:")))
    assert isinstance(error, WorkerUnreachable) and "no TLS" in str(error)


async def test_a_ca_file_without_certificates(tmp_path: Path) -> None:
    path = tmp_path / "empty.pem"
    path.write_text("no certificate\n")
    async with working() as worker:
        error = await failing(quick(worker.url.replace("ws:", "wss:"), ca_file=path))
    assert isinstance(error, ConfigError) and "empty.pem" in str(error)


# in the clear


def test_plaintext_is_for_loopback() -> None:
    with pytest.raises(ConfigError, match="insist with `plaintext`"):
        TunnelConfig(url="ws://192.0.2.1/tunnel", token="t")
    TunnelConfig(url="ws://192.0.2.1/tunnel", plaintext=True)
    TunnelConfig(url="ws://[::1]:80/")
    assert TunnelConfig(url="wss://host.example").worker.path == "/tunnel"


async def test_localhost_that_is_not_this_machine() -> None:
    async def resolve(name: str) -> list[str]:
        return ["192.0.2.7"]

    error = await failing(quick("ws://localhost:9/tunnel", resolve=resolve))
    assert isinstance(error, ConfigError) and "insist with `plaintext`" in str(error)


# addresses


async def test_a_name_that_does_not_resolve() -> None:
    async def resolve(name: str) -> list[str]:
        raise OSError(f"no addresses for {name}")

    error = await failing(quick("wss://nowhere.example", resolve=resolve))
    assert isinstance(error, WorkerUnreachable) and "does not resolve" in str(error)
    assert "give its address by `worker_address`" in str(error)
    assert "check its spelling and the resolvers that are asked" in str(error)


async def test_a_name_server_that_is_silent_is_not_taken_for_a_silent_worker() -> None:
    async def resolve(name: str) -> list[str]:
        await trio.sleep_forever()
        return []

    error = await failing(
        quick("wss://nowhere.example", resolve=resolve, connect_timeout=0.1),
    )
    assert isinstance(error, WorkerUnreachable)
    assert "does not resolve (no answer within 0.1 s)" in str(error)
    assert "give its address by `worker_address`" in str(error)


async def test_a_dead_address_costs_a_quarter_of_a_second() -> None:
    full, living = on_one_port((socket.SOCK_STREAM, "127.0.0.2"), (socket.SOCK_STREAM, "127.0.0.1"))
    full.listen(SHORTEST_QUEUE)
    port = full.getsockname()[1]
    stuffing = []
    for _ in range(3):  # a full queue makes Linux drop the next SYN
        each = socket.socket()
        each.setblocking(False)
        each.connect_ex(("127.0.0.2", port))
        stuffing.append(each)
    assert select.select([], stuffing, [], 30)[1]
    living.listen()
    began = trio.current_time()
    try:
        with trio.fail_after(30):
            stream = await open_tcp(["127.0.0.2", "127.0.0.1"], port)
        assert stream.socket.getpeername()[0] == "127.0.0.1"
        assert 0.2 < trio.current_time() - began < 10
        await stream.aclose()
        # and one that refuses costs nothing
        began = trio.current_time()
        stream = await open_tcp(["127.0.0.3", "127.0.0.1"], port, delay=20.0)
        assert trio.current_time() - began < 10
        await stream.aclose()
        with pytest.raises(OSError, match="127.0.0.3: .*refused; 127.0.0.4: "):
            await open_tcp(["127.0.0.3", "127.0.0.4"], port)
    finally:
        for each in [full, living, *stuffing]:
            each.close()


async def test_what_is_wrong_with_an_address_is_said() -> None:
    with pytest.raises(OSError, match="^fe80::1%none: (?!Unknown)[A-Za-z ]+$"):
        await open_tcp(["fe80::1%none"], 9)


@pytest.mark.skipif(sys.platform != "linux", reason="marks are Linux's (SO_MARK)")
async def test_every_socket_is_marked_and_configured() -> None:
    mark = getattr(socket, "SO_MARK", 36)
    seen: list[tuple[int, str, int]] = []

    def configure(sock: trio.socket.SocketType, address: str, port: int) -> None:
        seen.append((sock.getsockopt(socket.SOL_SOCKET, mark), address, port))

    async with working() as worker:
        config = quick(worker.url, mark=0x5A4B, configure_socket=configure)
        probe = socket.socket()
        try:
            probe.setsockopt(socket.SOL_SOCKET, mark, 1)
        except PermissionError:
            async with trio.open_nursery() as nursery:
                with pytest.raises(PrivilegeError, match="CAP_NET_ADMIN"):
                    await connect_worker(config, nursery)
            return
        finally:
            probe.close()
        async with connected(config):
            assert seen == [(0x5A4B, "127.0.0.1", config.worker.port)]


async def test_nothing_is_left_open_by_a_failure() -> None:
    async with listening(raw_server(None, b"HTTP/1.1 404 No\r\n\r\n")) as url:
        await failing(quick(url))
        before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        for _ in range(5):
            await failing(quick(url))
        await eventually(lambda: not before or len(os.listdir("/proc/self/fd")) <= before)


def test_responses_say_what_they_are() -> None:
    page = HttpResponse(200, b"{}", ((b"content-type", b"application/json"),)).encode()
    assert page.startswith(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
    assert b"Content-Length: 2\r\n" in page and page.endswith(b"\r\n\r\n{}")
    assert HttpResponse(404, b"body").encode(with_body=False).endswith(b"\r\n\r\n")
