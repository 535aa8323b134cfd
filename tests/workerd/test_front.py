"""Who may come in to the Cloudflare Worker, what is refused, and what ends a session."""

from __future__ import annotations

import http.client
import struct
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from tests.kits.plain_websocket import KEY, V2
from tests.kits.ports import refused_port
from tests.kits.worker import RawClient, echo, raw_client, resuming_client, tcp_server
from tests.kits.workerd import BOB, TOKEN, Workerd, running_workerd
from tests.workerd.test_units import REFUSED_SPELLINGS
from zks_lwip.protocol import (
    Connect,
    Connected,
    Data,
    DnsResponse,
    Echo,
    Eof,
    Error,
    Frame,
    Hello,
    Ping,
    Pong,
    Udp,
    Unknown,
    Window,
)

UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Protocol": V2,
}
AUTHORIZED = UPGRADE | {"Authorization": f"Bearer {TOKEN}"}


def get(
    cloud: Workerd, path: str, headers: dict[str, str] | None = None
) -> tuple[int, str, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection(*cloud.address, timeout=30)
    try:
        connection.request("GET", path, headers=headers or {})
        response = connection.getresponse()
        body = "" if response.status == 101 else response.read().decode()
        return response.status, body, response.headers
    finally:
        connection.close()


def test_paths(cloud: Workerd) -> None:
    assert get(cloud, "/health")[:2] == (200, "ok\n")
    assert get(cloud, "/")[0] == 404
    assert get(cloud, "/other", AUTHORIZED)[0] == 404
    assert get(cloud, "/tunnel", {"Authorization": f"Bearer {TOKEN}"})[0] == 426
    status, _, headers = get(cloud, "/tunnel?x", AUTHORIZED)
    assert status == 101 and headers["Sec-WebSocket-Protocol"] == V2
    status, body, _ = get(cloud, "/tunnel", AUTHORIZED | {"Sec-WebSocket-Protocol": "other"})
    assert status == 400 and V2 in body
    both = AUTHORIZED | {"Sec-WebSocket-Protocol": f"other, {V2}"}
    assert get(cloud, "/tunnel", both)[2]["Sec-WebSocket-Protocol"] == V2


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer alice"]
)
def test_wrong_tokens(cloud: Workerd, authorization: str | None) -> None:
    headers = UPGRADE if authorization is None else UPGRADE | {"Authorization": authorization}
    status, _, answer = get(cloud, "/tunnel", headers)
    assert status == 401 and answer["WWW-Authenticate"] == "Bearer"
    assert get(cloud, "/tunnel", UPGRADE | {"Authorization": f"Bearer {BOB}"})[0] == 101


def test_headers_of_the_front_are_not_the_clients_to_give(cloud: Workerd) -> None:
    forged = {"Tunnel-Digest": "0" * 64, "Tunnel-Name": "root", "Tunnel-Resume": "1"}
    assert get(cloud, "/tunnel", UPGRADE | forged)[0] == 401
    assert get(cloud, "/tunnel", AUTHORIZED | forged)[0] == 101


def test_web_pages(tmp_path: Path) -> None:
    with running_workerd(tmp_path, ORIGINS="https://good.example https://too.example") as cloud:
        assert get(cloud, "/tunnel", AUTHORIZED | {"Origin": "https://evil.example"})[0] == 403
        assert get(cloud, "/tunnel", AUTHORIZED | {"Origin": "null"})[0] == 403
        assert get(cloud, "/tunnel", AUTHORIZED | {"Origin": "https://too.example"})[0] == 101
        assert get(cloud, "/tunnel", UPGRADE | {"Origin": "https://too.example"})[0] == 401


