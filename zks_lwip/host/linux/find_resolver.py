"""Find the system's resolver, systemd-resolved or resolvconf(8), and what a record has to keep."""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
from pathlib import Path

from ...net.netns import namespace_cookie
from ..programs import search_path
from ..resolv_conf import read_name_servers, read_resolv_conf

__all__ = ["find_name_servers", "find_resolver", "record_prefix", "record_wishes"]

# Of the network namespace that the machine started with (net/core/net_namespace.c).
_FIRST_COOKIE = 1
_UPLINKS = Path("/run/systemd/resolve/resolv.conf")
_ORDER = Path("/etc/resolvconf/interface-order")


def find_resolver(inode: int) -> str:
    """Return which resolver serves the namespace of this thread; only that of init has one.

    :param inode: of the namespace.
    :returns: ``resolved``, ``resolvconf``, or empty.
    """
    try:
        if os.stat("/proc/1/ns/net").st_ino != inode:
            return ""
    except (PermissionError, FileNotFoundError):
        # Process 1 is not shown to us: without CAP_SYS_PTRACE, or by ProtectProc= of a service.
        if namespace_cookie() != _FIRST_COOKIE:
            return ""
    resolvectl = shutil.which("resolvectl", path=search_path())
    if resolvectl and Path("/run/systemd/resolve/io.systemd.Resolve").exists():
        return "resolved"
    resolvconf = shutil.which("resolvconf", path=search_path())
    if resolvconf and Path(resolvconf).resolve().name != "resolvectl":
        return "resolvconf"
    return ""


def find_name_servers(
    used: Path = Path("/etc/resolv.conf"), uplinks: Path = _UPLINKS
) -> tuple[tuple[str, ...], bool]:
    """Return the IPv4 name servers that programs ask, or that one on loopback asks in their place.

    :param used: what programs read.
    :param uplinks: what systemd-resolved says of the servers that it asks.
    :returns: their addresses, but for loopback's; and whether programs ask one on loopback.
    """
    asked = [_address(text) for text in read_name_servers(used)]
    asks_itself = any(address is not None and address.is_loopback for address in asked)
    if asks_itself:
        asked += [_address(text) for text in read_name_servers(uplinks)]
    outside = (str(each) for each in asked if each is not None and not each.is_loopback)
    return tuple(dict.fromkeys(outside)), asks_itself


def _address(text: str) -> ipaddress.IPv4Address | None:
    try:
        return ipaddress.IPv4Address(text)
    except ValueError:
        return None


def record_wishes(resolver: str) -> str | None:
    """Return the lines of resolv.conf(5) that resolvconf's record has to keep, None for none.

    systemd-resolved keeps them by itself; and what nothing replaces need not be kept.
    """
    return ("\n".join(read_resolv_conf().lines()) or None) if resolver == "resolvconf" else None


def record_prefix() -> str:
    """Return what names of Debian's resolvconf begin with that come first in its order."""
    try:
        text = _ORDER.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(r"^([A-Za-z0-9-]+)\*$", text, re.MULTILINE)
    return f"{found[1]}." if found else ""
