"""The worker's admission: tokens, refusals, hostile clients, signals, TLS."""

from __future__ import annotations

import logging
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme
from trio_websocket import ConnectionClosed

from tests.kits.until import until
from tests.kits.worker import (
    RawClient,
    echo,
    far_sockets,
    raw_client,
    running_worker,
    tcp_server,
)
from zks_lwip.errors import ConfigError, PrivilegeError
from zks_lwip.net.listen import parse_listen
from zks_lwip.net.sockets import check_mark
from zks_lwip.protocol import (
    Close,
    Connect,
    Connected,
    Data,
    DnsResponse,
    Eof,
    Error,
    Frame,
    GoAway,
    Hello,
    Ping,
    Pong,
    Udp,
    Unknown,
    Window,
)
from zks_lwip.worker import Limits, Worker, WorkerConfig

ALICE = "alice-" + "a" * 30
BOB = "bob-" + "b" * 30

UPGRADE = (
    "Host: worker\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: zks-tunnel.v2\r\n"
)


async def http(address: tuple[str, int], head: str) -> tuple[int, bytes]:
    """Status and the whole response to a request."""
    stream = await trio.open_tcp_stream(*address)
    async with stream:
        await stream.send_all(head.encode() + b"\r\n")
        response = b""
        with trio.fail_after(30):
            async for piece in stream:
                response += piece
                if response.startswith(b"HTTP/1.1 101") and b"\r\n\r\n" in response:
                    break
    return int(response.split()[1]), response


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"alice {ALICE}\nbob {BOB}\n")
    path.chmod(0o600)
    return path


# --- who may come in --------------------------------------------------------------------------


async def test_a_request_that_is_followed_by_a_reset_at_once() -> None:
    """The connection is gone before its request is read; the worker goes on."""
    async with running_worker() as (_, address):
        for request in (
            f"GET /tunnel HTTP/1.1\r\n{UPGRADE}",
            "GET /health HTTP/1.1\r\nHost: x\r\n",
        ):
            for _ in range(5):
                with socket.create_connection(address) as sock:  # the worker has no turn meanwhile
                    sock.sendall(f"{request}\r\n".encode())
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        status, _ = await http(address, "GET /health HTTP/1.1\r\nHost: x\r\n")
        assert status == 200


async def test_health_and_paths() -> None:
    async with running_worker() as (_, address):
        status, response = await http(address, "GET /health HTTP/1.1\r\nHost: x\r\n")
        assert status == 200 and response.endswith(b"\r\n\r\nok\n")
        assert (await http(address, "GET / HTTP/1.1\r\nHost: x\r\n"))[0] == 404
        assert (await http(address, f"GET /other HTTP/1.1\r\n{UPGRADE}"))[0] == 404
        assert (await http(address, "GET /tunnel HTTP/1.1\r\nHost: x\r\n"))[0] == 426
        assert (await http(address, f"GET /tunnel?x HTTP/1.1\r\n{UPGRADE}"))[0] == 101


async def test_tokens(tokens: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with running_worker(token_file=tokens) as (_, address):
            for header in (
                "",
                "Authorization: Bearer wrong\r\n",
                f"Authorization: Basic {ALICE}\r\n",
                f"Authorization: {ALICE}\r\n",
                f"Authorization: Bearer {ALICE}x\r\n",
            ):
                status, response = await http(address, f"GET /tunnel HTTP/1.1\r\n{UPGRADE}{header}")
                assert status == 401 and b"WWW-Authenticate: Bearer" in response
            status, _ = await http(
                address,
                f"GET /tunnel?token={ALICE} HTTP/1.1\r\n{UPGRADE}",
            )
            assert status == 401
            status, _ = await http(address, "GET /health HTTP/1.1\r\nHost: x\r\n")
            assert status == 200
            async with raw_client(address, token=ALICE) as client:
                assert client.hello.session is not None and len(client.hello.session) >= 22
            with trio.fail_after(60):  # the worker says who it was when it has seen the end
                while "alice" not in caplog.text:
                    await trio.sleep(0.01)
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("zks_lwip")]
    assert not any(ALICE in message for message in ours)


@pytest.mark.parametrize("prefix", ["a", "eu-1"])
async def test_a_session_prefix_is_in_front_of_every_id(prefix: str) -> None:
    async with running_worker(session_prefix=prefix) as (_, address):
        found = set()
        for _ in range(3):
            async with raw_client(address) as client:
                assert client.hello.session is not None
                name, _, secret = client.hello.session.partition(".")
                assert name == prefix and len(secret) >= 22
                found.add(secret)
        assert len(found) == 3


