"""What a client wants, in either language: SOCKS5, or HTTP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import h11

from .answers import ProxyAnswer, proxy_status
from .client import ProxyClient
from .http import (
    MAX_HEAD,
    BadRequest,
    HttpTarget,
    credentials_in,
    encode_answer,
    read_target,
)
from .passwords import PasswordFile
from .socks5 import (
    VERSION,
    Command,
    Credentials,
    Method,
    MethodsOffered,
    Reply,
    Request,
    Socks5,
    Socks5Error,
    encode_reply,
)

__all__ = ["Associate", "ConnectRequest", "HandshakeFailed", "Page", "WrongPassword", "handshake"]

_SOCKS4, _TLS = 4, 0x16
_SOCKS4_REJECTED = b"\0\x5b" + bytes(6)
_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
_CHALLENGE = (b"Proxy-Authenticate", b'Basic realm="zks-lwip", charset="UTF-8"')


class HandshakeFailed(Exception):
    """The client gets no service; the text is for the log.

    :param answer: what it is told; may be empty.
    """

    def __init__(self, message: str, answer: bytes = b"") -> None:
        super().__init__(message)
        self.answer = answer


class WrongPassword(HandshakeFailed):
    """A name and a password that do not belong together."""


@dataclass(frozen=True, slots=True)
class ConnectRequest:
    """A TCP connection, as it is."""

    host: str
    port: int
    early: bytes
    """What the client has sent behind its request."""
    granted: bytes
    """What it is told when the far end is connected."""
    refused: Callable[[ProxyAnswer, str], bytes]
    """Returns what it is told when not; the text is a sentence about that."""


@dataclass(frozen=True, slots=True)
class Associate:
    """A UDP association."""

    host: str
    """Where the client says that it will send from; all zeros where it does not know."""
    port: int


@dataclass(frozen=True, slots=True)
class Page:
    """A request for an ``http://`` URL, whose body is still to be read."""

    target: HttpTarget
    request: h11.Request
    connection: h11.Connection

    def refused(self, answer: ProxyAnswer, text: str) -> bytes:
        """Return what the client is told when the origin cannot be had."""
        return _http_refusal(answer, text, with_body=self.request.method != b"HEAD")


Wanted = ConnectRequest | Associate | Page


async def handshake(client: ProxyClient, passwords: PasswordFile | None) -> Wanted | None:
    """Read what a client wants, and who it is.

    :returns: None if it has closed before it said so.
    :raises HandshakeFailed: it is to be refused.
    :raises WrongPassword: for its password.
    :raises trio.BrokenResourceError: it has reset the connection.
    """
    first = await client.receive()
    if not first:
        return None
    if first[0] == VERSION:
        return await _socks(client, passwords, first)
    if first[0] == _SOCKS4:
        raise HandshakeFailed("it speaks SOCKS4: have it use SOCKS5", _SOCKS4_REJECTED)
    if chr(first[0]).isascii() and chr(first[0]).isalpha():
        return await _http(client, passwords, first)
    if first[0] == _TLS:
        raise HandshakeFailed("it speaks TLS: have it use socks5h:// or http://, not https://")
    raise HandshakeFailed("it speaks neither SOCKS5 nor HTTP")


# SOCKS5


async def _socks(
    client: ProxyClient, passwords: PasswordFile | None, first: bytes
) -> Wanted | None:
    socks = Socks5()
    socks.receive(first)
    try:
        while True:
            match socks.next_event():
                case None:
                    data = await client.receive()
                    if not data:
                        return None
                    socks.receive(data)
                case MethodsOffered(methods):
                    await client.stream.send_all(_choose(socks, methods, passwords))
                case Credentials(name, password):
                    found = None if passwords is None else passwords.check(name, password)
                    if passwords is not None and found is None:
                        raise WrongPassword("wrong name or password", socks.verdict(False))
                    client.name = found or ""
                    await client.stream.send_all(socks.verdict(True))
                case Request() as request:
                    return _socks_wanted(request, socks.rest)
    except Socks5Error as error:
        raise HandshakeFailed(str(error), error.answer) from None


def _choose(socks: Socks5, methods: bytes, passwords: PasswordFile | None) -> bytes:
    if passwords is None and Method.NONE in methods:
        return socks.choose(Method.NONE)
    if Method.PASSWORD in methods:  # without passwords every one will do
        return socks.choose(Method.PASSWORD)
    raise HandshakeFailed(
        "it offers no name and password" if passwords else "it offers no method of ours",
        socks.choose(Method.NOT_ACCEPTABLE),
    )


def _socks_wanted(request: Request, rest: bytes) -> Wanted:
    if request.command == Command.CONNECT:
        granted = encode_reply(Reply.SUCCEEDED)
        return ConnectRequest(request.host, request.port, rest, granted, _socks_refusal)
    if request.command == Command.UDP_ASSOCIATE:
        return Associate(request.host, request.port)
    raise HandshakeFailed(
        f"it asks for command {request.command}", encode_reply(Reply.COMMAND_NOT_SUPPORTED)
    )


def _socks_refusal(answer: ProxyAnswer, text: str) -> bytes:
    return encode_reply(answer.reply)


# HTTP


async def _http(client: ProxyClient, passwords: PasswordFile | None, first: bytes) -> Wanted | None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
    connection.receive_data(first)
    try:
        while (event := connection.next_event()) is h11.NEED_DATA:
            data = await client.receive()
            if not data:
                return None
            connection.receive_data(data)
    except h11.RemoteProtocolError as error:
        answer = encode_answer(error.error_status_hint, "This is no HTTP request.")
        raise HandshakeFailed(f"not HTTP: {error}", answer) from None
    assert isinstance(event, h11.Request)
    try:
        _authenticate(client, event, passwords)
        target = read_target(event)
    except BadRequest as error:
        body = event.method != b"HEAD"
        answer = encode_answer(error.status, str(error), with_body=body)
        raise HandshakeFailed(str(error), answer) from None
    if target.path is not None:
        return Page(target, event, connection)
    early = bytes(connection.trailing_data[0])
    return ConnectRequest(target.host, target.port, early, _ESTABLISHED, _http_refusal)


def _authenticate(
    client: ProxyClient, request: h11.Request, passwords: PasswordFile | None
) -> None:
    if passwords is None:
        return
    offered = credentials_in(request.headers)
    found = None if offered is None else passwords.check(*offered)
    if found is not None:
        client.name = found
        return
    text = "This proxy wants a name and a password, which its operator gives."
    body = request.method != b"HEAD"
    answer = encode_answer(407, text, (_CHALLENGE,), with_body=body)
    if offered is None:
        raise HandshakeFailed("it offers no name and password", answer)
    raise WrongPassword("wrong name or password", answer)


def _http_refusal(answer: ProxyAnswer, text: str, *, with_body: bool = True) -> bytes:
    return encode_answer(answer.status, text, (proxy_status(answer),), with_body=with_body)
