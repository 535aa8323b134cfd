"""Where names are asked: ``--resolver`` arguments, resolv.conf(5) and the hosts file.

Nothing here sends anything; the files are read once and again when they change.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from ..errors import ConfigError
from .policy import IPAddress

__all__ = ["HOSTS", "HostsFile", "NameServer", "RESOLV_CONF", "SystemNameServers", "parse_resolver"]

log = logging.getLogger(__name__)

#: systemd-resolved's list of the real servers comes before the file that names its stub.
RESOLV_CONF = (Path("/run/systemd/resolve/resolv.conf"), Path("/etc/resolv.conf"))
HOSTS = Path("/etc/hosts")

_MAX_SERVERS = 8
_MAX_FILE = 1 << 20
_RECHECK = 5.0  # seconds between two looks at a file's time


@dataclass(frozen=True, slots=True)
class NameServer:
    """One name server. ``scope`` is the interface index of a link-local address, else 0."""

    address: IPAddress
    port: int = 53
    scope: int = 0

    @property
    def family(self) -> int:
        return socket.AF_INET if isinstance(self.address, IPv4Address) else socket.AF_INET6

    @property
    def sockaddr(self) -> tuple[str, int] | tuple[str, int, int, int]:
        if isinstance(self.address, IPv4Address):
            return (str(self.address), self.port)
        return (str(self.address).partition("%")[0], self.port, 0, self.scope)

    @property
    def loopback(self) -> bool:
        return self.address.is_loopback

    def __str__(self) -> str:
        host = f"[{self.address}]" if isinstance(self.address, IPv6Address) else str(self.address)
        return f"{host}:{self.port}"


def _name_server(text: str, port: int) -> NameServer:
    """Raises ValueError for what is no address."""
    address = ip_address(text)
    scope = 0
    if isinstance(address, IPv6Address) and address.scope_id:
        zone = address.scope_id
        try:
            scope = int(zone) if zone.isdigit() else socket.if_nametoindex(zone)
        except OSError:
            raise ValueError(f"no interface {zone}") from None
    return NameServer(address, port, scope)


def parse_resolver(text: str) -> NameServer:
    """One ``--resolver``: ``ADDRESS``, ``IPV4:PORT`` or ``[IPV6]:PORT``. Raises ConfigError."""
    host, port = text, "53"
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or rest[:1] not in ("", ":"):
            host = ""
        port = rest[1:] or "53" if rest != ":" else ""
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        number = int(port) if port.isascii() and port.isdigit() else 0
        if not 0 < number < 65536:
            raise ValueError("the port is 1 to 65535")
        return _name_server(host, number)
    except ValueError as error:
        raise ConfigError(
            f"--resolver {text}: {error}; give an address, 192.0.2.53, 192.0.2.53:53 or"
            " [2001:db8::53]:53"
        ) from None


def parse_resolv_conf(text: str) -> list[NameServer]:
    """The ``nameserver`` lines, in order; what is no address is passed over, as libc does."""
    servers: list[NameServer] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            server = _name_server(words[1], 53)
        except ValueError:
            log.warning("resolv.conf: nameserver %s is not an address; passed over", words[1])
            continue
        if server not in servers and len(servers) < _MAX_SERVERS:
            servers.append(server)
    return servers


def _read(path: Path) -> str:
    with open(path, "rb") as file:
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
    """

    def __init__(
        self, paths: tuple[Path, ...] = RESOLV_CONF, *, follow: bool = True, loopback: bool = True
    ) -> None:
        self._paths = paths
        self._follow = follow
        self._loopback = loopback
        self._stamps: list[tuple[int, int, int] | None] = []
        self._next_look = 0.0
        self._servers: tuple[NameServer, ...] = ()
        self._look()

    def _look(self) -> None:
        self._next_look = time.monotonic() + _RECHECK
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
        log.warning("no usable name server in %s", " or ".join(map(str, self._paths)))

    def __call__(self) -> tuple[NameServer, ...]:
        if self._follow and time.monotonic() >= self._next_look:
            self._look()
        return self._servers


class HostsFile:
    """hosts(5): names that are answered without asking. Read again when it changes."""

    def __init__(self, path: Path = HOSTS) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._next_look = 0.0
        self._names: dict[str, tuple[IPAddress, ...]] = {}

    def lookup(self, name: str) -> tuple[IPAddress, ...]:
        """The addresses of a name (ASCII, any case, with or without its last dot), or none."""
        now = time.monotonic()
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
