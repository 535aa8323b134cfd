"""What a proxy is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError
from ..net.listen import is_loopback

__all__ = ["ProxyConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyConfig:
    """What a proxy is told. Times are in seconds.

    :raises ConfigError: it would serve a network without passwords.
    """

    host: str = "127.0.0.1"
    """The address to listen on, in text; ``::`` is all, those of IPv4 too."""
    port: int = 1080
    """0: any free one."""
    password_file: Path | None = None
    """Who may use it, one ``NAME:PASSWORD`` a line; None: all who reach it."""
    max_flows: int = 8192
    """TCP connections at a time, beside those in the handshake."""
    max_associations: int = 1024
    """UDP associations at a time; no more than the worker says."""
    max_handshakes: int = 1024
    """Clients that have not asked for anything yet; over it the oldest gives way."""
    handshake_timeout: float = 10.0
    """In which a client has to say what it wants."""
    connect_timeout: float = 130.0
    """In which the worker has to answer: more than what it, and a kernel, gives a far end."""
    failure_delay: float = 1.0
    """Until a wrong password is answered."""

    def __post_init__(self) -> None:
        if self.password_file is None and not is_loopback(self.host):
            raise ConfigError(
                f"{self.host} is beyond loopback, where anyone who reaches it could use the "
                "tunnel: give `password_file`, or listen on 127.0.0.1.",
                "listen",
            )