@pytest.mark.parametrize("prefix", ["a.b", "ä", "a b", "a\r\nb", "x" * 33, "_"])
def test_what_cannot_be_a_session_prefix(prefix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        WorkerConfig(session_prefix=prefix)
    assert caught.value.option == "session_prefix"


async def test_origin() -> None:
    async with running_worker(origins=("https://good.example",)) as (_, address):
        head = f"GET /tunnel HTTP/1.1\r\n{UPGRADE}Origin: "
        assert (await http(address, head + "https://evil.example\r\n"))[0] == 403
        assert (await http(address, head + "null\r\n"))[0] == 403
        assert (await http(address, head + "https://good.example\r\n"))[0] == 101


async def test_a_subprotocol_that_is_not_ours() -> None:
    async with running_worker() as (_, address):
        head = UPGRADE.replace("zks-tunnel.v2", "chat")
        status, response = await http(address, f"GET /tunnel HTTP/1.1\r\n{head}")
        assert status == 400 and b"zks-tunnel.v2" in response


async def test_too_many_sessions(tokens: Path) -> None:
    async with (
        running_worker(token_file=tokens, limits=Limits(sessions=1)) as (_, address),
        raw_client(address, token=ALICE),
    ):
        head = f"GET /tunnel HTTP/1.1\r\n{UPGRADE}Authorization: Bearer "
        assert (await http(address, f"{head}{ALICE}\r\n"))[0] == 429
        async with raw_client(address, token=BOB):
            pass


async def test_a_session_of_few_streams() -> None:
    limits = Limits(streams=5, session_streams=2)
    async with running_worker(limits=limits) as (_, address), tcp_server(echo) as port:
        async with raw_client(address) as one, raw_client(address) as other:
            assert one.hello.streams == 2
            for stream in (1, 2):
                await one.open(stream, "127.0.0.1", port)
                await other.open(stream, "127.0.0.1", port)
            await one.send(Connect(3, "127.0.0.1", port))
            assert (await one.expect(Error)).code == 429


async def test_streams_of_v1_keep_no_session_of_v2_out(tokens: Path) -> None:
    v2 = f"GET /tunnel HTTP/1.1\r\n{UPGRADE}Authorization: Bearer {ALICE}\r\n"
    v1 = v2.replace("Sec-WebSocket-Protocol: zks-tunnel.v2\r\n", "")
    v1_client = partial(raw_client, token=ALICE, greet=False, subprotocols=())
    limits = Limits(sessions=1, streams=2)
    async with running_worker(token_file=tokens, limits=limits) as (_, address):
        async with v1_client(address), v1_client(address):
            assert (await http(address, v1))[0] == 429
            async with raw_client(address, token=ALICE):
                assert (await http(address, v2))[0] == 429
        async with raw_client(address, token=ALICE), v1_client(address):
            pass


async def test_connections_without_a_token_keep_no_client_out(tokens: Path) -> None:
    """Those that say nothing are bounded, and the oldest of them gives way."""
    async with running_worker(token_file=tokens, max_handshakes=4) as (worker, address):
        silent = []
        for number in range(10):
            silent.append(await trio.open_tcp_stream(*address))
            await silent[-1].send_all(b"GET /tunnel HTTP/1.1\r\n")
            with trio.fail_after(30):
                while worker.handshakes < min(number + 1, 4):
                    await trio.sleep(0.01)
        for stream in silent[:6]:
            with trio.fail_after(30), suppress(trio.BrokenResourceError):
                assert await stream.receive_some() == b""
        async with raw_client(address, token=ALICE) as client, tcp_server(echo) as port:
            await client.open(1, "127.0.0.1", port)
            assert worker.handshakes <= 4
        for stream in silent:
            await stream.aclose()


@pytest.mark.parametrize("garbage", [b"\x16\x03\x01\x02\x00", b"\0" * 100, b"A" * 100_000])
async def test_no_http(garbage: bytes) -> None:
    async with running_worker() as (_, address):
        async with await trio.open_tcp_stream(*address) as stream:
            with trio.fail_after(30):
                try:
                    await stream.send_all(garbage + b"\r\n\r\n")
                    async for _ in stream:
                        pass
                except trio.BrokenResourceError:
                    pass  # closed on us while we were sending: good
        async with raw_client(address):
            pass


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_no_listening_beyond_loopback_without_token(host: str) -> None:
    with pytest.raises(ConfigError, match="without a token"):
        Worker(WorkerConfig(host=host))


def test_a_time_that_is_none() -> None:
    with pytest.raises(ConfigError, match="^`resume` -1 is no number of seconds"):
        Worker(WorkerConfig(resume=-1))


def test_listening_beyond_loopback_without_tls_warns(
    tokens: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Worker(WorkerConfig(host="0.0.0.0", token_file=tokens)).readiness.close()
    assert "without TLS" in caplog.text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8787", ("127.0.0.1", 8787)),
        ("localhost:0", ("127.0.0.1", 0)),
        ("[::1]:80", ("::1", 80)),
        ("0.0.0.0:443", ("0.0.0.0", 443)),
    ],
)
def test_listen_option(text: str, expected: tuple[str, int]) -> None:
    assert parse_listen(text) == expected


