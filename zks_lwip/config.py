"""What a tunnel is told to do: frozen dataclasses, checked when they are made.

A :class:`VpnConfig` that exists is valid. Everything wrong with what a user wrote raises
:class:`~zks_lwip.errors.ConfigError`, which says what is wrong, with which option, and what to
write instead. Nothing in here touches the network; the only files read are those an option names.
"""

from __future__ import annotations

import enum
import ipaddress
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .errors import ConfigError

if TYPE_CHECKING:
    from .dns.options import DnsOptions
    from .tunnel.proxy import Proxy
from .host.config import KillSwitch
from .host.options import HostOptions

__all__ = [
    "DEFAULT_HOST_LOOPBACK",
    "DEFAULT_MTU",
    "HostOptions",
    "Icmp",
    "Ipv6",
    "KillSwitch",
    "Protocol",
    "StaticName",
    "VpnConfig",
    "WorkerUrl",
    "parse_host_loopback",
    "parse_static_name",
    "parse_worker_address",
    "parse_worker_url",
    "read_token_file",
]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

DEFAULT_MTU = 1500
DEFAULT_KEEPALIVE = 70.0
DEFAULT_PATH = "/tunnel"
#: Which address of the tunnel is the host's own 127.0.0.1, where the worker is the embedded one.
DEFAULT_HOST_LOOPBACK = ipaddress.IPv4Address("198.18.0.2")

_MAX_TOKEN_FILE = 64 * 1024
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)\Z")
_INTERFACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}\Z")
_NETNS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}\Z")
_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}\Z")


class Ipv6(enum.Enum):
    """What happens to the applications' IPv6 traffic."""

    AUTO = "auto"  #: tunnel where the worker has IPv6, block otherwise
    TUNNEL = "tunnel"
    BLOCK = "block"  #: refused at once, so that applications fall back to IPv4


class Icmp(enum.Enum):
    """What happens to the applications' ICMP echo requests."""

    TUNNEL = "tunnel"  #: sent by the worker, where it can
    REPLY = "reply"  #: answered here, without asking anybody
    OFF = "off"  #: dropped


class Protocol(enum.Enum):
    """The version of the tunnel's protocol that is spoken (PROTOCOL.md)."""

    V1 = "v1"  #: of the original ZKS-Tunnel Worker (§9): TCP and DNS only
    V2 = "v2"


@dataclass(frozen=True, slots=True)
class WorkerUrl:
    """A checked worker URL. ``host`` has no brackets; ``port`` is always filled in."""

    secure: bool
    host: str
    port: int
    path: str

    @property
    def loopback(self) -> bool:
        """Whether the host is this machine itself: a loopback address, or localhost (RFC 6761)."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost" or self.host.endswith(".localhost")

    @property
    def address(self) -> Address | None:
        """The host as an address, or None if it is a name."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.secure else 80
        port = "" if self.port == default else f":{self.port}"
        return f"{'wss' if self.secure else 'ws'}://{host}{port}{self.path}"


@dataclass(frozen=True, slots=True)
class StaticName:
    """A name that is answered here and never asked for elsewhere (``--dns-static``)."""

    name: str  #: lower case, without the final dot
    address: Address

    def __str__(self) -> str:
        return f"{self.name}={self.address}"


