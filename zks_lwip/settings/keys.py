"""Which keys a file of settings may have: those of each command, and what their values are.

A key is the name of a command's flag, with underscores: ``dns_via`` is ``--dns-via``. A new flag
needs its line here; a test compares both.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["CLIENTS", "COMMANDS", "FILE_ONLY", "SHARED", "Key", "Kind"]


class Kind(enum.Enum):
    """What a value has to be; the value says it to a user."""

    SWITCH = "true or false"
    INTEGER = "an integer"
    NUMBER = "a number"
    TEXT = "a string"
    PATH = "a string (a path)"
    MARK = "an integer or a string"


@dataclass(frozen=True, slots=True)
class Key:
    """What the value of one key has to be."""

    kind: Kind
    many: bool = False
    """An array of them is possible, too."""
    choices: tuple[str, ...] = ()
    """What a string may be; empty: any."""


_SWITCH, _INTEGER, _NUMBER = Key(Kind.SWITCH), Key(Kind.INTEGER), Key(Kind.NUMBER)
_TEXT, _TEXTS = Key(Kind.TEXT), Key(Kind.TEXT, many=True)
_PATH, _PATHS = Key(Kind.PATH), Key(Kind.PATH, many=True)


def _one_of(*choices: str) -> Key:
    return Key(Kind.TEXT, choices=choices)


_ENDPOINTS = {
    "worker": _TEXTS,
    "worker_address": _TEXTS,
    "token": _TEXTS,
    "token_file": _PATHS,
    "ca_file": _PATH,
    "plaintext": _SWITCH,
    "protocol": _one_of("v2", "v1"),
}
_TUNNEL = {
    **_ENDPOINTS,
    "max_flows": _INTEGER,
    "max_memory": _INTEGER,
    "channels": _INTEGER,
    "grace": _NUMBER,
    "resume": _INTEGER,
    "fast_open": _SWITCH,
    "stats": _SWITCH,
    "metrics": _TEXT,
    "verbose": _INTEGER,
    "log_format": _one_of("text", "json"),
}
_BOOTSTRAP = {"dns": _TEXTS, "dns_forward": _TEXTS, "dns_static": _TEXTS}
_CAPTURE = {
    "tun": _TEXT,
    "mtu": _INTEGER,
    "ipv6": _one_of("auto", "tunnel", "block"),
    "icmp": _one_of("tunnel", "reply", "off"),
    **_BOOTSTRAP,
    "dns_via": _one_of("auto", "direct", "tunnel", "worker"),
    "dns_block": _PATHS,
    "dot": _one_of("allow", "block"),
    "fast_connect": _SWITCH,
    "host_loopback": _TEXT,
}
_HOST = {
    "tun_fd": _INTEGER,
    "netns": _TEXT,
    "kill_switch": _one_of("strict", "route", "off"),
    "always_on": _SWITCH,
    "lan": _one_of("allow", "block"),
    "bypass": _TEXTS,
    "only": _TEXTS,
    "forward": _SWITCH,
    "allow_inbound": Key(Kind.INTEGER, many=True),
    "mark": Key(Kind.MARK),
    "user": _TEXT,
    "control_group": _TEXT,
    "allow_exclude": _TEXTS,
    "yes": _SWITCH,
    "dry_run": _SWITCH,
}
_WORKER = {
    "listen": _TEXTS,
    "socket_mode": _TEXT,
    "token_file": _PATH,
    "tls_cert": _PATH,
    "tls_key": _PATH,
    "allow": _TEXTS,
    "resolver": _TEXTS,
    "max_streams": _INTEGER,
    "resume": _INTEGER,
    "processes": _INTEGER,
    "session_prefix": _TEXT,
    "allow_origin": _TEXTS,
    "trusted_proxy": _TEXTS,
    "access_log": _PATH,
    "log_targets": _SWITCH,
    "metrics": _TEXT,
    "verbose": _INTEGER,
    "log_format": _one_of("text", "json"),
}

COMMANDS: Mapping[str, Mapping[str, Key]] = {
    "connect": {**_TUNNEL, **_CAPTURE, **_HOST},
    "run": {"publish": _TEXTS, "timeout": _NUMBER, **_TUNNEL, **_CAPTURE},
    "doctor": {**_ENDPOINTS, **_BOOTSTRAP, "netns": _TEXT, "download": _TEXT, "json": _SWITCH},
    "proxy": {"listen": _TEXT, "password_file": _PATH, **_TUNNEL},
    "worker": _WORKER,
}
"""The keys of each command, in a section of its name."""

CLIENTS = ("connect", "run", "proxy", "doctor")
"""The commands that what stands outside of the sections is for."""

SHARED: Mapping[str, Key] = {
    key: what for command in CLIENTS for key, what in COMMANDS[command].items()
}
"""The keys outside of the sections: each command of :data:`CLIENTS` takes those that it knows."""

FILE_ONLY = frozenset({"token"})
"""Keys that are no flags: a list of processes would show them."""
