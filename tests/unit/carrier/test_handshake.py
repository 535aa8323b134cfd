"""The opening handshake of RFC 6455 §4: what a worker lets in, and what a client takes for one."""

from __future__ import annotations

import base64
import hashlib
import re
from contextlib import suppress

import pytest
import trio

from tests.kits.worker import running_worker
from zks_lwip.errors import WorkerNotFound
from zks_lwip.tunnel.dial import connect_worker

from ...kits.tunnel import listening, quick

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
GOOD = {
    "": "GET /tunnel HTTP/1.1",
    "Host": "worker",
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Protocol": "zks-tunnel.v2",
}
Lines = dict[str, "str | list[str] | None"]


def head(changes: Lines) -> bytes:
    """A request; a list is a header several times, None one that is missing."""
    lines = []
    for name, value in (GOOD | changes).items():
        for each in [value] if isinstance(value, str) else value or []:
            lines.append(f"{name}: {each}" if name else each)
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


@pytest.fixture(scope="module")
def answers() -> dict[str, tuple[int, dict[str, str]]]:
    """What a worker answered to each row of the table, asked once for all of them."""
    found = {}

    async def ask(address: tuple[str, int], request: bytes) -> tuple[int, dict[str, str]]:
        async with await trio.open_tcp_stream(*address) as stream:
            await stream.send_all(request)
            response = b""
            with trio.fail_after(30):
                while b"\r\n\r\n" not in response:
                    more = await stream.receive_some()
                    if not more:
                        return 0, {}
                    response += more
        status, *lines = response.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
        return int(status.split()[1]), {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }

    async def main() -> None:
        async with running_worker() as (_, address):
            for name, (changes, behind, _) in REQUESTS.items():
                found[name] = await ask(address, head(changes) + behind)

    trio.run(main)
    return found