@pytest.mark.parametrize(
    "text", ["", "8787", ":8787", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536"]
)
def test_bad_listen_option(text: str) -> None:
    with pytest.raises(ConfigError, match="^`listen` "):
        parse_listen(text)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit of descriptors")
async def test_nor_do_they_where_descriptors_are_few(tokens: Path) -> None:
    """A worker whose streams have all that they may have still takes a new client in."""
    worker = [sys.executable, "-m", "zks_lwip", "worker", "--allow", "127.0.0.0/8"]
    worker += ["--listen", "127.0.0.1:0", "--token-file", str(tokens)]
    with subprocess.Popen(
        ["sh", "-c", 'ulimit -n 256; exec "$@"', "sh", *worker],
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
    ) as process, ExitStack() as silent:  # fmt: skip
        silent.callback(process.kill)
        assert process.stdout is not None
        line = await trio.to_thread.run_sync(process.stdout.readline)
        address = "127.0.0.1", int(line.rpartition(b":")[2])
        async with tcp_server(echo) as port, raw_client(address, token=ALICE) as greedy:
            open_streams = 0
            with trio.fail_after(60):
                for stream in range(1, 256):
                    await greedy.send(Connect(stream, "127.0.0.1", port))
                    if not isinstance(await greedy.receive(), Connected):
                        break
                    open_streams += 1
            assert 64 < open_streams < 200
            for _ in range(250):
                one = silent.enter_context(socket.create_connection(address))
                one.sendall(b"GET /tunnel HTTP/1.1\r\n")
            with trio.fail_after(8):  # less than it takes until the silent ones are given up
                async with raw_client(address, token=BOB):
                    pass


async def test_port_in_use() -> None:
    async with running_worker() as (_, address):
        other = Worker(WorkerConfig(port=address[1]))
        with pytest.raises(ConfigError, match="in use; end what listens there"):
            await other.run()
        other.readiness.close()


def test_bad_files(tmp_path: Path) -> None:
    for options, message in (
        ({"token_file": tmp_path / "none"}, "token file"),
        ({"tls_cert": tmp_path / "none"}, "TLS"),
        ({"tls_key": tmp_path / "none"}, "`tls_key` is of no use without `tls_cert`"),
    ):
        with pytest.raises(ConfigError, match=message):
            Worker(WorkerConfig(**options))  # type: ignore[arg-type]


def test_certificates_and_keys_that_do_not_fit(tmp_path: Path) -> None:
    cert, key, other = (tmp_path / name for name in ("cert", "key", "other"))
    authority = trustme.CA()
    issued = authority.issue_cert("worker.example")
    issued.cert_chain_pems[0].write_to_path(cert)
    issued.private_key_pem.write_to_path(key)
    authority.issue_cert("worker.example").private_key_pem.write_to_path(other)
    for named, message in (
        ({"tls_cert": cert}, "its private key, is not in there"),
        ({"tls_cert": key}, "a certificate, or"),
        ({"tls_cert": cert, "tls_key": other}, "not this certificate's"),
    ):
        with pytest.raises(ConfigError, match=message):
            Worker(WorkerConfig(**named))  # type: ignore[arg-type]
    Worker(WorkerConfig(tls_cert=cert, tls_key=key)).readiness.close()


def test_mark() -> None:
    check_mark(None)
    if sys.platform != "linux":
        with pytest.raises(PrivilegeError):
            check_mark(1)


async def test_every_outgoing_socket_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        check_mark(0x5A)
    except PrivilegeError:
        pytest.skip("socket marks need CAP_NET_ADMIN")
    marks: list[int] = []
    for name in ("dial", "udp", "dnsclient", "icmp"):
        module = sys.modules[f"zks_lwip.worker.{name}"]
        real = module.open_socket  # type: ignore[attr-defined]

        def noted(*args: object, real: object = real) -> socket.socket:
            sock: socket.socket = real(*args)  # type: ignore[operator]
            marks.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK))
            return sock

        monkeypatch.setattr(module, "open_socket", noted)
    from zks_lwip.worker import parse_resolver

    async with running_worker(mark=0x5A, resolvers=(parse_resolver("127.0.0.1:1"),)) as (
        worker,
        address,
    ):
        marks.clear()
        async with raw_client(address) as client, tcp_server(echo) as port:
            await client.open(1, "127.0.0.1", port)
            await client.send(Udp(1, "127.0.0.1", port, b"x"), Connect(2, "name.example", 1))
            await client.send(b"\x08" + struct.pack("!II", 1, 5) + b"12345")
            await client.expect(Frame.__args__)  # type: ignore[arg-type, attr-defined]
            await until(lambda: len(marks) >= 4)
        del worker
    assert set(marks) == {0x5A}


