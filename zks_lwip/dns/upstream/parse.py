"""Which resolver, written as one argument: ``https://NAME/path@ADDRESS,...`` or ``tls://NAME@...``.

The addresses stand in the argument, so that no plain query is ever needed to find the resolver;
only for a few well-known names may they be left out. The certificate is verified for NAME.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from urllib.parse import urlsplit

from ...errors import ConfigError
from ...net.names import InvalidName, host_name, join_host_port, parse_address_port
from .server import Server
from .transports import TRANSPORTS

__all__ = [
    "DEFAULT_SERVERS",
    "WORKER",
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
_PATH = re.compile(r"/[\x21-\x7e]*\Z")
_TEMPLATE = "{?dns}"


def parse_server(text: str) -> Server:
    """Read the argument of ``--dns``.

    ``https://dns.example/dns-query@192.0.2.1,2001:db8::1``, ``tls://dns.example@192.0.2.1``. A
    path that ends in ``{?dns}`` (RFC 6570, as RFC 8484 has it) asks with GET.

    :raises ConfigError: it names no resolver that could be asked.
    """
    url, at, listed = text.partition("@")
    try:
        parts = urlsplit(url.removesuffix(_TEMPLATE))
        port = parts.port
        written = parts.hostname or ""
    except ValueError as error:
        raise ConfigError(f"{text}: {error}", "dns.servers") from error
    transport = TRANSPORTS.get(parts.scheme)
    if transport is None:
        known = " or ".join(f"{scheme}:// ({one.title})" for scheme, one in TRANSPORTS.items())
        raise ConfigError(
            f"{text}: it must begin with {known}, as in "
            "https://dns.example/dns-query@192.0.2.1; plain DNS is for `dns.forward` only",
            "dns.servers",
        )
    if parts.fragment:
        raise ConfigError(f"{text}: a resolver has no fragment (#{parts.fragment})", "dns.servers")
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    get = url.endswith(_TEMPLATE)
    if not transport.default_path:
        if path not in ("", "/") or get:
            raise ConfigError(
                f"{text}: {transport.title} has no path; write {parts.scheme}://NAME@ADDRESS",
                "dns.servers",
            )
        path = ""
    else:
        path = path or transport.default_path
        if not _PATH.match(path):
            raise ConfigError(
                f"{text}: the path has characters that a URL cannot have", "dns.servers"
            )
    if port == 0:
        raise ConfigError(f"{text}: port 0 cannot be asked", "dns.servers")
    host = _host(text, written)
    addresses = _addresses(text, host, listed, bool(at))
    port = port or transport.default_port
    return Server(
        scheme=parts.scheme,
        host=host,
        port=port,
        addresses=addresses,
        authority=join_host_port(host, None if port == transport.default_port else port),
        path=path,
        get=get,
    )


def _host(text: str, written: str) -> str:
    """Return the host that the certificate must be for: an address, or a name in ASCII."""
    try:
        return str(ipaddress.ip_address(written))
    except ValueError:
        pass  # a name, then
    try:
        return host_name(written)
    except InvalidName as error:
        raise ConfigError(
            f"{text}: {written!r} is not a host name ({error})", "dns.servers"
        ) from None


def _addresses(text: str, host: str, listed: str, given: bool) -> tuple[str, ...]:
    if given:
        try:
            found = [
                str(ipaddress.ip_address(one.strip().strip("[]"))) for one in listed.split(",")
            ]
        except ValueError as error:
            raise ConfigError(
                f"{text}: after the @ come IP addresses, with commas between: {error}",
                "dns.servers",
            ) from error
        return tuple(dict.fromkeys(found))
    with contextlib.suppress(ValueError):
        return (str(ipaddress.ip_address(host)),)
    if host in _WELL_KNOWN:
        return _WELL_KNOWN[host]
    raise ConfigError(
        f"{text}: say at which addresses {host} is (finding out would take a plain query): "
        f"{text}@ADDRESS[,ADDRESS...]",
        "dns.servers",
    )


DEFAULT_SERVERS = (
    parse_server("https://cloudflare-dns.com/dns-query"),
    parse_server("https://dns.quad9.net/dns-query"),
)
"""Cloudflare, and Quad9 when it fails."""


def parse_forward(text: str) -> tuple[str, str, int]:
    """Read ``DOMAIN=ADDRESS[:PORT]`` (``--dns-forward``).

    :returns: domain, address, port; of ``DOMAIN=worker`` the address is :data:`WORKER`, the port 0.
    :raises ConfigError: it is malformed.
    """
    domain, equals, target = text.partition("=")
    try:
        if not equals:
            raise ValueError("that names no domain and server")
        domain = host_name(domain.strip().strip("."))
        if target.strip().lower() == WORKER:
            return domain, WORKER, 0
        address, port = parse_address_port(target.strip(), 53)
        return domain, str(address), port
    except ValueError as error:
        raise ConfigError(
            f"{text}: {error}; write it as DOMAIN=ADDRESS[:PORT], as in "
            "corp.example=192.168.1.1, or as DOMAIN=worker",
            "dns.forward",
        ) from error
