"""Which resolver, written as one argument: ``https://NAME/path@ADDRESS,...`` or ``tls://NAME@...``.

The addresses stand in the argument, so that no plain query is ever needed to find the resolver;
only for a few well-known names may they be left out. The certificate is verified for NAME.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from zks_lwip.errors import ConfigError

__all__ = [
    "DEFAULT_SERVERS",
    "WORKER",
    "Server",
    "parse_address_port",
    "parse_forward",
    "parse_server",
]

WORKER = "worker"
"""What stands for an address in ``--dns-forward``: the worker asks its own name servers."""

_WELL_KNOWN = {
    "cloudflare-dns.com": ("1.1.1.1", "1.0.0.1", "2606:4700:4700::1111", "2606:4700:4700::1001"),
    "one.one.one.one": ("1.1.1.1", "1.0.0.1", "2606:4700:4700::1111", "2606:4700:4700::1001"),
    "dns.quad9.net": ("9.9.9.9", "149.112.112.112", "2620:fe::fe", "2620:fe::9"),
    "dns.google": ("8.8.8.8", "8.8.4.4", "2001:4860:4860::8888", "2001:4860:4860::8844"),
}
_HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\Z")
_PATH = re.compile(r"/[\x21-\x7e]*\Z")
_TEMPLATE = "{?dns}"


@dataclass(frozen=True, slots=True)
class Server:
    """A resolver that is reached over TLS."""

    kind: str
    """"https" (RFC 8484) or "tls" (RFC 7858)."""
    host: str
    """The name or address that its certificate must be for."""
    port: int
    addresses: tuple[str, ...]
    """Where to connect: IP literals, tried in this order."""
    path: str = ""
    """What is asked for, with its query part; empty for "tls"."""
    get: bool = False
    """Ask with GET, which a cache in between may answer, instead of POST."""

    @property
    def authority(self) -> str:
        """Host and, where it is not the usual one, port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = 443 if self.kind == "https" else 853
        return host if self.port == usual else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.kind}://{self.authority}{self.path}"


def parse_server(text: str) -> Server:
    """Read the argument of ``--dns``. Raises :class:`~zks_lwip.errors.ConfigError`.

    ``https://dns.example/dns-query@192.0.2.1,2001:db8::1``, ``tls://dns.example@192.0.2.1``. A
    path that ends in ``{?dns}`` (RFC 6570, as RFC 8484 has it) asks with GET.
    """
    url, at, listed = text.partition("@")
    try:
        parts = urlsplit(url.removesuffix(_TEMPLATE))
        port = parts.port
        host = (parts.hostname or "").rstrip(".")
    except ValueError as error:
        raise ConfigError(f"--dns {text}: {error}") from error
    if parts.scheme not in ("https", "tls"):
        raise ConfigError(
            f"--dns {text}: it must begin with https:// (DNS over HTTPS) or tls:// (DNS over TLS), "
            "as in https://dns.example/dns-query@192.0.2.1; plain DNS is for --dns-forward only"
        )
    if parts.fragment:
        raise ConfigError(f"--dns {text}: a resolver has no fragment (#{parts.fragment})")
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    if parts.scheme == "tls" and (path not in ("", "/") or url.endswith(_TEMPLATE)):
        raise ConfigError(f"--dns {text}: DNS over TLS has no path; write tls://NAME@ADDRESS")
    if parts.scheme == "https":
        path = path or "/dns-query"
        if not _PATH.match(path):
            raise ConfigError(f"--dns {text}: the path has characters that a URL cannot have")
    if port == 0:
        raise ConfigError(f"--dns {text}: port 0 cannot be asked")
    addresses = _addresses(text, host, listed, bool(at))
    return Server(
        kind=parts.scheme,
        host=host,
        port=port or (443 if parts.scheme == "https" else 853),
        addresses=addresses,
        path="" if parts.scheme == "tls" else path,
        get=url.endswith(_TEMPLATE),
    )


def _addresses(text: str, host: str, listed: str, given: bool) -> tuple[str, ...]:
    try:
        literal = str(ipaddress.ip_address(host))
    except ValueError:
        literal = ""
        if not _HOST.match(host) or len(host) > 253:
            raise ConfigError(f"--dns {text}: {host!r} is not a host name") from None
    if given:
        try:
            found = [
                str(ipaddress.ip_address(one.strip().strip("[]"))) for one in listed.split(",")
            ]
        except ValueError as error:
            raise ConfigError(
                f"--dns {text}: after the @ come IP addresses, with commas between: {error}"
            ) from error
        return tuple(dict.fromkeys(found))
    if literal:
        return (literal,)
    if host in _WELL_KNOWN:
        return _WELL_KNOWN[host]
    raise ConfigError(
        f"--dns {text}: say at which addresses {host} is (finding out would take a plain query): "
        f"{text}@ADDRESS[,ADDRESS...]"
    )


DEFAULT_SERVERS = (
    parse_server("https://cloudflare-dns.com/dns-query"),
    parse_server("https://dns.quad9.net/dns-query"),
)
"""Cloudflare, and Quad9 when it fails."""


def parse_address_port(text: str, default: int = 53) -> tuple[str, int]:
    """Read ``ADDRESS``, ``ADDRESS:PORT`` or ``[IPV6]:PORT``. Raises :class:`ValueError`."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r} is not an address")
        port = rest[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    else:
        host, port = text, ""
    number = int(port) if port else default
    if not 0 < number < 65536:
        raise ValueError(f"{number} is not a port")
    return str(ipaddress.ip_address(host)), number


def parse_forward(text: str) -> tuple[str, str, int]:
    """Read ``DOMAIN=ADDRESS[:PORT]`` (``--dns-forward``): domain, address, port.

    Of ``DOMAIN=worker`` the address is :data:`WORKER`, and the port 0. Raises
    :class:`~zks_lwip.errors.ConfigError`.
    """
    domain, equals, target = text.partition("=")
    domain = domain.strip().strip(".").lower()
    try:
        if not equals or not _HOST.match(domain):
            raise ValueError("that names no domain and server")
        if target.strip().lower() == WORKER:
            return domain, WORKER, 0
        return domain, *parse_address_port(target.strip())
    except ValueError as error:
        raise ConfigError(
            f"--dns-forward {text}: {error}; write it as DOMAIN=ADDRESS[:PORT], as in "
            "corp.example=192.168.1.1, or as DOMAIN=worker"
        ) from error