# --- TLS --------------------------------------------------------------------------------------


async def test_tls(tmp_path: Path, tokens: Path) -> None:
    import ssl

    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with (
        running_worker(token_file=tokens, tls_cert=tmp_path / "both.pem") as (worker, address),
        tcp_server(echo) as port,
    ):
        async with raw_client(address, token=ALICE, context=context) as client:
            await client.open(1, "127.0.0.1", port)
            await client.send(Data(1, b"z" * 100_000))
            assert await client.data(1, 100_000) == b"z" * 100_000
        # a plaintext client, and one that does not trust it, do no harm
        async with await trio.open_tcp_stream(*address) as stream:
            await stream.send_all(b"GET /health HTTP/1.1\r\n\r\n")
            with trio.fail_after(30):
                assert not (await stream.receive_some()).startswith(b"HTTP")
        stranger = await trio.open_ssl_over_tcp_stream(*address)
        with pytest.raises(trio.BrokenResourceError), trio.fail_after(30):
            await stranger.do_handshake()
        await trio.aclose_forcefully(stranger)
        worker.reload()
        async with raw_client(address, token=BOB, context=context):
            pass


async def test_a_token_is_removed_also_where_the_certificate_cannot_be_read(
    tmp_path: Path, tokens: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import ssl

    authority = trustme.CA()
    path = tmp_path / "both.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(path)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with (
        running_worker(token_file=tokens, tls_cert=path) as (worker, address),
        raw_client(address, token=BOB, context=context) as bob,
    ):
        path.write_text("half")
        tokens.write_text(f"alice {ALICE}\n")
        worker.reload()
        assert await bob.closed() == (1008, "the token was removed")
        assert "the certificate was not reloaded" in caplog.text
        async with raw_client(address, token=ALICE, context=context):
            pass


# --- clients that lie -------------------------------------------------------------------------

HELLO = Hello().encode()