@dataclass(frozen=True, slots=True, kw_only=True)
class VpnConfig:
    """Everything that ``connect``, ``run`` and :func:`zks_lwip.vpn.open_vpn` can be told.

    ``worker`` is None for the embedded worker: a child process on this machine's loopback.
    ``worker_address`` is where it is, if its name is not to be looked up; ``proxy`` is asked to
    connect to it. ``token`` never appears in a repr. ``grace`` is for how many seconds a lost
    tunnel is waited for before flows are refused. ``keepalive`` is after how many seconds of an
    application's silence its kernel is asked whether it still has the connection (1 to 86400, or 0:
    never; :class:`~zks_lwip.stack.Stack`). ``max_memory`` bounds, in MiB, what all connections hold
    or may come to hold together, above 48 KiB each. ``dns`` is None for the defaults. ``host``
    counts only where the host is set up. ``user`` is whom an embedded worker becomes, and
    ``connect``.
    """

    worker: WorkerUrl | None = None
    worker_address: Address | None = None
    proxy: Proxy | None = None
    token: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    plaintext: bool = False
    protocol: Protocol = Protocol.V2
    tun: str = "zks0"
    mtu: int = DEFAULT_MTU
    netns: str | None = None
    kill_switch: KillSwitch = KillSwitch.STRICT
    host: HostOptions = HostOptions()
    user: str | None = None
    ipv6: Ipv6 = Ipv6.AUTO
    icmp: Icmp = Icmp.TUNNEL
    dns: DnsOptions | None = None
    dns_static: tuple[StaticName, ...] = ()
    fast_connect: bool = False
    max_flows: int = 8192
    max_memory: int = 256
    host_loopback: ipaddress.IPv4Address | None = DEFAULT_HOST_LOOPBACK
    grace: float = 10.0
    keepalive: float = DEFAULT_KEEPALIVE

    def __post_init__(self) -> None:
        if self.worker is not None:
            self._check_worker(self.worker)
        elif self.token is not None:
            raise ConfigError(
                "--token-file is given without --worker: the embedded worker makes a token of its "
                "own. Name the worker that the token is for with --worker URL."
            )
        elif self.ca_file is not None and not self._names_resolvers:
            raise ConfigError(
                "--ca-file is given without --worker: the embedded worker is reached over "
                "loopback, without TLS. Name the worker with --worker URL, or a resolver that "
                "the certificates are for with --dns URL."
            )
        if self.worker_address is not None and self.worker is None:
            raise ConfigError(
                "--worker-address is given without --worker: name the worker that is there with "
                "--worker URL."
            )
        if self.host.inbound and self.kill_switch is not KillSwitch.STRICT:
            raise ConfigError(
                "--allow-inbound needs the firewall: leave --kill-switch away, or say strict."
            )
        if self.host.always_on and self.kill_switch is KillSwitch.OFF:
            raise ConfigError("--always-on is of no use with --kill-switch off: nothing is closed.")
        if self.ca_file is not None:
            _check_ca_file(self.ca_file)
        if not _INTERFACE.match(self.tun):
            raise ConfigError(
                f"--tun {self.tun!r} is no interface name: 1 to 15 letters, digits, '_', '-' or "
                "'.', such as zks0."
            )
        if self.netns is not None and not _NETNS.match(self.netns):
            raise ConfigError(
                f"--netns {self.netns!r} is no namespace name: give one that `ip netns list` "
                "shows, without a path."
            )
        if not 1280 <= self.mtu <= 65535:
            raise ConfigError(
                f"--mtu {self.mtu} is out of range: give 1280 (which IPv6 needs, RFC 8200 §5) to "
                "65535."
            )
        if not 1 <= self.max_flows <= 65536:
            raise ConfigError(f"--max-flows {self.max_flows} is out of range: give 1 to 65536.")
        if not 16 <= self.max_memory <= 65536:
            raise ConfigError(
                f"--max-memory {self.max_memory} is out of range: give 16 to 65536 (MiB)."
            )
        if not 0 <= self.grace <= 3600:
            raise ConfigError(f"--grace {self.grace:g} is out of range: give 0 to 3600 seconds.")
        if not (self.keepalive == 0 or 1 <= self.keepalive <= 86400):
            raise ConfigError(
                f"--keepalive {self.keepalive:g} is out of range: give 1 to 86400 seconds, or 0."
            )

    def _check_worker(self, worker: WorkerUrl) -> None:
        if not worker.secure and not worker.loopback and not self.plaintext:
            raise ConfigError(
                f"{worker} is not encrypted, so token and traffic would cross the network in the "
                "clear. Use wss://, or insist with --plaintext."
            )
        if self.ca_file is not None and not worker.secure and not self._names_resolvers:
            raise ConfigError(
                f"--ca-file is of no use with {worker}, which has no TLS. Use wss://, or leave it "
                "out."
            )

    @property
    def _names_resolvers(self) -> bool:
        return self.dns is not None and bool(self.dns.servers)

    @property
    def embedded(self) -> bool:
        """Whether the worker is a child process of ours."""
        return self.worker is None

    @property
    def loopback_alias(self) -> ipaddress.IPv4Address | None:
        """Which address in the tunnel stands for the host's 127.0.0.1; None where none does."""
        return self.host_loopback if self.embedded else None


def parse_worker_url(text: str) -> WorkerUrl:
    """Check ``--worker URL``; a URL without a path gets ``/tunnel``."""
    what = f"--worker {_without_userinfo(text)}"
    if "://" not in text:
        raise ConfigError(f"{what} has no scheme: write wss://{_without_userinfo(text)}.")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{what} is no URL ({error}): write wss://HOST[:PORT][/PATH].") from None
    if parts.scheme not in ("ws", "wss"):
        hint = {"https": "wss", "http": "ws"}.get(parts.scheme, "wss")
        raise ConfigError(
            f"{what}: the scheme {parts.scheme!r} is not ours; write {hint}://HOST[:PORT][/PATH]."
        )
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            f"{what} carries a user name or password: put the token into a file, for --token-file."
        )
    if parts.query or parts.fragment or "?" in text or "#" in text:
        raise ConfigError(
            f"--worker {text.split('?')[0].split('#')[0]}: leave out what follows '?' or '#'; "
            "a token belongs into a file, for --token-file."
        )
    if port == 0:
        raise ConfigError(f"{what}: port 0 cannot be connected to; give 1 to 65535.")
    secure = parts.scheme == "wss"
    host = _checked_host(parts.hostname or "", what)
    path = parts.path if parts.path not in ("", "/") else DEFAULT_PATH
    if not path.isascii() or any(c.isspace() or not c.isprintable() for c in path):
        raise ConfigError(
            f"{what}: the path has characters that a URL cannot hold; percent-encode them."
        )
    return WorkerUrl(secure, host, port or (443 if secure else 80), path)


