"""What is changed on a host, as data: each step is one command that one could type.

A step says what is to be there, not how it is found: doing it twice is harmless, and so is undoing
it twice. Steps are equal when they ask for the same; they go to and from JSON for the journal.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

__all__ = [
    "PROTOCOL",
    "SYSCTLS",
    "TABLE_NAME",
    "Address",
    "LinkDns",
    "LinkUp",
    "Nftables",
    "Resolvconf",
    "Route",
    "Rule",
    "Step",
    "Sysctl",
    "Tun",
    "from_json",
    "to_json",
]

PROTOCOL = 122
"""Who made a route or a rule (rtnetlink's "protocol"): marks ours, for every look at the host."""
TABLE_NAME = "zks_lwip"
"""Our nftables table, of family inet."""
SYSCTLS = (
    "net.ipv4.conf.all.src_valid_mark",
    "net.ipv4.conf.all.rp_filter",
    "net.ipv4.tcp_fwmark_accept",
)
"""Settings that a step may change for the host as a whole."""
_RECORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Step:
    """One change. ``vanishes``: it goes with the TUN, by itself, and is not undone at the end."""

    vanishes: ClassVar[bool] = False

    def commands(self) -> list[str]:
        """What one would type for it."""
        raise NotImplementedError

    def undo_commands(self) -> list[str]:
        """What one would type to take it back; empty where it only ever vanishes with the TUN."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Nftables(Step):
    """Our nftables table, loaded as one transaction."""

    ruleset: str

    def commands(self) -> list[str]:
        return [f"nft -f - <<'END'\n{self.ruleset}END"]

    def undo_commands(self) -> list[str]:
        return [f"nft delete table inet {TABLE_NAME}"]


@dataclass(frozen=True, slots=True)
class Sysctl(Step):
    """A kernel setting; ``previous`` is what it was before we ever touched it."""

    name: str
    value: str
    previous: str

    def commands(self) -> list[str]:
        return [f"sysctl -w {self.name}={self.value}"]

    def undo_commands(self) -> list[str]:
        return [f"sysctl -w {self.name}={self.previous}"]


@dataclass(frozen=True, slots=True)
class Route(Step):
    """A default route in our table: through an interface, or (``device`` None) unreachable."""

    family: int
    table: int
    metric: int
    device: str | None = None

    def _words(self) -> str:
        target = "unreachable default" if self.device is None else f"default dev {self.device}"
        if self.device is not None and self.family == 4:
            # Of scope link, which is ip(8)'s choice, it would count as a way to any gateway: who
            # adds a default route without naming the interface would get the TUN as uplink.
            target += " scope global"
        return f"{target} table {self.table} metric {self.metric} proto {PROTOCOL}"

    def commands(self) -> list[str]:
        return [f"ip -{self.family} route replace {self._words()}"]

    def undo_commands(self) -> list[str]:
        return [f"ip -{self.family} route del {self._words()}"]


@dataclass(frozen=True, slots=True)
class Rule(Step):
    """A rule of policy routing; ``table`` None makes it say unreachable."""

    family: int
    priority: int
    table: int | None
    fwmark: int | None = None
    to: str | None = None
    uid: int | None = None
    ipproto: str | None = None
    sport: int | None = None
    dport: int | None = None
    source: str | None = None
    iif: str | None = None
    """``lo``: only what this machine sends itself, nothing that it forwards."""

    def _words(self) -> str:
        words = [f"priority {self.priority}"]
        if self.iif is not None:
            words.append(f"iif {self.iif}")
        if self.source is not None:
            words.append(f"from {self.source}")
        if self.to is not None:
            words.append(f"to {self.to}")
        if self.fwmark is not None:
            words.append(f"fwmark {self.fwmark:#x}")
        if self.uid is not None:
            words.append(f"uidrange {self.uid}-{self.uid}")
        for name in ("ipproto", "sport", "dport"):
            if (value := getattr(self, name)) is not None:
                words.append(f"{name} {value}")
        action = {None: "unreachable", 254: "lookup main"}.get(self.table, f"lookup {self.table}")
        return " ".join([*words, action, f"protocol {PROTOCOL}"])

    def commands(self) -> list[str]:
        return [f"ip -{self.family} rule add {self._words()}"]

    def undo_commands(self) -> list[str]:
        return [f"ip -{self.family} rule del {self._words()}"]


@dataclass(frozen=True, slots=True)
class Tun(Step):
    """The TUN device; it is there for as long as a process holds it."""

    name: str
    mtu: int
    queue_length: int
    vnet_hdr: bool
    node: str

    def commands(self) -> list[str]:
        header = " vnet_hdr" if self.vnet_hdr else ""
        return [
            f"ip tuntap add dev {self.name} mode tun{header}",
            f"ip link set dev {self.name} mtu {self.mtu} txqueuelen {self.queue_length}",
        ]

    def undo_commands(self) -> list[str]:
        return [f"ip link del dev {self.name}"]


@dataclass(frozen=True, slots=True)
class LinkUp(Step):
    """The TUN up, without a link-local address and router solicitations of its own."""

    vanishes: ClassVar[bool] = True
    device: str
    ipv6: bool

    def settings(self) -> list[tuple[str, str]]:
        """Sysctls of the interface, which vanish with it."""
        names = ("disable_ipv6", "0"), ("accept_ra", "0"), ("addr_gen_mode", "1")
        start = f"net.ipv6.conf.{self.device}."
        return [(start + name, value) for name, value in names] if self.ipv6 else []

    def commands(self) -> list[str]:
        settings = [f"sysctl -w {name}={value}" for name, value in self.settings()]
        return [*settings, f"ip link set dev {self.device} up"]

    def undo_commands(self) -> list[str]:
        return []


@dataclass(frozen=True, slots=True)
class Address(Step):
    """An address of the TUN, such as ``198.18.0.1/30``."""

    vanishes: ClassVar[bool] = True
    device: str
    interface: str

    def commands(self) -> list[str]:
        nodad = " nodad" if ":" in self.interface else ""
        return [f"ip address add {self.interface} dev {self.device}{nodad}"]

    def undo_commands(self) -> list[str]:
        return []


@dataclass(frozen=True, slots=True)
class LinkDns(Step):
    """systemd-resolved asks this server, over the TUN, for every name (``~.``)."""

    vanishes: ClassVar[bool] = True
    device: str
    server: str

    def commands(self) -> list[str]:
        return [
            f"resolvectl dns {self.device} {self.server}",
            f"resolvectl domain {self.device} {shlex.quote('~.')}",
            f"resolvectl default-route {self.device} true",
        ]

    def undo_commands(self) -> list[str]:
        return [f"resolvectl revert {self.device}"]


@dataclass(frozen=True, slots=True)
class Resolvconf(Step):
    """resolvconf(8) puts this server first into /etc/resolv.conf; openresolv, it alone.

    Alone means without the search domains and options of the others' records: ``wishes`` are the
    host's (resolv_conf.py), one line each.
    """

    record: str
    server: str
    wishes: str | None = None

    @property
    def text(self) -> str:
        """The record."""
        return "\n".join([f"nameserver {self.server}", *(self.wishes or "").splitlines()]) + "\n"

    def commands(self) -> list[str]:
        lines = shlex.join(self.text.splitlines())
        return [f"printf '%s\\n' {lines} | resolvconf -a {self.record} -m 0 -x"]

    def undo_commands(self) -> list[str]:
        return [f"resolvconf -d {self.record} -f"]


_KINDS: dict[str, type[Step]] = {
    kind.__name__: kind
    for kind in (Nftables, Sysctl, Route, Rule, Tun, LinkUp, Address, LinkDns, Resolvconf)
}


def to_json(step: Step) -> dict[str, Any]:
    """A step as what :func:`json.dumps` takes."""
    values = asdict(step)
    return {"kind": type(step).__name__} | {k: v for k, v in values.items() if v is not None}


def from_json(data: Any) -> Step:
    """The step that :func:`to_json` gave.

    :raises ValueError: it is no such thing.
    """
    if not isinstance(data, dict) or not isinstance(data.get("kind"), str):
        raise ValueError("no step")
    if data["kind"] not in _KINDS:
        raise ValueError(f"no step: {data['kind']!r}")
    kind = _KINDS[data["kind"]]
    values = {name: value for name, value in data.items() if name != "kind"}
    types = {field.name: str(field.type) for field in fields(kind)}
    for name, value in values.items():
        if name not in types or type(value).__name__ not in types[name].split(" | "):
            raise ValueError(f"no {kind.__name__}: {data!r}")
    absent = {name: None for name, kinds in types.items() if kinds.endswith(" | None")}
    try:
        step = kind(**{**absent, **values})
    except TypeError as error:
        raise ValueError(f"no {kind.__name__}: {error}") from None
    # An instance that has become another user still holds its journal, and root undoes it.
    if isinstance(step, Sysctl) and not _is_sysctl(step):
        raise ValueError(f"no Sysctl of ours: {data!r}")
    if isinstance(step, Resolvconf) and not _RECORD.fullmatch(step.record):
        raise ValueError(f"no Resolvconf of ours: {data!r}")
    return step


def _is_sysctl(step: Sysctl) -> bool:
    return step.name in SYSCTLS and step.value.isdigit() and step.previous.isdigit()


def render(steps: Iterable[Step]) -> list[str]:
    """The commands of several steps."""
    return [command for step in steps for command in step.commands()]
