"""Addresses between Python's strings and the core's bytes."""

from __future__ import annotations

import socket
import sys
from functools import lru_cache

__all__ = ["pack", "pack_ends", "unpack", "unpack_end"]

_BYTES = {4: 4, 6: 16}
_PORT = 2


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


def pack_ends(
    family: int, source: bytes, source_port: int, destination: bytes, destination_port: int
) -> bytes:
    """Return both ends of a connection in 12 bytes, or 36 of IPv6: as tuples of strings and
    numbers they take 200.

    :param source: as :func:`pack` returns it, like ``destination``.
    """
    size = _BYTES[family]
    ports = (
        source_port.to_bytes(_PORT, sys.byteorder),
        destination_port.to_bytes(_PORT, sys.byteorder),
    )
    return b"".join((source[:size], destination[:size], *ports))


def unpack_end(ends: bytes, number: int) -> tuple[str, int]:
    """Return address and port of one of the ends that :func:`pack_ends` packed.

    :param number: 0 for the source, 1 for the destination.
    """
    size = len(ends) // 2 - _PORT
    raw = ends[number * size : (number + 1) * size]
    port = 2 * size + number * _PORT
    host = unpack(4 if size == _BYTES[4] else 6, raw)
    return host, int.from_bytes(ends[port : port + _PORT], sys.byteorder)
