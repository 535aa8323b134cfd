"""Host names and ADDRESS:PORT in text: one rule for all options and messages.

Names that are not ASCII follow IDNA 2008 after the mapping of UTS 46, as browsers and trio do it.
"""

from __future__ import annotations

import ipaddress
import re

import idna

__all__ = [
    "InvalidName",
    "ends_in_number",
    "explain_network",
    "host_name",
    "is_host_name",
    "join_host_port",
    "parse_address_port",
    "split_host_port",
    "to_ascii",
]

MAX_NAME = 253
"""Characters of a name without its last dot: 255 bytes in a DNS message (RFC 1035 §2.3.4)."""

# The underscore is in no host name (RFC 1123 §2.1), and in many a name that is looked up.
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)\Z")
_NUMBER = re.compile(r"[0-9]+\Z|0x[0-9a-f]*\Z")


class InvalidName(ValueError):
    """What is no name; the text says why, in a clause."""


def to_ascii(name: str) -> str:
    """Return a name as it goes to a name server; an ASCII one as it is.

    Labels that are not ASCII become A-labels (RFC 5891), all in lower case.

    :raises InvalidName: IDNA does not allow it.
    """
    if name.isascii():
        return name
    if len(name) > MAX_NAME:  # (encoded, it would be longer still)
        raise InvalidName(f"it has more than {MAX_NAME} characters")
    try:
        mapped = idna.uts46_remap(name, std3_rules=False, transitional=False)
        labels = (
            label if label.isascii() else idna.alabel(label).decode("ascii")
            for label in mapped.split(".")
        )
        return ".".join(labels)
    except UnicodeError as error:
        raise InvalidName(f"it is not valid (IDNA: {error})") from None


def is_host_name(name: str) -> bool:
    """Return whether a name (ASCII, in lower case, without its last dot) can be a host's."""
    return 0 < len(name) <= MAX_NAME and all(map(_LABEL.match, name.split(".")))


def host_name(text: str) -> str:
    """Return a host name in ASCII, in lower case, without its last dot.

    :raises InvalidName: it is none.
    """
    name = to_ascii(text).lower().rstrip(".")
    if not is_host_name(name):
        raise InvalidName("a label has 1 to 63 letters, digits and hyphens")
    return name


def ends_in_number(name: str) -> bool:
    """Return whether the last label of a name (ASCII, lower case) is a number: then it is none."""
    return _NUMBER.match(name.rpartition(".")[2]) is not None


def explain_network(text: str, error: ValueError) -> str:
    """Return what is wrong with the text of a network, and what may have been meant.

    :param error: that of :func:`ipaddress.ip_network`.
    """
    try:
        meant = ipaddress.ip_interface(text)
    except ValueError:
        return f"{error}; give an address or a network such as 192.168.7.0/24"
    return f"{error}; write {meant.network} for the network, or {meant.ip} for the address"


def join_host_port(host: object, port: int | None) -> str:
    """Return ``HOST:PORT`` or ``[IPV6]:PORT``; where the port is None, what is before it.

    :param host: a name, or an address, in text or not.
    """
    text = f"[{host}]" if ":" in str(host) else str(host)
    return text if port is None else f"{text}:{port}"


def split_host_port(text: str) -> tuple[str, str]:
    """Split ``HOST``, ``HOST:PORT``, ``IPV6``, ``[IPV6]`` or ``[IPV6]:PORT``; no port is empty.

    :raises ValueError: a bracket or a port is missing.
    """
    host, colon, port = text, "", ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or rest[:1] not in ("", ":"):
            raise ValueError(f"{text!r} is not an address")
        colon, port = rest[:1], rest[1:]
    elif text.count(":") == 1:
        host, colon, port = text.partition(":")
    if colon and not port:
        raise ValueError("the port is missing")
    return host, port


def parse_address_port(
    text: str, default: int | None = None, *, least: int = 1
) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]:
    """Read ``ADDRESS:PORT`` or ``[IPV6]:PORT``.

    :param default: the port where none is given; None: one must be.
    :param least: the least port that is allowed.
    :raises ValueError: says what is wrong, in a clause.
    """
    host, port = split_host_port(text)
    address = ipaddress.ip_address(host)
    if not port:
        if default is None:
            raise ValueError("it is no ADDRESS:PORT")
        return address, default
    number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else -1
    if not least <= number < 65536:
        raise ValueError(f"the port is {least} to 65535")
    return address, number
