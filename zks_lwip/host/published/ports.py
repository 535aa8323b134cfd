"""Which port of the host leads to which port of the command: what ``-p`` says."""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ...errors import ConfigError
from ...net.names import join_host_port

__all__ = ["DEFAULT_ADDRESS", "MAX_PORTS", "PublishedPort", "Transport", "parse_published"]

DEFAULT_ADDRESS = "127.0.0.1"
"""Where a port is published if nothing is said: for this machine alone. What is tried in ``run``
is rarely meant for all of the network; ``0.0.0.0:`` says that it is."""

MAX_PORTS = 1024
"""Ports that one command can publish, each protocol counted: a descriptor each."""

_EXAMPLE = "give for example 8080, 8080:80, 127.0.0.1:8080:80, [::1]:53:5353/udp or 9000-9010"


class Transport(enum.Enum):
    """A transport protocol that can be published."""

    TCP = "tcp"
    UDP = "udp"


@dataclass(frozen=True, slots=True)
class PublishedPort:
    """One port of the host, for one or both protocols."""

    address: str
    """In text; of a link-local one with its zone. ``::`` is all addresses, those of IPv4 too."""
    port: int
    """0: any free one, the same for both protocols."""
    inside: int
    """The port in the command's namespace."""
    transports: tuple[Transport, ...] = (Transport.TCP, Transport.UDP)

    def __str__(self) -> str:
        name = f"/{self.transports[0].value}" if len(self.transports) == 1 else ""
        return f"{join_host_port(self.address, self.port)}:{self.inside}{name}"

    def as_given(self, port: int) -> str:
        """Return what to give for another port of the host: without the default address."""
        given = str(replace(self, port=port))
        return given.removeprefix(f"{DEFAULT_ADDRESS}:")


def parse_published(texts: Iterable[str]) -> tuple[PublishedPort, ...]:
    """Read what ``-p`` was given: ``[ADDRESS:]PORT[-LAST][:PORT[-LAST]][/tcp|/udp]`` each.

    :returns: every port by itself; those that are said twice, once.
    :raises ConfigError: it is none of that, or one port of the host is to lead to two others.
    """
    ports: dict[PublishedPort, None] = {}
    taken: dict[tuple[str, int, Transport], PublishedPort] = {}
    for text in texts:
        for port in _parse(text):
            if port in ports:
                continue
            for transport in port.transports:
                other = taken.setdefault((port.address, port.port, transport), port)
                if port.port and other is not port:
                    raise ConfigError(
                        f"{text}: {transport.value} {join_host_port(port.address, port.port)} is "
                        f"published already, as {other}",
                        "publish",
                    )
            ports[port] = None
            if sum(len(one.transports) for one in ports) > MAX_PORTS:
                raise ConfigError(
                    f"{text}: these are more than {MAX_PORTS} ports, each protocol counted; name "
                    "one protocol (/tcp or /udp), or fewer ports",
                    "publish",
                )
    return tuple(ports)


def _parse(text: str) -> list[PublishedPort]:
    try:
        rest, slash, name = text.partition("/")
        transports = (Transport(name.lower()),) if slash else tuple(Transport)
    except ValueError:
        raise _wrong(text, f"the protocol {name!r} is neither tcp nor udp") from None
    address, outer, inner = _split(text, rest)
    first, last = _range(text, outer or ("0" if inner else ""), least=0)
    first_inside, last_inside = _range(text, inner or outer, least=1)
    if last - first != last_inside - first_inside and outer not in ("", "0"):
        raise _wrong(text, "the two ranges have different lengths")
    if last_inside - first_inside >= MAX_PORTS:
        raise _wrong(text, f"a range has at most {MAX_PORTS} ports")
    return [
        PublishedPort(address, first + step if first else 0, port, transports)
        for step, port in enumerate(range(first_inside, last_inside + 1))
    ]


def _split(text: str, rest: str) -> tuple[str, str, str]:
    """Return address, port of the host, and that inside, which is empty where none is given."""
    if rest.startswith("["):
        host, bracket, ports = rest[1:].partition("]")
        if not bracket or not ports.startswith(":"):
            raise _wrong(text, "behind [ADDRESS] comes :PORT")
        fields = ports[1:].split(":")
    elif rest.count(":") > 2:
        raise _wrong(text, "an IPv6 address stands in brackets")
    else:
        fields = rest.split(":")
        named = len(fields) == 3 or (len(fields) == 2 and not _is_ports(fields[0]))
        host = fields.pop(0) if named else ""
        if named and not host:
            raise _wrong(text, "the address is missing")
    if len(fields) > 2 or (len(fields) == 2 and not fields[1]):
        raise _wrong(text, "a port is missing")
    return _address(text, host), fields[0], fields[1] if len(fields) == 2 else ""


def _is_ports(text: str) -> bool:
    return text.replace("-", "").isdecimal()


def _address(text: str, host: str) -> str:
    if not host:
        return DEFAULT_ADDRESS
    if host == "localhost":
        return DEFAULT_ADDRESS
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        if host == "*":
            raise _wrong(text, "all addresses are 0.0.0.0 or [::]") from None
        raise _wrong(text, f"{host!r} is no address of IPv4 or IPv6, nor `localhost`") from None


def _range(text: str, ports: str, least: int) -> tuple[int, int]:
    first, dash, last = ports.partition("-")
    numbers = [first, last] if dash else [first, first]
    for one in numbers:
        if not (one.isascii() and one.isdecimal() and len(one) <= 5 and least <= int(one) < 65536):
            shown = f"{one!r} is no port" if one else "a port is missing"
            raise _wrong(text, f"{shown}; a port is {least} to 65535")
    low, high = map(int, numbers)
    if low > high or (dash and not low):
        raise _wrong(text, f"the range {ports} is none")
    return low, high


def _wrong(text: str, why: str) -> ConfigError:
    return ConfigError(f"{text!r}: {why}; {_EXAMPLE}", "publish")
