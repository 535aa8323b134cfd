"""A picture of a network namespace's configuration, to compare before and after."""

from __future__ import annotations

import difflib
import os
import re
import subprocess
from pathlib import Path

_VOLATILE = re.compile(
    r" (expires|preferred_lft|valid_lft) -?\w+| handle \d+|packets \d+ bytes \d+"
)
_STATE = re.compile(r" state \w+| qdisc \w+|NO-CARRIER,|,LOWER_UP|,M-DOWN| @if\d+")
_NOT_CONFIGURATION = ("stable_secret",)


def _command(*argv: str, prefix: list[str]) -> str:
    done = subprocess.run([*prefix, *argv], capture_output=True, text=True, timeout=60)
    text = done.stdout if done.returncode == 0 else f"({argv[0]}: exit code {done.returncode})"
    return _VOLATILE.sub("", text)


def _sysctls(prefix: list[str]) -> str:
    folders = "ipv4/conf ipv6/conf ipv4/ip_forward ipv4/ping_group_range"
    script = f"cd /proc/sys/net && grep -rs . {folders}"
    lines = _command("sh", "-c", f"({script}) || true", prefix=prefix).splitlines()
    return "\n".join(sorted(x for x in lines if not any(n in x for n in _NOT_CONFIGURATION)))


def _resolver() -> str:
    path = Path("/etc/resolv.conf")
    link = os.readlink(path) if path.is_symlink() else "a file"
    try:
        return f"{link}\n{path.read_text()}"
    except OSError as error:
        return f"{link}\n{error}"


def picture(net: str | None = None) -> dict[str, str]:
    """Links, addresses, routes of all tables, rules, nftables, sysctls and resolv.conf.

    ``net`` is the path of a network namespace; without it, the caller's own.
    """
    prefix = ["nsenter", f"--net={net}", "--"] if net else []
    return {
        "links": _STATE.sub("", _command("ip", "-o", "link", prefix=prefix)),
        "addresses": _command("ip", "-o", "addr", prefix=prefix),
        "routes": _command("ip", "-4", "route", "show", "table", "all", prefix=prefix),
        "routes6": _command("ip", "-6", "route", "show", "table", "all", prefix=prefix),
        "rules": _command("ip", "-4", "rule", prefix=prefix),
        "rules6": _command("ip", "-6", "rule", prefix=prefix),
        "nftables": _command("nft", "list", "ruleset", prefix=prefix),
        "sysctls": _sysctls(prefix),
        "resolv.conf": _resolver(),
    }


def difference(before: dict[str, str], after: dict[str, str]) -> str:
    """A unified diff of two pictures; empty when they are equal."""
    parts = []
    for key, old in before.items():
        if old != after[key]:
            new = after[key].splitlines()
            lines = difflib.unified_diff(old.splitlines(), new, key, key, n=0, lineterm="")
            parts.append("\n".join(lines))
    return "\n".join(parts)