def data(stream: int, size: int) -> bytes:
    return Data(stream, bytes(size)).encode()


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        (b"\x00", "0x00"),
        (b"\x0b\0\0\0\0", "0x0b"),
        (b"\x80" + bytes(8), "0x80"),
        (b"\x02\0\0\0\1\0\0\0\xff" + b"short", "DATA"),
        (data(1, (1 << 18) + 1), "DATA"),
        (data(1, 1 << 18) + b"\x02\0\0\0\1\0\0\0\1x", "DATA"),
        (data(9, 1), "DATA"),
        (Connect(1, "127.0.0.1", 80).encode(), "CONNECT"),
        (Connect(0, "127.0.0.1", 80).encode(), "CONNECT"),
        (b"\x01\0\0\0\5\0\x50\0\x02\xff\xfe", "CONNECT"),
        (Connected(1).encode(), "CONNECTED"),
        (Error(1, 5, "").encode(), "ERROR"),
        (Window(9, 5).encode(), "WINDOW"),
        (Window(1, 2**31 - 1).encode(), "WINDOW"),
        (Eof(1).encode() * 2, "EOF"),
        (Eof(1).encode() + data(1, 1), "DATA"),
        (HELLO, "HELLO"),
        (DnsResponse(1, b"x").encode(), "DNS_RESPONSE"),
        (b"\x43\0\0\0\0\0\0\0\x08" + b"\xff" * 8, "ACK"),
    ],
)
async def test_lies_cost_the_liar_its_session(
    lie: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def still(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with (
        running_worker() as (_, address),
        tcp_server(still) as port,
        tcp_server(echo) as echo_port,
        raw_client(address) as honest,
        raw_client(address) as liar,
    ):
        caplog.clear()  # where descriptors are few, that has been said
        await honest.open(1, "127.0.0.1", echo_port)
        await liar.open(1, "127.0.0.1", port)
        status = told = None
        with trio.fail_after(60):
            while status is None:
                with suppress(ConnectionClosed):
                    await liar.send(lie)
                # (What a slow worker passes on meanwhile is no debt, until kernels take no more:
                # that is said again. All else is a lie the first time.)
                with trio.move_on_after(1 if len(lie) > 1 << 18 else 60):
                    status, told = await liar.closed()
        assert status == 1002 and told is not None
        assert reason in told
        with trio.fail_after(30):
            while not caplog.records:
                await trio.sleep(0.01)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert f"ended: 1002 {told}" in caplog.text
        assert "127.0.0.1" not in caplog.text
        await honest.send(Data(1, b"unharmed"))
        assert await honest.data(1, 8) == b"unharmed"


@pytest.mark.parametrize(
    "hello",
    [
        data(1, 1),
        Ping().encode(),
        b"\x40\0\0\0\0\0\0\0\1{",
        b"\x40\0\0\0\0" + struct.pack("!I", 2) + b"[]",
        b"\x40\0\0\0\0" + struct.pack("!I", 15) + b'{"window": 0.5}',
        b"\x40\0\0\0\0" + struct.pack("!I", 20) + b'{"window":999999999}' + b"9",
        b"\x40\0\0\0\0\xff\xff\xff\xff",
    ],
)
async def test_bad_hello(hello: bytes) -> None:
    async with running_worker() as (_, address), raw_client(address, greet=False) as client:
        await client.send(hello)
        assert (await client.closed())[0] == 1002


async def test_text_and_oversized_messages() -> None:
    async with running_worker() as (_, address):
        async with raw_client(address) as client:
            await client.websocket.send_message("text")
            assert (await client.closed())[0] == 1002
        async with raw_client(address) as client:
            await client.websocket.send_message(bytes((1 << 20) + 1))
            assert (await client.closed())[0] == 1009


async def test_unknown_frames_are_skipped() -> None:
    async with running_worker() as (_, address), raw_client(address) as client:
        await client.send(Unknown(0x5F, 3, b"x"), Unknown(0x60, 3, b""), Ping())
        await client.expect(Pong)


async def test_endless_tiny_frames_are_bounded() -> None:
    """A client that asks, and never reads: what waits for it is bounded, then it is cut off."""
    async with running_worker() as (_, address):
        stream = await trio.open_tcp_stream(*address)
        async with stream:
            head = f"GET /tunnel HTTP/1.1\r\n{UPGRADE}\r\n"
            await stream.send_all(head.encode())

            def frame(payload: bytes) -> bytes:
                size = b"\xfe" + struct.pack("!H", len(payload))
                return b"\x82" + size + bytes(4) + payload

            await stream.send_all(frame(HELLO.ljust(200, b"\x05")))
            pings = frame(b"\x05" * 60_000)
            with trio.fail_after(60):
                try:
                    while True:
                        await stream.send_all(pings)
                except trio.BrokenResourceError:
                    pass  # cut off, as it should be
        async with raw_client(address) as client:
            await client.send(Ping())
            await client.expect(Pong)


async def test_a_client_that_vanishes(tokens: Path) -> None:
    async with running_worker(token_file=tokens) as (worker, address), tcp_server(echo) as port:
        async with raw_client(address, token=ALICE) as client:
            await client.open(1, "127.0.0.1", port)
            await client.send(Udp(1, "127.0.0.1", port, b"x"))
            await until(lambda: far_sockets(worker) == 2)
            await client.stream.aclose()
            await until(lambda: not far_sockets(worker))


# --- life and death ---------------------------------------------------------------------------


async def test_removed_tokens_lose_their_sessions(
    tokens: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        running_worker(token_file=tokens) as (worker, address),
        raw_client(address, token=ALICE) as alice,
        raw_client(address, token=BOB) as bob,
    ):
        tokens.write_text(f"alice {ALICE}\ncarol {'c' * 32}\n")
        worker.reload()
        assert await bob.closed() == (1008, "the token was removed")
        await alice.send(Ping())
        await alice.expect(Pong)
        status, _ = await http(
            address, f"GET /tunnel HTTP/1.1\r\n{UPGRADE}Authorization: Bearer {BOB}\r\n"
        )
        assert status == 401
        async with raw_client(address, token="c" * 32):
            pass
        tokens.write_text("")
        worker.reload()
        assert "the tokens were not reloaded" in caplog.text
        await alice.send(Ping())
        await alice.expect(Pong)


async def test_stopping_lets_streams_end() -> None:
    async with running_worker(drain=60) as (worker, address), tcp_server(echo) as port:
        async with raw_client(address) as busy, raw_client(address) as idle:
            await busy.open(1, "127.0.0.1", port)
            worker.stop()
            goaway = await busy.expect(GoAway)
            assert goaway.code == 503
            assert (await idle.closed())[0] == 1000
            await busy.send(Connect(2, "127.0.0.1", port))
            error = await busy.expect(Error)
            assert (error.stream, error.code) == (2, 503)
            with pytest.raises(OSError):
                await trio.open_tcp_stream(*address)
            await busy.send(Data(1, b"last words"), Eof(1))
            assert await busy.data(1, 10) == b"last words"
            await busy.expect(Eof)
            assert (await busy.closed())[0] == 1000
        with trio.fail_after(30):
            await worker.ended.wait()


async def test_stopping_does_not_wait_for_ever() -> None:
    async with running_worker(drain=1) as (worker, address), tcp_server(echo) as port:
        async with raw_client(address) as busy:
            await busy.open(1, "127.0.0.1", port)
            worker.stop()
            await busy.expect(GoAway)
            assert (await busy.closed())[0] == 1000
        with trio.fail_after(30):
            await worker.ended.wait()


@asynccontextmanager
async def process(*arguments: str, **options: object) -> AsyncIterator[trio.Process]:
    """``python -m zks_lwip worker …``; killed at the end if it has not ended."""
    if sys.platform == "win32":
        pytest.skip("these are about signals and pipes of POSIX")
    command = [sys.executable, "-m", "zks_lwip", "worker", *arguments]
    async with trio.open_nursery() as nursery:
        child = await nursery.start(
            lambda task_status: trio.run_process(
                command,
                check=False,
                capture_stderr=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                task_status=task_status,
                **options,
            )
        )
        try:
            yield child
        finally:
            if child.returncode is None:
                child.kill()


async def listening(child: trio.Process) -> tuple[str, int]:
    assert child.stdout is not None
    line = b""
    with trio.fail_after(60):
        while not line.endswith(b"\n"):
            line += await child.stdout.receive_some(1)
    assert line.startswith(b"listening on 127.0.0.1:")
    return "127.0.0.1", int(line.rpartition(b":")[2])


async def fill(client: RawClient, stream: int) -> None:
    """Send DATA until the far end takes no more, and the worker grants no more."""
    sent = 1  # by the test itself
    quiet = 0
    while quiet < 5:
        room = client.hello.window + client.credit.get(stream, 0) - sent
        if room:
            quiet = 0
            await client.send(Data(stream, bytes(min(room, 65535))))
            sent += min(room, 65535)
        else:  # and not because it was not its turn to run
            quiet += 1
            await client.silent(0.1)
            await client.send(Ping())
            await client.expect(Pong)


async def ends(child: trio.Process, seconds: float) -> int:
    with trio.fail_after(seconds):
        return await child.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signals(number: signal.Signals) -> None:
    async with (
        process("--listen", "127.0.0.1:0", "--allow", "127.0.0.0/8") as child,
        tcp_server(echo) as port,
    ):
        address = await listening(child)
        async with raw_client(address) as client:
            await client.open(1, "127.0.0.1", port)
            child.send_signal(number)
            await client.expect(GoAway)
            await client.send(Data(1, b"going on"))
            assert await client.data(1, 8) == b"going on"
            await client.send(Close(1))
            assert (await client.closed())[0] == 1000
        assert await ends(child, 30) == 0


async def test_a_second_signal_ends_at_once() -> None:
    async with (
        process("--listen", "127.0.0.1:0", "--allow", "127.0.0.0/8") as child,
        tcp_server(echo) as port,
    ):
        async with raw_client(await listening(child)) as client:
            await client.open(1, "127.0.0.1", port)
            child.send_signal(signal.SIGTERM)
            await client.expect(GoAway)
            child.send_signal(signal.SIGTERM)
            await client.closed(8)  # otherwise it would be 10 seconds
        assert await ends(child, 8) == 0


async def test_killed_the_worker_resets_what_was_cut_and_ends_what_was_whole() -> None:
    """Far ends must not take half an upload for all of it."""
    ends_seen: dict[bytes, str] = {}
    read = trio.Event()

    async def far(stream: trio.SocketStream) -> None:
        name = bytes(await stream.receive_some(1))
        if name in (b"h", b"b"):
            await stream.send_eof()
        if name in (b"w", b"s"):
            await read.wait()
        total = 1
        try:
            async for piece in stream:
                total += len(piece)
            ends_seen[name] = f"FIN after {total}"
        except trio.BrokenResourceError:
            ends_seen[name] = "RST"

    async with (
        process("--listen", "127.0.0.1:0", "--allow", "127.0.0.0/8") as child,
        tcp_server(far) as port,
    ):
        async with raw_client(await listening(child)) as client:
            for id in range(1, 6):
                await client.open(id, "127.0.0.1", port)
            for id, name in enumerate((b"c", b"h", b"w", b"s", b"b"), 1):
                await client.send(Data(id, name))
            await client.expect(Eof)
            await client.expect(Eof)
            await client.send(Data(1, b"cut"), Data(2, b"cut, though the far end has closed"))
            await client.send(Data(3, bytes(99_999)), Eof(3))  # whole: the kernel has all of it
            await fill(client, 4)
            await client.send(Eof(4))  # whole, but the worker still holds some
            await client.send(Data(5, b"both"), Eof(5))
            await until(lambda: b"b" in ends_seen)
            child.kill()
            await child.wait()
            read.set()
            await until(lambda: len(ends_seen) == 5)
    assert ends_seen == {
        b"c": "RST",
        b"h": "RST",
        b"w": "FIN after 100000",
        b"s": "RST",
        b"b": "FIN after 5",
    }


async def test_sighup(tokens: Path) -> None:
    async with process("--listen", "127.0.0.1:0", "--token-file", str(tokens)) as child:
        async with raw_client(await listening(child), token=BOB) as bob:
            tokens.write_text(f"alice {ALICE}\n")
            child.send_signal(signal.SIGHUP)
            assert (await bob.closed())[0] == 1008
        child.send_signal(signal.SIGTERM)
        assert await ends(child, 30) == 0


async def test_ends_with_its_parent_and_takes_its_token_from_a_pipe() -> None:
    token_read, token_write = os.pipe()
    parent_read, parent_write = os.pipe()
    os.write(token_write, ALICE.encode() + b"\n")
    os.close(token_write)
    os.write(parent_write, b"0\n")  # no mark
    arguments = ("--token-file", f"/dev/fd/{token_read}", "--parent-fd", str(parent_read))
    async with process(
        "--listen", "127.0.0.1:0", *arguments, pass_fds=(token_read, parent_read)
    ) as child:
        os.close(token_read)
        os.close(parent_read)
        async with raw_client(await listening(child), token=ALICE):
            os.close(parent_write)
            assert await ends(child, 8) == 0


async def test_a_bug_costs_one_connection(caplog: pytest.LogCaptureFixture) -> None:
    failures = [ZeroDivisionError("a bug")]

    def clock() -> float:
        if failures:
            raise failures.pop()
        return trio.current_time()

    async with running_worker(clock=clock) as (_, address):
        stream = await trio.open_tcp_stream(*address)
        with trio.fail_after(60):
            await stream.send_all(
                b"GET /tunnel HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
                b"Sec-WebSocket-Protocol: zks-tunnel.v2\r\n\r\n"
            )
            assert await stream.receive_some() == b""
        await stream.aclose()
        assert not failures
        async with raw_client(address):  # the worker is still there
            pass
    assert "internal error in the service of a connection" in caplog.text
