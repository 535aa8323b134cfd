"""An encrypted resolver as the user names it; :mod:`.parse` reads it from a URL."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Server"]


@dataclass(frozen=True, slots=True)
class Server:
    """A resolver that is asked over an encrypted transport."""

    scheme: str
    """A key of :data:`.transports.TRANSPORTS`."""
    host: str
    """The name or address that its certificate must be for."""
    port: int
    """1 to 65535."""
    addresses: tuple[str, ...]
    """Where to connect: IP literals, tried in this order."""
    authority: str
    """Host and, where it is not the transport's default, port."""
    path: str = ""
    """What is asked for, with its query part; empty where the transport has no paths."""
    get: bool = False
    """Ask with GET, which a cache in between may answer, instead of POST."""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"