@pytest.mark.parametrize(
    ("variables", "told"),
    [({"TOKEN": ""}, "wrangler secret put TOKEN"), ({"STREAMS": "0"}, 'STREAMS is "0"')],
)
def test_what_is_not_configured_serves_no_client(
    tmp_path: Path, variables: dict[str, str], told: str
) -> None:
    with running_workerd(tmp_path, **variables) as cloud:
        status, body, _ = get(cloud, "/tunnel", AUTHORIZED)
        assert status == 503 and "log" in body
        assert told in cloud.log.read_text()


# --- what may be reached ----------------------------------------------------------------------


async def test_refused_addresses_in_every_spelling(tmp_path: Path) -> None:
    with running_workerd(tmp_path, ALLOW="") as cloud:
        async with raw_client(cloud.address, token=TOKEN) as client:
            stream = 0
            for begin in range(0, len(REFUSED_SPELLINGS), 50):
                hosts = REFUSED_SPELLINGS[begin : begin + 50]
                connects = [Connect(stream + n + 1, host, 80) for n, host in enumerate(hosts)]
                await client.send(*connects)
                for connect in connects:
                    error = await client.expect(Error)
                    assert (error.stream, error.code) == (connect.stream, 403), connect
                    assert "refused by policy" in error.message
                stream += len(hosts)


@pytest.mark.parametrize(
    ("host", "port", "code", "told"),
    [
        ("8.8.8.8", 25, 403, "port 25"),
        ("104.16.1.1", 443, 403, "Cloudflare's own network"),
        ("127.0.0.1.", 80, 502, "neither an IPv4 address nor a name"),
        ("fe80::1%eth0", 80, 502, "zone"),
        ("[::1]", 80, 502, "IPv6"),
        ("a b", 80, 502, "no name has"),
        ("user@host", 80, 502, "no name has"),
        ("１２７.0.0.2@x", 80, 502, "no name has"),
        ("worker.example", 80, 403, "own name"),
        ("WORKER.example.", 80, 403, "own name"),
    ],
)
async def test_hosts_that_fail(cloud: Workerd, host: str, port: int, code: int, told: str) -> None:
    async with named_client(cloud) as client:
        await client.send(Connect(1, host, port))
        error = await client.expect(Error)
        assert (error.code, error.stream) == (code, 1)
        assert told in error.message


def named_client(cloud: Workerd) -> AbstractAsyncContextManager[RawClient]:
    """A client of the worker by its name."""
    return raw_client(cloud.address, token=TOKEN, host="worker.example")


async def test_odd_spellings_of_what_is_allowed(cloud: Workerd) -> None:
    async with tcp_server(echo) as port, raw_client(cloud.address, token=TOKEN) as client:
        hosts = ["127.1", "0x7f000001", "2130706433", "::ffff:127.0.0.1", "１２７.0.0.1"]
        for stream, host in enumerate(hosts, 1):
            await client.open(stream, host, port)


async def test_ipv6(cloud: Workerd, tmp_path: Path) -> None:
    async with tcp_server(echo, "::1") as port:
        async with raw_client(cloud.address, token=TOKEN) as client:
            await client.open(1, "::1", port)
            await client.send(Data(1, b"six"))
            assert await client.data(1, 3) == b"six"
        with running_workerd(tmp_path, IPV6="0") as without:
            async with raw_client(without.address, token=TOKEN) as client:
                assert not client.hello.ipv6
                await client.send(Connect(1, "::1", port))
                assert "no IPv6" in (await client.expect(Error)).message


# --- what breaks the protocol -----------------------------------------------------------------

