"""What ``doctor`` downloads, and how fast it was."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from zks_lwip.doctor.download import Download, measure
from zks_lwip.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "secure", "host", "port", "target"),
    [
        ("https://files.example/large", True, "files.example", 443, "/large"),
        ("http://files.example:8080", False, "files.example", 8080, "/"),
        ("https://[2001:db8::7]/a?b=c", True, "2001:db8::7", 443, "/a?b=c"),
    ],
)
def test_a_url_is_read(url: str, secure: bool, host: str, port: int, target: str) -> None:
    assert Download.parse(url) == Download(url, secure, host, port, target)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://files.example/large",
        "files.example/large",
        "https://user@files.example/large",
        "https://files.example/a b",
        "https://files.example:port/large",
        "https://a..example/large",
    ],
)
def test_another_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"`download` .*give https://HOST/FILE") as caught:
        Download.parse(url)
    assert caught.value.option == "download"


class OneServer:
    """In the place of a tunnel: whatever is connected to says ``answer``, and hangs up."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.asked = b""
        self.where: list[tuple[str, int]] = []

    async def connect_tcp(self, host: str, port: int) -> trio.abc.Stream:
        self.where.append((host, port))
        near, far = trio.testing.memory_stream_pair()
        self._far = far
        await far.send_all(self.answer)
        await far.send_eof()
        return near

    async def request(self) -> bytes:
        return bytes(await self._far.receive_some())


async def measured(server: Any) -> tuple[int, float]:
    return await measure(server, Download.parse("http://files.example:8080/large?of=it"))


async def test_bytes_are_counted() -> None:
    server = OneServer(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + bytes(5000))
    count, seconds = await measured(server)
    assert count == 5000 and seconds >= 0
    assert server.where == [("files.example", 8080)]
    request = await server.request()
    assert request.startswith(b"GET /large?of=it HTTP/1.1\r\nHost: files.example:8080\r\n")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "404"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "empty"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "no HTTP"),
    ],
)
async def test_what_is_no_file_says_so(answer: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        await measured(OneServer(answer))
