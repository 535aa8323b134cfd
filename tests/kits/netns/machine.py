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
_COMMANDS = {
    "links": "ip -o link",
    "addresses": "ip -o addr",
    "routes": "ip -4 route show table all",
    "routes6": "ip -6 route show table all",
    "rules": "ip -4 rule",
    "rules6": "ip -6 rule",
    "nftables": "nft list ruleset",
    "sysctls": "cd /proc/sys/net; "
    "grep -rs . ipv4/conf ipv6/conf ipv4/ip_forward ipv4/ping_group_range || :",
}
_END = "\036"
"""Between what two commands print."""
_SCRIPT = "\n".join(
    f"{command} || echo \"(exit code $?)\"; printf '\\036'" for command in _COMMANDS.values()
)


def _commands(prefix: list[str]) -> dict[str, str]:
    """What each command prints: one shell for all, since pictures are taken of each test."""
    argv = [*prefix, "sh", "-c", _SCRIPT]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    *texts, rest = done.stdout.split(_END)
    assert done.returncode == 0 and not rest, done.stderr
    return dict(zip(_COMMANDS, texts, strict=True))


def _sysctls(text: str) -> str:
    return "\n".join(
        sorted(x for x in text.splitlines() if not any(n in x for n in _NOT_CONFIGURATION))
    )


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
    found = {name: _VOLATILE.sub("", text) for name, text in _commands(prefix).items()}
    found["links"] = _STATE.sub("", found["links"])
    found["sysctls"] = _sysctls(found["sysctls"])
    return found | {"resolv.conf": _resolver()}


def difference(before: dict[str, str], after: dict[str, str]) -> str:
    """A unified diff of two pictures; empty when they are equal."""
    parts = []
    for key, old in before.items():
        if old != after[key]:
            new = after[key].splitlines()
            lines = difflib.unified_diff(old.splitlines(), new, key, key, n=0, lineterm="")
            parts.append("\n".join(lines))
    return "\n".join(parts)