BREACHES: list[tuple[str, list[Frame | bytes]]] = [
    ("empty message", [b""]),
    ("command 0x00", [b"\0"]),
    ("DATA: it runs past", [b"\x02\0\0\0\1\0\0\0\5abc"]),
    ("DATA: stream 1 is idle", [Data(1, b"x")]),
    ("EOF: stream 0 is idle", [Eof(0)]),
    ("WINDOW: stream 9 is idle", [Window(9, 1)]),
    ("CONNECT: stream 0", [Connect(0, "127.0.0.1", 0)]),
    ("CONNECT: stream 5 is not above 5", [Connect(5, "127.0.0.1", 0), Connect(5, "h", 0)]),
    ("DATA: it came after EOF", [Connect(1, "10.1", 9), Eof(1), Data(1, b"x")]),
    ("EOF: a second one", [Connect(1, "10.1", 9), Eof(1), Eof(1)]),
    ("its credit is 65536", [Connect(1, "10.1", 9), Data(1, bytes(65537))]),
    ("max_data is 262144", [Connect(1, "10.1", 9), Data(1, bytes(262145))]),
    ("bytes of credit, over", [Connect(1, "10.1", 9), Window(1, 2**31 - 1)]),
    ("HELLO: a client does not send it now", [Hello()]),
    ("CONNECTED: a client does not", [Connected(1)]),
    ("ERROR: a client does not", [Error(1, 1)]),
    ("DNS_RESPONSE: a client does not", [DnsResponse(1, b"x")]),
    ("DNS_QUERY: request 0", [b"\x08" + bytes(8)]),
]


@pytest.mark.parametrize(("told", "frames"), BREACHES, ids=[told for told, _ in BREACHES])
async def test_breaches(cloud: Workerd, told: str, frames: list[Frame | bytes]) -> None:
    async with resuming_client(cloud.address, token=TOKEN) as client:
        # In one message, so that no connect has failed before the rest comes
        await client.send(*frames)
        status, reason = await client.closed()
        assert status == 1002 and told in reason
    async with raw_client(cloud.address, token=TOKEN, hello=client.resumption()) as again:
        assert again.hello.session != client.hello.session


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("not the first message", Ping().encode()),
        ("not the first message", Hello().encode() + Ping().encode()),
        ("version is not 2", b"\x40\0\0\0\0\0\0\0\x02{}"),
        ("its body is not JSON", b"\x40\0\0\0\0\0\0\0\x02{]"),
    ],
)
async def test_bad_greetings(cloud: Workerd, told: str, message: bytes) -> None:
    async with raw_client(cloud.address, token=TOKEN, greet=False) as client:
        await client.send(message)
        status, reason = await client.closed()
        assert status == 1002 and told in reason


async def test_text_and_what_is_too_long(cloud: Workerd) -> None:
    async with raw_client(cloud.address, token=TOKEN) as client:
        await client.websocket.send_message("text")
        assert (await client.closed())[0] == 1002
    async with raw_client(cloud.address, token=TOKEN) as client:
        fill = Unknown(0x50, 1, bytes((1 << 20) - 9)).encode()
        await client.send(fill)
        await client.send(Ping())
        await client.expect(Pong)
        await client.send(fill + Ping().encode())
        assert (await client.closed())[0] == 1009


@pytest.mark.slow
async def test_no_greeting_in_time(cloud: Workerd) -> None:
    async with raw_client(cloud.address, token=TOKEN, greet=False) as client:
        status, reason = await client.closed()
        assert status == 1002 and "no HELLO within 10 s" in reason


async def test_what_is_skipped(cloud: Workerd) -> None:
    async with raw_client(cloud.address, token=TOKEN) as client:
        with refused_port() as refused:
            await client.send(
                Unknown(0x49, 1, b"x"), Unknown(0x60, 1, b"x"), Unknown(0x7F, 1, b""),
                Udp(1, "127.0.0.1", 9, b"x"), Echo(1, "127.0.0.1", b"x"),
                Connect(1, "127.0.0.1", refused),
            )  # fmt: skip
            assert (await client.expect(Error)).stream == 1
        # frames of a stream that is gone owe nothing
        await client.send(Data(1, bytes(100_000)), Eof(1), Eof(1), Window(1, 2**32 - 1), Ping())
        await client.expect(Pong)
        await client.send(struct.pack("!BII", 0x50, 7, 0), Ping())
        await client.expect(Pong)
