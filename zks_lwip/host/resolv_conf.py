"""What the host's resolv.conf(5) says besides its name servers, and which of it we keep.

How a name is looked up (``search``, ``ndots`` …) is the host's own wish, whichever server answers;
where /etc/resolv.conf is replaced, it goes on to hold. What is tuned to the servers that are
replaced does not: ``timeout`` and ``attempts`` of a fast local resolver would give up before an
answer through the tunnel can come, ``rotate``, ``use-vc`` and ``single-request`` have no object.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from .._util import open_file

__all__ = ["ResolvConf", "parse_resolv_conf", "read_name_servers", "read_resolv_conf"]

# trust-ad: the AD bit comes from a resolver that is asked over TLS; that of plain name servers, the
# worker's and those of --dns-forward, is cleared (dns/resolver.py).
_KEPT = ("edns0", "inet6", "no-aaaa", "no-tld-query", "trust-ad")
# glibc takes 15 at most (RES_MAXNDOTS).
_NDOTS = re.compile(r"ndots:\d{1,2}")
_DOMAIN = re.compile(r"[A-Za-z0-9._-]{1,254}")
# glibc has no limit; musl takes 255 bytes. A hostile DHCP server may send any number.
_MAX_DOMAINS = 32
# No resolver reads more lines than that holds.
_MAX_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class ResolvConf:
    """The host's wishes that are kept."""

    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def text(self, nameserver: str) -> str:
        """Return a resolv.conf with that name server. ``edns0`` lets answers exceed 512 bytes."""
        options = tuple(dict.fromkeys(("edns0", *self.options)))
        return (
            "\n".join([f"nameserver {nameserver}", *replace(self, options=options).lines()]) + "\n"
        )

    def lines(self) -> list[str]:
        """Return the same wishes as lines, without a name server; none for none."""
        found = {"search": self.search, "options": self.options}
        return [f"{keyword} {' '.join(values)}" for keyword, values in found.items() if values]


def parse_resolv_conf(text: str) -> ResolvConf:
    """Read a resolv.conf; what is malformed or not to be kept is left out."""
    search: list[str] = []
    options: dict[str, None] = {}
    for line in text.splitlines():
        keyword, *values = line.split() or [""]
        if line[:1].isspace():
            continue  # as glibc: a keyword is at the beginning of its line
        if keyword in ("search", "domain"):  # the last of them holds
            search = values[:1] if keyword == "domain" else values[:_MAX_DOMAINS]
        elif keyword == "options":
            options |= dict.fromkeys(v for v in values if v in _KEPT or _NDOTS.fullmatch(v))
    return ResolvConf(tuple(name for name in search if _DOMAIN.fullmatch(name)), tuple(options))


def read_resolv_conf(path: Path = Path("/etc/resolv.conf")) -> ResolvConf:
    """Read the host's; one that is missing, or cannot be read, wishes nothing."""
    return parse_resolv_conf(_read(path))


def read_name_servers(path: Path) -> list[str]:
    """Return the name servers of a resolv.conf as they stand there, at most three as for glibc."""
    lines = [line.split() for line in _read(path).splitlines() if not line[:1].isspace()]
    return [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"][:3]


def _read(path: Path) -> str:
    try:
        with open_file(path) as file:
            return file.read(_MAX_BYTES).decode("ascii", "replace")
    except OSError:
        return ""
