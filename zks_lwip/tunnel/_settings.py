"""Which end a session is, and what that end says of itself."""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields

from ..errors import ProtocolError
from ._hello import Hello

__all__ = ["Role", "Settings"]


class Role(enum.Enum):
    CLIENT = "client"
    WORKER = "worker"


@dataclass(frozen=True, slots=True)
class Settings:
    """What our HELLO says (``Hello`` has units and ranges; ValueError outside them).

    A client says the first five only, a worker also the rest.
    """

    window: int = 1 << 20
    max_data: int = 1 << 18
    max_message: int = 1 << 20
    session: str | None = None
    """Worker: the id of the session, made up if None."""
    received: int = 0
    streams: int = 1024
    associations: int = 1024
    requests: int = 256
    udp: bool = False
    icmp: bool = False
    dns: bool = False
    ipv6: bool = False
    resume: int = 0
    idle_udp: int = 60

    def __post_init__(self) -> None:
        try:
            self.hello(Role.WORKER)
        except ProtocolError as error:
            raise ValueError(str(error).replace("HELLO", "session settings", 1)) from error

    def hello(self, role: Role) -> Hello:
        names = [field.name for field in fields(self)]
        if role is Role.CLIENT:
            names = names[:5]
        return Hello(**{name: getattr(self, name) for name in names})
