"""An HTTP proxy between client and worker: ``HTTPS_PROXY``, and CONNECT (RFC 9110 §9.3.6).

The proxy is asked for the worker by name, so that no name is looked up here; TLS is then spoken
with the worker, through the proxy. A proxy that itself wants TLS is not supported.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

import trio

from ..errors import AuthError, ConfigError, TunnelError, WorkerUnreachable
from ..net.names import InvalidName, host_name, join_host_port
from .endpoint import WorkerUrl

__all__ = ["Proxy", "ask_proxy", "parse_proxy", "parse_proxy_option", "proxy_for"]

_MAX_HEAD = 16384
"""Bytes of the head of an answer."""
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})(?: ([^\r\n]*))?\r?\n")


@dataclass(frozen=True, slots=True)
class Proxy:
    """A checked proxy URL; made by :func:`parse_proxy`."""

    host: str
    """A name, in lower case and ASCII, or an address without brackets."""
    port: int
    """1 to 65535."""
    credentials: str | None = field(default=None, repr=False)
    """``user:password``, as it is sent."""

    @property
    def address(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The host as an address, or None if it is a name."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None

    def __str__(self) -> str:
        return f"http://{join_host_port(self.host, self.port)}"


def parse_proxy(text: str) -> Proxy:
    """Read what ``HTTPS_PROXY`` says: ``[http://][USER:PASSWORD@]HOST[:PORT]``, port 80 if none.

    :raises ConfigError: it cannot be used; the message does not repeat a password.
    """
    url = text.strip() if "://" in text else f"http://{text.strip()}"
    try:
        parts = urlsplit(url)
        port = parts.port
        host = _checked_host(parts.hostname or "")
    except ValueError as error:
        raise ConfigError(
            f"HTTPS_PROXY is no URL ({error}): write http://HOST:PORT, or unset it."
        ) from None
    if parts.scheme != "http":
        raise ConfigError(
            f"HTTPS_PROXY: a proxy of the kind {parts.scheme}:// is not supported: give one that "
            "is spoken to by http://, or unset it."
        )
    if not host or port == 0:
        raise ConfigError("HTTPS_PROXY names no host and port: write http://HOST:PORT.")
    credentials = None
    if parts.username is not None:
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return Proxy(host, port or 80, credentials)


def parse_proxy_option(text: str) -> Proxy:
    """Read ``[http://][USER:PASSWORD@]HOST[:PORT]``, as the option ``proxy``.

    :raises ConfigError: it cannot be used; the message does not repeat a password.
    """
    try:
        return parse_proxy(text)
    except ConfigError as error:
        said = str(error).removeprefix("HTTPS_PROXY").removeprefix(":").strip()
        raise ConfigError(said.replace("unset it", "leave it out"), "proxy") from None


def _checked_host(host: str) -> str:
    """Return the address, or the name in ASCII, that ``host`` is; empty if it is neither."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass  # a name, then
    try:
        return host_name(host)
    except InvalidName:
        return ""


def proxy_for(worker: WorkerUrl, environment: Mapping[str, str]) -> Proxy | None:
    """Return the proxy that the environment names for a worker.

    :param environment: ``HTTPS_PROXY`` is for ``wss://`` only; ``NO_PROXY`` lists hosts, domains
        and networks that are reached without, ``*`` is all. Either may be in lower case.
    :returns: None if the worker is reached without.
    :raises ConfigError: see :func:`parse_proxy`.
    """
    text = environment.get("https_proxy") or environment.get("HTTPS_PROXY") or ""
    if not text.strip() or not worker.secure or worker.loopback:
        return None
    exceptions = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    if any(_is_excepted(worker, item.strip().lower()) for item in exceptions.split(",")):
        return None
    return parse_proxy(text)


def _is_excepted(worker: WorkerUrl, item: str) -> bool:
    if item == "*":
        return True
    if worker.address is not None:
        try:
            return worker.address in ipaddress.ip_network(item.strip("[]"), strict=False)
        except ValueError:
            return False
    domain = item.lstrip("*.")
    return bool(domain) and (worker.host == domain or worker.host.endswith(f".{domain}"))


async def ask_proxy(stream: trio.abc.Stream, proxy: Proxy, host: str, port: int) -> None:
    """Have the proxy at the other end of ``stream`` connect to ``host`` and ``port``.

    What is sent and received afterwards goes to and from there.

    :raises WorkerUnreachable: the proxy could not connect, or hung up.
    :raises AuthError: it wants credentials, or others.
    :raises TunnelError: it refuses, or is no proxy.
    """
    where = join_host_port(host, port)
    head = [f"CONNECT {where} HTTP/1.1", f"Host: {where}"]
    if proxy.credentials is not None:
        encoded = base64.b64encode(proxy.credentials.encode()).decode()
        head.append(f"Proxy-Authorization: Basic {encoded}")
    await stream.send_all("".join(f"{line}\r\n" for line in [*head, ""]).encode())
    answer = await _read_head(stream, proxy)
    match = _STATUS.match(answer)
    if match is None:
        raise TunnelError(f"{proxy} does not answer as an HTTP proxy: check HTTPS_PROXY.")
    status = int(match[1])
    if 200 <= status < 300:
        return
    reason = (match[2] or b"").decode("ascii", "replace")[:100]
    said = f"the proxy {proxy} answered {status} {reason}".rstrip()
    if status == 407:
        raise AuthError(
            f"{said}: put a user and a password that it knows into HTTPS_PROXY "
            "(http://USER:PASSWORD@HOST:PORT)."
        )
    if status in (403, 405):
        raise TunnelError(
            f"{said}: it does not let us connect to {where}. Have its operator allow "
            "that, name another in HTTPS_PROXY, or put the worker's host into NO_PROXY."
        )
    raise WorkerUnreachable(
        f"{said}: it could not connect to {where}. Check that the worker runs there, and that "
        "HTTPS_PROXY names an HTTP proxy."
    )


async def _read_head(stream: trio.abc.Stream, proxy: Proxy) -> bytes:
    """Read the head of the answer, and not a byte more: what follows is the worker's."""
    head = bytearray()
    while not head.endswith(b"\r\n\r\n"):
        # Byte by byte: neither TLS nor WebSocket servers speak first, but nothing is to be lost.
        data = await stream.receive_some(1)
        if not data:
            raise WorkerUnreachable(f"the proxy {proxy} hung up: check HTTPS_PROXY.")
        head += data
        if len(head) > _MAX_HEAD:
            raise TunnelError(f"{proxy} does not answer as an HTTP proxy: check HTTPS_PROXY.")
    return bytes(head)
