"""HELLO: what an end says about itself, and the check of what the peer says (PROTOCOL.md §3)."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, ClassVar, NoReturn

from ..errors import ProtocolError

__all__ = ["HELLO_TIMEOUT", "MAX_HELLO", "MAX_WINDOW", "MIN_ACK", "VERSION", "Hello"]

VERSION = 2
MAX_HELLO = 8192
"""Most bytes of JSON in a HELLO."""
HELLO_TIMEOUT = 10.0
"""Seconds within which the peer's HELLO must have come; the owner of a session keeps the time."""
MAX_WINDOW = 2**31 - 1
"""Most credit, in bytes, that one direction of a stream may have at any time."""
MIN_ACK = 512 << 10
"""Bytes of counted frames that may come before an ACK, whatever the peer can keep."""

_MAX_INTEGER = 2**53 - 1
"""The largest integer that every JSON reader keeps exact."""
_HEADER = struct.Struct(">BII")

_RANGES: dict[str, tuple[int, int]] = {
    "version": (VERSION, VERSION),
    "window": (1, MAX_WINDOW),
    "max_data": (1024, _MAX_INTEGER),
    "max_message": (131072, _MAX_INTEGER),
    "received": (0, 2**64 - 1),
    "attempt": (0, _MAX_INTEGER),
    "streams": (0, _MAX_INTEGER),
    "associations": (0, _MAX_INTEGER),
    "requests": (0, _MAX_INTEGER),
    "resume": (0, _MAX_INTEGER),
    "idle_udp": (0, _MAX_INTEGER),
    "keepalive": (0, _MAX_INTEGER),
    "ack": (MIN_ACK, _MAX_INTEGER),
}
_FLAGS = ("udp", "icmp", "dns", "ipv6")
_ALWAYS = ("version", "window", "max_data", "max_message")


@dataclass(frozen=True, slots=True)
class Hello:
    """The HELLO frame, validated. The defaults are those of the page: what an absent key means."""

    command: ClassVar[int] = 0x40
    counted: ClassVar[bool] = False

    version: int = VERSION
    window: int = 65536
    """Credit in bytes that the sender grants every stream at its start; 1 to 2^31-1."""
    max_data: int = 65535
    """Largest DATA payload in bytes that the sender takes; at least 1024."""
    max_message: int = 1048576
    """Largest message in bytes that the sender takes; at least 131072."""
    session: str | None = field(default=None, repr=False)
    """Client: the session to resume. Worker: the id of this session."""
    received: int = 0
    """Counted frames of the resumed session that the sender has taken."""
    attempt: int = 0
    """Client: the number of the attempt at resuming, above those of all before it; 0: not known."""
    streams: int = 1024
    """Worker: most open streams of this session."""
    associations: int = 1024
    """Worker: most UDP associations; the least recently used goes first."""
    requests: int = 256
    """Worker: most DNS queries in flight; more are answered SERVFAIL."""
    udp: bool = False
    icmp: bool = False
    dns: bool = False
    ipv6: bool = False
    resume: int | None = None
    """Seconds that the session outlives its WebSocket; 0: never. None, which is no key at all: at a
    client, as the worker says; at a worker, never."""
    idle_udp: int = 60
    """Worker: seconds until an idle association is dropped."""
    keepalive: int = 0
    """Worker: seconds between the PINGs that the client is to send while streams are open; 0: it
    need not."""
    ack: int = MIN_ACK
    """Bytes of counted frames that may come from the sender before an ACK; at least 524288."""

    def __post_init__(self) -> None:
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if value is None and name == "resume":
                continue
            # bool is an int to Python, but true is no number to the page
            if type(value) is not int:
                _refuse(f"{name} is {_show(value)}, not an integer")
            if not least <= value <= most:
                _refuse(f"{name} is {_show(value)}, outside {least} to {most}")
        for name in _FLAGS:
            value = getattr(self, name)
            if type(value) is not bool:
                _refuse(f"{name} is {_show(value)}, neither true nor false")
        if self.session is not None:
            _check_session(self.session)

    def encode(self) -> bytes:
        """Return the whole frame. Keys that say what their absence means are left out."""
        values: dict[str, Any] = {}
        for name, default in _DEFAULTS.items():
            value = getattr(self, name)
            if name in _ALWAYS or value != default:
                values[name] = value
        body = json.dumps(values, separators=(",", ":")).encode()
        return _HEADER.pack(self.command, 0, len(body)) + body

    def encode_header(self) -> bytes:
        """Return the JSON alone, as an upgrade request says it: visible ASCII."""
        return self.encode()[_HEADER.size :]

    @classmethod
    def decode(cls, body: bytes) -> Hello:
        """Read the JSON of a HELLO; unknown keys are ignored.

        :raises ProtocolError: for anything that is not a JSON object in UTF-8, for a value of the
            wrong type and for one outside its range.
        """
        if len(body) > MAX_HELLO:
            _refuse(f"{len(body)} bytes of JSON, over {MAX_HELLO}")
        try:
            values = json.loads(body.decode(), parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise ProtocolError("HELLO: its body is not JSON in UTF-8") from error
        if not isinstance(values, dict):
            _refuse("its JSON is not an object")
        for name, what in (("session", "a string"), ("resume", "an integer")):
            if name in values and values[name] is None:
                _refuse(f"{name} is null, not {what}")
        hello = cls(**{name: values[name] for name in _DEFAULTS if name in values})
        return hello if hello.session is not None else _shared(hello)


@lru_cache(maxsize=64)
def _shared(hello: Hello) -> Hello:
    """Return the first of equal ones: a worker keeps one for each session, and clients say the
    same."""
    return hello


_DEFAULTS: dict[str, Any] = {each.name: each.default for each in fields(Hello)}


def _check_session(session: Any) -> None:
    # It also travels in a header of the upgrade, so it is held to what a header can carry.
    if type(session) is not str or not 1 <= len(session) <= 255:
        _refuse("session is not a string of 1 to 255 characters")
    if not all("!" <= character <= "~" for character in session):
        _refuse("session has characters other than visible ASCII")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _show(value: Any) -> str:
    text = ascii(value) if not isinstance(value, int) or abs(value) < 2**64 else "a huge number"
    return text if len(text) <= 40 else text[:37] + "..."


def _refuse(what: str) -> NoReturn:
    raise ProtocolError(f"HELLO: {what}")
