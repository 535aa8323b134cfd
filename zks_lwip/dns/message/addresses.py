"""The addresses in an answer, or why there are none."""

from __future__ import annotations

import ipaddress
import struct

from ...errors import DnsError
from .wire import Option, Rcode, Type, split_options, walk

__all__ = ["addresses_in", "reason_of"]


def addresses_in(message: bytes, kind: Type) -> list[str]:
    """Return the addresses in an answer to a query for A or AAAA records.

    :raises WireError: the answer is malformed.
    :raises DnsError: it says that there is no such name, or that no resolver could tell.
    """
    layout = walk(message)
    code = message[3] & 15
    if code == Rcode.NXDOMAIN:
        raise DnsError("there is no such name" + reason_of(message))
    if code != Rcode.NOERROR:
        raise DnsError("no resolver could tell" + reason_of(message))
    size = 4 if kind == Type.A else 16
    found = []
    for offset, _, section, record in layout.ttls:
        (length,) = struct.unpack_from("!H", message, offset + 4)
        if section == 1 and record == kind and length == size:
            raw = message[offset + 6 : offset + 6 + size]
            found.append(str(ipaddress.ip_address(raw)))
    return list(dict.fromkeys(found))


def reason_of(message: bytes) -> str:
    """Return the text of an extended DNS error (RFC 8914), such as the service adds."""
    layout = walk(message)
    start = layout.opt + 11
    options = split_options(message[start : layout.opt_end]) if layout.opt else []
    texts = [value[2:].decode("utf-8", "replace") for code, value in options if code == Option.EDE]
    return "".join(f": {text}" for text in texts if text)