def _without_userinfo(text: str) -> str:
    """The text as it may be shown: a password somebody put into a URL is not repeated."""
    return re.sub(r"(^|//)[^/@]*@", r"\1…@", text)


def _checked_host(host: str, what: str) -> str:
    if not host:
        raise ConfigError(f"{what} names no host: write wss://HOST[:PORT][/PATH].")
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass  # a name, then
    try:
        name = host.rstrip(".").encode("idna").decode("ascii").lower()
    except UnicodeError as error:
        raise ConfigError(f"{what}: {host!r} is no host name ({error}).") from None
    if len(name) > 253 or not name or not all(_LABEL.match(label) for label in name.split(".")):
        raise ConfigError(f"{what}: {host!r} is neither an address nor a host name.")
    return name


def parse_worker_address(text: str) -> Address:
    """Check ``--worker-address IP``."""
    try:
        address = ipaddress.ip_address(text.strip().strip("[]"))
    except ValueError:
        raise ConfigError(
            f"--worker-address {text!r} is no IPv4 or IPv6 address; a name belongs into --worker."
        ) from None
    if address.is_multicast or address.is_unspecified:
        raise ConfigError(f"--worker-address {address} cannot be connected to.")
    return address


def parse_static_name(text: str) -> StaticName:
    """Check one ``--dns-static NAME=ADDRESS``."""
    name, equals, address = text.partition("=")
    if not equals:
        raise ConfigError(
            f"--dns-static {text!r} is not NAME=ADDRESS, such as printer.lan=192.0.2.7."
        )
    try:
        parsed = ipaddress.ip_address(address.strip("[] "))
    except ValueError:
        raise ConfigError(
            f"--dns-static {text!r}: {address!r} is no IPv4 or IPv6 address. "
            "Write NAME=ADDRESS, such as printer.lan=192.0.2.7."
        ) from None
    if getattr(parsed, "scope_id", None):
        raise ConfigError(f"--dns-static {text!r}: an answer cannot carry a zone; leave out the %.")
    try:
        ascii_name = name.strip().rstrip(".").encode("idna").decode("ascii").lower()
    except UnicodeError:
        ascii_name = ""
    if len(ascii_name) > 253 or not all(_LABEL.match(label) for label in ascii_name.split(".")):
        raise ConfigError(
            f"--dns-static {text!r}: {name!r} is no host name; write it as printer.lan."
        )
    return StaticName(ascii_name, parsed)


def parse_host_loopback(text: str) -> ipaddress.IPv4Address | None:
    """Check ``--host-loopback ADDRESS|none``."""
    if text.strip().lower() == "none":
        return None
    try:
        address = ipaddress.IPv4Address(text.strip())
    except ValueError:
        raise ConfigError(
            f"--host-loopback {text!r} is neither an IPv4 address nor `none`."
        ) from None
    if (
        address.is_loopback
        or address.is_multicast
        or address.is_unspecified
        or int(address) == 0xFFFFFFFF
    ):
        raise ConfigError(
            f"--host-loopback {address} never reaches the tunnel; give an ordinary address, such "
            f"as {DEFAULT_HOST_LOOPBACK}, or `none`."
        )
    return address


def read_token_file(path: Path, *, option: str = "--token-file") -> str:
    """The token in a file: its first line that is not empty or a comment, bare or ``name token``.

    The token is 1 to 4096 printable ASCII characters without spaces. No message ever repeats what
    the file holds.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_TOKEN_FILE + 1)
    except OSError as error:
        raise ConfigError(
            f"{option} {path}: {error.strerror}. Give a file that holds the worker's token."
        ) from None
    if len(data) > _MAX_TOKEN_FILE:
        raise ConfigError(f"{option} {path} is larger than 64 KiB: this is no token file.")
    for line in data.decode("utf-8", "replace").splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) > 2 or not _TOKEN.match(words[-1]):
            raise ConfigError(
                f"{option} {path}: its first line is neither a bare token nor `name token` "
                "(printable ASCII, no spaces)."
            )
        return words[-1]
    raise ConfigError(f"{option} {path} holds no token: write it on a line of its own.")


def _check_ca_file(path: Path) -> None:
    try:
        with open(path, "rb"):  # OpenSSL's own errors do not tell a directory from a bad file
            pass
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except OSError as error:  # that of OpenSSL is one, too
        why = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
        raise ConfigError(f"--ca-file {path}: {why}. Give a PEM file of certificates.") from None