REQUESTS: dict[str, tuple[Lines, bytes, int]] = {
    # what is all right, in whatever form
    "an upgrade": ({}, b"", 101),
    "v1": ({"Sec-WebSocket-Protocol": None}, b"", 101),
    "words in any case": ({"Connection": "UPGRADE", "Upgrade": "WebSocket"}, b"", 101),
    "lists": ({"Connection": "keep-alive, Upgrade", "Upgrade": "h2c, websocket"}, b"", 101),
    "lists in several headers": (
        {"Connection": ["Upgrade", "keep-alive"], "Upgrade": ["websocket", "h2c"]},
        b"",
        101,
    ),
    "several subprotocols": ({"Sec-WebSocket-Protocol": ["chat", "zks-tunnel.v2"]}, b"", 101),
    "an extension, which is not taken": (
        {"Sec-WebSocket-Extensions": "permessage-deflate"},
        b"",
        101,
    ),
    "a host with a port": ({"Host": "[::1]:8787"}, b"", 101),
    "a host that is no name for IDNA": ({"Host": "a..b"}, b"", 101),
    # what is no upgrade
    "HTTP/1.0": ({"": "GET /tunnel HTTP/1.0"}, b"", 400),
    "HTTP/2.0": ({"": "GET /tunnel HTTP/2.0"}, b"", 400),
    "HTTP/1.2": ({"": "GET /tunnel HTTP/1.2"}, b"", 400),
    "no version of HTTP": ({"": "GET /tunnel"}, b"", 400),
    "POST": ({"": "POST /tunnel HTTP/1.1"}, b"", 405),
    "HEAD": ({"": "HEAD /tunnel HTTP/1.1"}, b"", 405),
    "CONNECT": ({"": "CONNECT /tunnel HTTP/1.1"}, b"", 405),
    "a method in lower case": ({"": "get /tunnel HTTP/1.1"}, b"", 405),
    "no Host": ({"Host": None}, b"", 400),
    "an empty Host": ({"Host": ""}, b"", 400),
    "two Hosts": ({"Host": ["worker", "other"]}, b"", 400),
    "no Upgrade": ({"Upgrade": None}, b"", 426),
    "another Upgrade": ({"Upgrade": "h2c"}, b"", 426),
    "a longer word": ({"Upgrade": "websockets"}, b"", 426),
    "no Connection": ({"Connection": None}, b"", 426),
    "another Connection": ({"Connection": "keep-alive"}, b"", 426),
    "no version": ({"Sec-WebSocket-Version": None}, b"", 400),
    "version 8": ({"Sec-WebSocket-Version": "8"}, b"", 426),
    "version 13 and another": ({"Sec-WebSocket-Version": "13, 8"}, b"", 426),
    "version 8, then 13": ({"Sec-WebSocket-Version": ["8", "13"]}, b"", 426),
    "version 013": ({"Sec-WebSocket-Version": "013"}, b"", 426),
    "no key": ({"Sec-WebSocket-Key": None}, b"", 400),
    "an empty key": ({"Sec-WebSocket-Key": ""}, b"", 400),
    "a key of one byte": ({"Sec-WebSocket-Key": "QQ=="}, b"", 400),
    "a key of 15 bytes": ({"Sec-WebSocket-Key": "QUFBQUFBQUFBQUFBQUFB"}, b"", 400),
    "a key of 17 bytes": ({"Sec-WebSocket-Key": "QUFBQUFBQUFBQUFBQUFBQUE="}, b"", 400),
    "a key that is no base64": ({"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZ!=="}, b"", 400),
    "a key without padding": ({"Sec-WebSocket-Key": KEY[:-2]}, b"", 400),
    "a key with spaces": ({"Sec-WebSocket-Key": KEY[:8] + " " + KEY[8:]}, b"", 400),
    "two keys": ({"Sec-WebSocket-Key": [KEY, KEY]}, b"", 400),
    "Content-Length": ({"Content-Length": "5"}, b"", 400),
    "Content-Length and a body": ({"Content-Length": "5"}, b"hello", 400),
    "Content-Length 0": ({"Content-Length": "0"}, b"", 400),
    "two Content-Lengths": ({"Content-Length": ["0", "5"]}, b"", 400),
    "Transfer-Encoding": ({"Transfer-Encoding": "chunked"}, b"", 400),
    "Transfer-Encoding and chunks": ({"Transfer-Encoding": "chunked"}, b"0\r\n\r\n", 400),
    "a second request behind it": ({}, b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    "frames before the answer": ({}, b"\x82\x80\0\0\0\0", 400),
    "a subprotocol without a name": ({"Sec-WebSocket-Protocol": " , "}, b"", 400),
    "a subprotocol twice": (
        {"Sec-WebSocket-Protocol": "zks-tunnel.v2, zks-tunnel.v2"},
        b"",
        400,
    ),
    "a subprotocol that is no token": ({"Sec-WebSocket-Protocol": "zks-tunnel.v2, a b"}, b"", 400),
    "a folded header": ({"Connection": "Upgrade\r\n x"}, b"", 426),
    "a name with a space": ({"Sec-WebSocket-Key ": KEY}, b"", 400),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_worker_answers(name: str, answers: dict[str, tuple[int, dict[str, str]]]) -> None:
    status, headers = answers[name]
    assert status == REQUESTS[name][2]
    if status == 101:
        assert headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        assert headers["upgrade"] == "websocket" and headers["connection"] == "Upgrade"
        assert "sec-websocket-extensions" not in headers
        protocol = None if name == "v1" else "zks-tunnel.v2"
        assert headers.get("sec-websocket-protocol") == protocol
    if status == 405:
        assert headers["allow"] == "GET"
    if status == 426:
        assert headers["upgrade"] == "websocket"
        assert ("sec-websocket-version" in headers) == ("version" in name)
        assert headers.get("sec-websocket-version", "13") == "13"


# The client

SWITCHING = {
    "": "HTTP/1.1 101 Switching Protocols",
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Accept": "ACCEPT",
    "Sec-WebSocket-Protocol": "zks-tunnel.v2",
}

ANSWERS: dict[str, tuple[Lines, str | None]] = {
    "all right": ({}, None),
    "words in any case": ({"Connection": "upgrade", "Upgrade": "WebSocket"}, None),
    "a list": ({"Connection": "keep-alive, Upgrade"}, None),
    "lists in several headers": ({"Connection": ["Upgrade", "keep-alive"]}, None),
    "an empty list of extensions": ({"Sec-WebSocket-Extensions": ""}, None),
    "HTTP/1.0": ({"": "HTTP/1.0 101 Switching Protocols"}, "HTTP/1.1"),
    "HTTP/2.0": ({"": "HTTP/2.0 101 Switching Protocols"}, "HTTP/1.1"),
    "no Upgrade": ({"Upgrade": None}, "Upgrade does not say websocket"),
    "another Upgrade": ({"Upgrade": "h2c"}, "Upgrade does not say websocket"),
    "two Upgrades": ({"Upgrade": ["h2c", "websocket"]}, "Upgrade does not say websocket"),
    "no Connection": ({"Connection": None}, "Connection does not say Upgrade"),
    "another Connection": ({"Connection": "close"}, "Connection does not say Upgrade"),
    "no accept": ({"Sec-WebSocket-Accept": None}, "accept token"),
    "a wrong accept": ({"Sec-WebSocket-Accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="}, "accept token"),
    "a wrong accept, then the right one": (
        {"Sec-WebSocket-Accept": ["s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "ACCEPT"]},
        "accept token",
    ),
    "the accept of another case": ({"Sec-WebSocket-Accept": "accept"}, "accept token"),
    "an extension": ({"Sec-WebSocket-Extensions": "permessage-deflate"}, "extension"),
    "an extension in the first of two headers": (
        {"Sec-WebSocket-Extensions": ["permessage-deflate", ""]},
        "extension",
    ),
    "a subprotocol that was not offered": ({"Sec-WebSocket-Protocol": "chat"}, "subprotocol"),
    "two subprotocols": (
        {"Sec-WebSocket-Protocol": ["chat", "zks-tunnel.v2"]},
        "several subprotocols",
    ),
    "a list of subprotocols": ({"Sec-WebSocket-Protocol": "zks-tunnel.v2, chat"}, "subprotocol"),
    "no subprotocol": ({"Sec-WebSocket-Protocol": None}, "not zks-tunnel.v2"),
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_a_client_takes(name: str) -> None:
    changes, wrong = ANSWERS[name]

    async def serve(stream: trio.SocketStream) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            request += await stream.receive_some()
        found = re.search(rb"(?i)sec-websocket-key: (\S+)", request)
        assert found is not None
        token = found[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(token).digest()).decode()
        lines = []
        for header, value in (SWITCHING | changes).items():
            for each in [value] if isinstance(value, str) else value or []:
                each = each.replace("ACCEPT", accept).replace("accept", accept.swapcase())
                lines.append(f"{header}: {each}" if header else each)
        await stream.send_all("\r\n".join([*lines, "", ""]).encode())
        with suppress(trio.BrokenResourceError):  # the client has aborted
            async for _ in stream:
                pass

    async with listening(serve) as url, trio.open_nursery() as nursery:
        if wrong is None:
            with trio.fail_after(30):
                connection = await connect_worker(quick(url), nursery)
            assert connection.subprotocol == "zks-tunnel.v2"
            await connection.abort()
        else:
            with pytest.raises(WorkerNotFound, match=wrong), trio.fail_after(30):
                await connect_worker(quick(url), nursery)
        nursery.cancel_scope.cancel()
