"""Addresses between Python's strings and the core's 16 bytes."""

from __future__ import annotations

import socket
from functools import lru_cache

__all__ = ["pack", "unpack"]


@lru_cache(maxsize=4096)
def pack(host: str) -> tuple[int, bytes]:
    """Pack an IP literal.

    :param host: without brackets and zone.
    :returns: the family, 4 or 6, and 16 bytes; IPv4 is in the first four.
    :raises ValueError: ``host`` is not a literal.
    """
    try:
        if ":" in host:
            return 6, socket.inet_pton(socket.AF_INET6, host)
        return 4, socket.inet_pton(socket.AF_INET, host) + bytes(12)
    except (OSError, UnicodeError):
        raise ValueError(f"{host!r} is not an IP address") from None


@lru_cache(maxsize=4096)
def unpack(family: int, raw: bytes) -> str:
    """Return the literal that :func:`pack` made these of."""
    if family == 4:
        return socket.inet_ntop(socket.AF_INET, raw[:4])
    return socket.inet_ntop(socket.AF_INET6, raw)
