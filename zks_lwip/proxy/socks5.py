"""The server's side of SOCKS5 (RFC 1928, RFC 1929): bytes in, events out. No input or output.

::

    socks = Socks5()
    socks.receive(data)
    event = socks.next_event()            # None: more bytes are needed
    reply = socks.choose(Method.NONE)     # answers MethodsOffered; a Credentials by ``verdict``

What a client sends in advance stays in order, and what follows its request is :attr:`Socks5.rest`.
"""

from __future__ import annotations

import enum
import ipaddress
import socket
import struct
from dataclasses import dataclass, field
from functools import lru_cache

__all__ = [
    "Command",
    "Credentials",
    "Method",
    "MethodsOffered",
    "Reply",
    "Request",
    "Socks5",
    "Socks5Error",
    "SocksDatagram",
    "decode_datagram",
    "encode_header",
    "encode_reply",
]

VERSION = 5
_AUTH_VERSION = 1
"""Of the sub-negotiation of RFC 1929."""
_IPV4, _NAME, _IPV6 = 1, 3, 4
_PORT = struct.Struct("!H")


class Method(enum.IntEnum):
    """How a client may show who it is."""

    NONE = 0
    PASSWORD = 2
    """A name and a password (RFC 1929)."""
    NOT_ACCEPTABLE = 0xFF


class Command(enum.IntEnum):
    """What a client may ask for."""

    CONNECT = 1
    BIND = 2
    UDP_ASSOCIATE = 3


class Reply(enum.IntEnum):
    """What becomes of a request (RFC 1928 §6)."""

    SUCCEEDED = 0
    FAILURE = 1
    NOT_ALLOWED = 2
    NETWORK_UNREACHABLE = 3
    HOST_UNREACHABLE = 4
    REFUSED = 5
    TTL_EXPIRED = 6
    """Also for a far end that did not answer in time, which RFC 1928 has no word for."""
    COMMAND_NOT_SUPPORTED = 7
    ADDRESS_NOT_SUPPORTED = 8


class Socks5Error(Exception):
    """The client breaks the protocol.

    :param answer: what to send before the connection is closed; may be empty.
    """

    def __init__(self, message: str, answer: bytes = b"") -> None:
        super().__init__(message)
        self.answer = answer


@dataclass(frozen=True, slots=True)
class MethodsOffered:
    """The greeting: to be answered by :meth:`Socks5.choose`."""

    methods: bytes


@dataclass(frozen=True, slots=True)
class Credentials:
    """A name and a password: to be answered by :meth:`Socks5.verdict`."""

    name: bytes
    password: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Request:
    """What the client wants; :func:`encode_reply` is the answer."""

    command: int
    """A :class:`Command`, or another number."""
    host: str
    """An address in text, or a name."""
    port: int


@dataclass(frozen=True, slots=True)
class SocksDatagram:
    """What a client sends over UDP (RFC 1928 §7)."""

    fragment: int
    """0: it is whole."""
    host: str
    """An address in text, or a name."""
    port: int
    payload: memoryview


class _State(enum.Enum):
    GREETING = enum.auto()
    CHOOSING = enum.auto()
    CREDENTIALS = enum.auto()
    JUDGING = enum.auto()
    REQUEST = enum.auto()
    DONE = enum.auto()


