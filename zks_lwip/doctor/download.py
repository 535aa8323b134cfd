"""Download through a tunnel, for some seconds, to see how fast it is."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

import h11
import trio

from .._version import __version__
from ..errors import ConfigError
from ..net.names import InvalidName, host_name, join_host_port
from ..net.tls import client_context
from ..tunnel import Tunnel

__all__ = ["Download", "measure"]

_SECONDS = 5.0
"""For which it is downloaded at most."""
_FIRST = 15.0
"""Seconds within which the answer must have begun."""
_CHUNK = 65536


@dataclass(frozen=True, slots=True)
class Download:
    """A file at an HTTP server."""

    url: str
    secure: bool
    host: str
    port: int
    target: str

    @classmethod
    def parse(cls, url: str) -> Download:
        """Read ``https://HOST[:PORT]/PATH``, or ``http://``.

        :raises ConfigError: it is none.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
            host = parts.hostname or ""
            if ":" not in host:
                host = host_name(host)
        except (ValueError, InvalidName) as error:
            raise ConfigError(f"{url}: {error}; give https://HOST/FILE", "download") from None
        plain = all("!" <= char <= "~" for char in url)
        if parts.scheme not in ("http", "https") or parts.username or not plain:
            raise ConfigError(f"{url}: give https://HOST/FILE, or http://", "download")
        secure = parts.scheme == "https"
        target = parts.path or "/"
        if parts.query:
            target += f"?{parts.query}"
        return cls(url, secure, host, port or (443 if secure else 80), target)


async def measure(tunnel: Tunnel, source: Download) -> tuple[int, float]:
    """Download, for some seconds at most.

    :returns: bytes, and the seconds from the first of them to the last.
    :raises OSError: the worker cannot connect to it.
    :raises ValueError: what answers has no such file.
    :raises trio.BrokenResourceError: the connection was reset, or TLS does not verify.
    """
    try:
        with trio.fail_after(_FIRST):
            stream: trio.abc.Stream = await tunnel.connect_tcp(source.host, source.port)
    except trio.TooSlowError:
        raise ValueError(f"not connected within {_FIRST:g} s") from None
    try:
        if source.secure:
            stream = trio.SSLStream(
                stream,
                client_context("http/1.1"),
                server_hostname=source.host,
                https_compatible=True,
            )
        return await _fetch(stream, source)
    except trio.TooSlowError:
        raise ValueError(f"no answer within {_FIRST:g} s") from None
    except h11.RemoteProtocolError as error:
        raise ValueError(f"what answers is no HTTP: {error}") from None
    finally:
        await trio.aclose_forcefully(stream)


async def _fetch(stream: trio.abc.Stream, source: Download) -> tuple[int, float]:
    client = h11.Connection(h11.CLIENT)
    default = 443 if source.secure else 80
    request = h11.Request(
        method="GET",
        target=source.target,
        headers=[
            ("Host", join_host_port(source.host, None if source.port == default else source.port)),
            ("User-Agent", f"zks-lwip/{__version__}"),
            ("Connection", "close"),
        ],
    )
    with trio.fail_after(_FIRST):
        head = (client.send(request) or b"") + (client.send(h11.EndOfMessage()) or b"")
        await stream.send_all(head)
        while (event := client.next_event()) is h11.NEED_DATA or isinstance(
            event, h11.InformationalResponse
        ):
            if event is h11.NEED_DATA:
                client.receive_data(bytes(await stream.receive_some(_CHUNK)))
    if not isinstance(event, h11.Response) or event.status_code != 200:
        status = getattr(event, "status_code", "nothing")
        raise ValueError(f"the server answers {status}, not 200 with a file")
    count, began, last = 0, trio.current_time(), trio.current_time()
    with trio.move_on_after(_SECONDS):
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                client.receive_data(bytes(await stream.receive_some(_CHUNK)))
            elif isinstance(event, h11.Data):
                count, last = count + len(event.data), trio.current_time()
            else:
                break
    if not count:
        raise ValueError("the file is empty")
    return count, last - began
