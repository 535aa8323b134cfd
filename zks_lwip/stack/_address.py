"""Addresses between Python's strings and the core's 16 bytes."""

from __future__ import annotations

import socket
from functools import lru_cache

__all__ = ["pack", "unpack"]


@lru_cache(maxsize=4096)
def pack(host: str) -> tuple[int, bytes]:
    """An IP literal as (family 4 or 6, 16 bytes: IPv4 in the first four).

    :raises ValueError: it is not a literal.
    """
    try:
        if ":" in host:
            return 6, socket.inet_pton(socket.AF_INET6, host)
        return 4, socket.inet_pton(socket.AF_INET, host) + bytes(12)
    except (OSError, UnicodeError):
        raise ValueError(f"{host!r} is not an IP address") from None


@lru_cache(maxsize=4096)
def unpack(family: int, raw: bytes) -> str:
    """The literal of what :func:`pack` made."""
    if family == 4:
        return socket.inet_ntop(socket.AF_INET, raw[:4])
    return socket.inet_ntop(socket.AF_INET6, raw)