class Socks5:
    """One connection of a client, until its request is there.

    It holds at most what :meth:`receive` was given and no event has taken.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._state = _State.GREETING

    def receive(self, data: bytes) -> None:
        """Take bytes of the client."""
        self._buffer += data

    @property
    def rest(self) -> bytes:
        """What has come and is in no event: behind the request, for the far end."""
        return bytes(self._buffer)

    def next_event(self) -> MethodsOffered | Credentials | Request | None:
        """Return what has come whole; None: more bytes, or an answer of ours, are needed.

        :raises Socks5Error: what has come can be nothing of SOCKS5.
        """
        match self._state:
            case _State.GREETING:
                return self._greeting()
            case _State.CREDENTIALS:
                return self._credentials()
            case _State.REQUEST:
                return self._request()
        return None

    def choose(self, method: Method) -> bytes:
        """Answer the greeting; return what to send. After NOT_ACCEPTABLE the connection is over."""
        assert self._state is _State.CHOOSING
        following = {Method.NONE: _State.REQUEST, Method.PASSWORD: _State.CREDENTIALS}
        self._state = following.get(method, _State.DONE)
        return bytes((VERSION, method))

    def verdict(self, accepted: bool) -> bytes:
        """Answer credentials; return what to send. If not accepted, the connection is over."""
        assert self._state is _State.JUDGING
        self._state = _State.REQUEST if accepted else _State.DONE
        return bytes((_AUTH_VERSION, not accepted))

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _greeting(self) -> MethodsOffered | None:
        buffer = self._buffer
        if buffer and buffer[0] != VERSION:
            raise Socks5Error(f"version {buffer[0]} is not SOCKS5")
        if len(buffer) < 2 or len(buffer) < 2 + buffer[1]:
            return None
        self._state = _State.CHOOSING
        return MethodsOffered(self._take(2 + buffer[1])[2:])

    def _credentials(self) -> Credentials | None:
        buffer = self._buffer
        if buffer and buffer[0] != _AUTH_VERSION:
            raise Socks5Error(
                f"version {buffer[0]} of the name and the password", bytes((_AUTH_VERSION, 1))
            )
        if len(buffer) < 2:
            return None
        middle = 2 + buffer[1]
        if len(buffer) <= middle or len(buffer) <= middle + buffer[middle]:
            return None
        self._state = _State.JUDGING
        taken = self._take(middle + 1 + buffer[middle])
        return Credentials(taken[2:middle], taken[middle + 1 :])

    def _request(self) -> Request | None:
        buffer = self._buffer
        if buffer and buffer[0] != VERSION:
            raise Socks5Error(f"version {buffer[0]} of the request", encode_reply(Reply.FAILURE))
        if len(buffer) < 4:
            return None
        found = _read_address(memoryview(bytes(buffer)), 3)
        if found is None:
            return None
        host, port, end = found
        self._state = _State.DONE
        return Request(self._take(end)[1], host, port)


def _read_address(view: memoryview, start: int) -> tuple[str, int, int] | None:
    """Read type, address and port at ``start``, which has to be there.

    :returns: host, port, and the offset of what follows; None: some is missing.
    :raises Socks5Error: there is no such type, or what should be a name is none.
    """
    kind, begin = view[start], start + 1
    if kind == _NAME:
        if len(view) <= begin:
            return None
        size, begin = view[begin], begin + 1
        if not size:
            raise Socks5Error("an empty name", encode_reply(Reply.FAILURE))
    elif kind in (_IPV4, _IPV6):
        size = 4 if kind == _IPV4 else 16
    else:
        raise Socks5Error(f"address type {kind}", encode_reply(Reply.ADDRESS_NOT_SUPPORTED))
    end = begin + size
    if len(view) < end + 2:
        return None
    raw = bytes(view[begin:end])
    (port,) = _PORT.unpack_from(view, end)
    if kind == _NAME:
        try:
            host = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise Socks5Error("a name that is no text", encode_reply(Reply.FAILURE)) from None
    else:
        host = _text(raw)
    return host, port, end + 2


def _text(raw: bytes) -> str:
    """Return an address in text; an IPv4-mapped one as IPv4 (PROTOCOL.md §5)."""
    if len(raw) == 4:
        return socket.inet_ntop(socket.AF_INET, raw)
    if raw.startswith(bytes(10) + b"\xff\xff"):
        return socket.inet_ntop(socket.AF_INET, raw[12:])
    return socket.inet_ntop(socket.AF_INET6, raw)


def _address(host: str, port: int) -> bytes:
    """Return type, address and port.

    :param host: an address in text, without a zone.
    """
    raw = ipaddress.ip_address(host).packed
    return bytes((_IPV4 if len(raw) == 4 else _IPV6,)) + raw + _PORT.pack(port)


def encode_reply(code: Reply, host: str = "0.0.0.0", port: int = 0) -> bytes:
    """Return the answer to a request.

    :param host: where the server is for what was asked; all zeros where that is not known.
    """
    return bytes((VERSION, code, 0)) + _address(host, port)


def decode_datagram(data: memoryview) -> SocksDatagram:
    """Read what a client sent over UDP.

    :raises Socks5Error: it is too short, or its address cannot be read.
    """
    found = None if len(data) < 4 else _read_address(data, 3)
    if found is None:
        raise Socks5Error("a datagram that ends in its header")
    host, port, end = found
    return SocksDatagram(data[2], host, port, data[end:])


@lru_cache(maxsize=1024)
def encode_header(host: str, port: int) -> bytes:
    """Return the header of a datagram to a client: the address and port that it came from."""
    return b"\0\0\0" + _address(host, port)
