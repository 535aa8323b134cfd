"""Where names are asked: name servers as options, resolv.conf(5) and the hosts file.

Nothing here sends anything; the files are read once and again when they change.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from .._util import open_file
from ..errors import ConfigError
from ..net.names import join_host_port, parse_address_port
from .policy import IPAddress

__all__ = ["HOSTS", "HostsFile", "NameServer", "RESOLV_CONF", "SystemNameServers", "parse_resolver"]

_log = logging.getLogger(__name__)

#: systemd-resolved's list of the real servers comes before the file that names its stub.
RESOLV_CONF = (Path("/run/systemd/resolve/resolv.conf"), Path("/etc/resolv.conf"))
HOSTS = Path("/etc/hosts")

_MAX_SERVERS = 8
_MAX_FILE = 1 << 20
_RECHECK = 5.0
"""Seconds between two looks at a file's time."""


@dataclass(frozen=True, slots=True)
class NameServer:
    """One name server. ``scope`` is the interface index of a link-local address, else 0."""

    address: IPAddress
    port: int = 53
    scope: int = 0
    family: int = field(init=False, repr=False, compare=False)
    sockaddr: tuple[str, int] | tuple[str, int, int, int] = field(
        init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        host, family = str(self.address), socket.AF_INET
        sockaddr: tuple[str, int] | tuple[str, int, int, int] = (host, self.port)
        if isinstance(self.address, IPv6Address):
            family = socket.AF_INET6
            sockaddr = (host.partition("%")[0], self.port, 0, self.scope)
        object.__setattr__(self, "family", family)
        object.__setattr__(self, "sockaddr", sockaddr)

    @property
    def loopback(self) -> bool:
        return self.address.is_loopback

    def __str__(self) -> str:
        return join_host_port(self.address, self.port)


def _name_server(address: IPAddress, port: int) -> NameServer:
    """Return the server at an address.

    :raises ValueError: its zone is no interface.
    """
    scope = 0
    if isinstance(address, IPv6Address) and address.scope_id:
        zone = address.scope_id
        try:
            scope = int(zone) if zone.isdigit() else socket.if_nametoindex(zone)
        except OSError:
            raise ValueError(f"no interface {zone}") from None
    return NameServer(address, port, scope)


def parse_resolver(text: str) -> NameServer:
    """Read a name server: ``ADDRESS``, ``IPV4:PORT`` or ``[IPV6]:PORT``.

    :raises ConfigError: it is none.
    """
    try:
        return _name_server(*parse_address_port(text, 53))
    except ValueError as error:
        raise ConfigError(
            f"{text}: {error}; give an address, 192.0.2.53, 192.0.2.53:53 or [2001:db8::53]:53",
            "resolvers",
        ) from None


def parse_resolv_conf(text: str) -> list[NameServer]:
    """Return the ``nameserver`` lines, in order; as in libc, what is no address is passed over."""
    servers: list[NameServer] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            server = _name_server(ip_address(words[1]), 53)
        except ValueError:
            _log.warning("resolv.conf: nameserver %s is not an address; passed over", words[1])
            continue
        if server not in servers and len(servers) < _MAX_SERVERS:
            servers.append(server)
    return servers


def _read(path: Path) -> str:
    with open_file(path) as file:
        return file.read(_MAX_FILE).decode("utf-8", "replace")


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_ino, status.st_mtime_ns, status.st_size)


class SystemNameServers:
    """The system's name servers.

    :param follow: look again when the files change. A worker beside a VPN client does not: the
        files would come to name the VPN's own resolver.
    :param loopback: whether servers on loopback count. Beside a VPN client they do not: a stub
        there would ask through the tunnel that its answer is needed for.
    :param clock: returns seconds.
    """

    def __init__(
        self,
        paths: tuple[Path, ...] = RESOLV_CONF,
        *,
        follow: bool = True,
        loopback: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._paths = paths
        self._clock = clock
        self._follow = follow
        self._loopback = loopback
        self._stamps: list[tuple[int, int, int] | None] = []
        self._next_look = 0.0
        self._servers: tuple[NameServer, ...] = ()
        self._look()

    def _look(self) -> None:
        self._next_look = self._clock() + _RECHECK
        stamps = [_stamp(path) for path in self._paths]
        if stamps == self._stamps:
            return
        self._stamps = stamps
        for path in self._paths:
            try:
                text = _read(path)
            except OSError:
                continue  # absent on most systems: the next file says it
            servers = [s for s in parse_resolv_conf(text) if self._loopback or not s.loopback]
            if servers:
                self._servers = tuple(servers)
                return
        self._servers = ()
        _log.warning("no usable name server in %s", " or ".join(map(str, self._paths)))

    def __call__(self) -> tuple[NameServer, ...]:
        if self._follow and self._clock() >= self._next_look:
            self._look()
        return self._servers


class HostsFile:
    """hosts(5): names that are answered without asking. Read again when it changes.

    :param clock: returns seconds.
    """

    def __init__(self, path: Path = HOSTS, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._stamp: tuple[int, int, int] | None = None
        self._next_look = 0.0
        self._names: dict[str, tuple[IPAddress, ...]] = {}

    def lookup(self, name: str) -> tuple[IPAddress, ...]:
        """Return the addresses of a name (ASCII, any case, its last dot or not), or none."""
        now = self._clock()
        if now >= self._next_look:
            self._next_look = now + _RECHECK
            stamp = _stamp(self._path)
            if stamp != self._stamp:
                self._stamp = stamp
                self._names = self._load()
        name = name.lower().removesuffix(".")
        found = self._names.get(name, ())
        if not found and (name == "localhost" or name.endswith(".localhost")):
            return (IPv4Address("127.0.0.1"), IPv6Address("::1"))  # RFC 6761 §6.3
        return found

    def _load(self) -> dict[str, tuple[IPAddress, ...]]:
        names: dict[str, tuple[IPAddress, ...]] = {}
        try:
            text = _read(self._path)
        except OSError:
            return names  # no hosts file: no static names
        for line in text.splitlines():
            words = line.partition("#")[0].split()
            if len(words) < 2:
                continue
            try:
                address = ip_address(words[0])
            except ValueError:
                continue  # libc passes such a line over as well
            for word in words[1:]:
                known = names.get(word.lower(), ())
                if address not in known:
                    names[word.lower()] = (*known, address)
        return names
