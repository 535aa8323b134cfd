"""Which end a session is, and what that end says of itself."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, fields

from ..errors import ProtocolError
from .hello import MIN_ACK, Hello
from .taken import MAX_ACK_BYTES

__all__ = ["Role", "Settings"]


_MIN_KEPT = 256 << 10


class Role(enum.Enum):
    CLIENT = "client"
    WORKER = "worker"


@dataclass(frozen=True, slots=True)
class Settings:
    """What our HELLO says (``Hello`` has units and ranges; ValueError outside them).

    A client says the first three and ``resume``, a worker all.
    """

    window: int = 1 << 20
    max_data: int = 1 << 18
    max_message: int = 1 << 20
    session: str | None = field(default=None, repr=False)
    """Worker: the id of the session, made up if None."""
    streams: int = 1024
    associations: int = 1024
    requests: int = 256
    udp: bool = False
    icmp: bool = False
    dns: bool = False
    ipv6: bool = False
    resume: int = 0
    idle_udp: int = 60
    keepalive: int = 0
    max_kept: int = 64 << 20
    """Most bytes that are kept unacknowledged, at least 262144; no part of HELLO."""

    def __post_init__(self) -> None:
        if self.max_kept < _MIN_KEPT:
            raise ValueError(f"session settings: max_kept is under {_MIN_KEPT}: {self.max_kept}")
        try:
            self.hello(Role.WORKER)
        except ProtocolError as error:
            raise ValueError(str(error).replace("HELLO", "session settings", 1)) from error

    @property
    def ack(self) -> int:
        """Bytes that may come from us before an ACK: an eighth of what may be kept, or so."""
        return min(max(self.max_kept // 8, MIN_ACK), MAX_ACK_BYTES)

    def hello(self, role: Role) -> Hello:
        if role is Role.CLIENT:
            names = ["window", "max_data", "max_message", "resume"]
        else:
            names = [each.name for each in fields(self) if each.name != "max_kept"]
        if self.resume:
            names.append("ack")
        return Hello(**{name: getattr(self, name) for name in names})
