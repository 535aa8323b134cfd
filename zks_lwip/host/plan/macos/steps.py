"""The kinds of step on a Mac, each one class: commands, effect, undo and presence side by side.

They act by the system's own programs, with the arguments that are shown for them: pfctl(8),
route(8), ifconfig(8), scutil(8).
"""

from __future__ import annotations

import ipaddress
import re
import shlex
from dataclasses import dataclass
from typing import ClassVar

from ....errors import HostError
from ..step import Step, kind
from ..system import Programs
from .pf import ANCHOR
from .state import MacosState, RouteEntry
from .system import MacosSystem

__all__ = [
    "DNS_KEY",
    "TOKEN_NOTE",
    "DirectRoute",
    "PfAnchor",
    "PfEnable",
    "RefusingRoute",
    "ScutilDns",
    "TunRoute",
    "Utun",
    "UtunAddress",
    "UtunUp",
    "ask_anchor",
]

DNS_KEY = "State:/Network/Service/zks_lwip/DNS"
"""Our record in the store of configd(8)."""
TOKEN_NOTE = "pf.token"
"""The note that holds what ``pfctl -E`` gave; before it has, ``asked`` and the tokens that others'
``pfctl -E`` had been given until then."""

_TOKEN = re.compile(r"Token : ([0-9]+)")
_GIVEN = re.compile(r"^\s*[0-9]+\s+pfctl\s+([0-9]+)\b", re.MULTILINE)
"""A token of ``pfctl -s References``, behind id and name of the process that was given it."""
_ASKED = "asked"
_NO_ANCHOR = re.compile("DIOCGETRULES: Invalid argument|does not exist")
_ROUTE_ERROR = re.compile(r"^route: (.+)$", re.MULTILINE)


def ask_anchor(system: Programs, *arguments: str) -> str:
    """Run pfctl(8) on our anchor; one that is not there, as before the first load, has no rules.

    :raises HostError: it fails for another reason.
    """
    try:
        return system.run(["pfctl", *arguments])
    except HostError as error:
        if not _NO_ANCHOR.search(str(error)):
            raise
        return ""


@kind
@dataclass(frozen=True, slots=True)
class PfAnchor(Step):
    """The rules of our anchor, loaded as one transaction."""

    paused: ClassVar[bool] = True
    atomic: ClassVar[bool] = True
    ruleset: str
    """What pfctl(8) loads; empty where the step is only to be undone."""

    def commands(self) -> list[str]:
        return [f"pfctl -q -a {ANCHOR} -f - <<'END'\n{self.ruleset}END"]

    def undo_commands(self) -> list[str]:
        return [f"pfctl -q -a {ANCHOR} -F {what}" for what in ("rules", "Tables")]

    def do(self, system: MacosSystem) -> None:
        system.run(["pfctl", "-q", "-a", ANCHOR, "-f", "-"], self.ruleset)

    def undo(self, system: MacosSystem) -> None:
        for what in ("rules", "Tables"):
            ask_anchor(system, "-q", "-a", ANCHOR, "-F", what)

    def is_there(self, view: MacosState) -> bool:
        return view.pf_loaded

    @property
    def closes(self) -> bool:
        return True

    def recorded(self) -> PfAnchor:
        return PfAnchor("")  # its name is enough to undo it

    def replaces(self, other: Step) -> bool:
        return isinstance(other, PfAnchor)


def _given(system: MacosSystem) -> list[str]:
    """Return the tokens that keep pf enabled, of those that ``pfctl -E`` gave."""
    return _GIVEN.findall(system.run(["pfctl", "-s", "References"]))


@kind
@dataclass(frozen=True, slots=True)
class PfEnable(Step):
    """pf enabled for as long as we hold a token; others' tokens keep it so when ours is released.

    The token outlives the process, and is kept beside the journal.
    """

    def commands(self) -> list[str]:
        return ["pfctl -E"]

    def undo_commands(self) -> list[str]:
        return ["pfctl -X TOKEN"]

    def do(self, system: MacosSystem) -> None:
        if self._token(system) and "Status: Enabled" in system.run(["pfctl", "-s", "info"]):
            return
        # First, so that a token is found also where this process dies before it has noted it.
        system.write_note(TOKEN_NOTE, " ".join([_ASKED, *_given(system)]))
        said = system.run(["pfctl", "-E"])
        found = _TOKEN.search(said)
        if found is None:
            raise HostError(f"`pfctl -E` gave no token, by which pf could be left again: {said!r}")
        system.write_note(TOKEN_NOTE, found[1])

    def undo(self, system: MacosSystem) -> None:
        if token := self._token(system):
            system.run(["pfctl", "-X", token])
        system.remove_note(TOKEN_NOTE)

    @staticmethod
    def _token(system: MacosSystem) -> str | None:
        """Return our token; None: there is none, or ``pfctl -d`` of another program has ended it.

        Where it was asked for and not noted, it is the one that was given since, and none where
        that is not clear: another one's would open what that one holds closed.
        """
        words = (system.read_note(TOKEN_NOTE) or "").split()
        if not words:
            return None
        given = _given(system)
        if words[0] != _ASKED:
            return words[0] if words[0] in given else None
        since = [token for token in given if token not in words]
        if len(since) != 1:
            return None
        system.write_note(TOKEN_NOTE, since[0])
        return since[0]

    def is_there(self, view: MacosState) -> bool:
        return view.pf_enabled and view.pf_token

    def remains(self, view: MacosState) -> bool:
        return view.pf_noted

    @property
    def closes(self) -> bool:
        return True


@kind
@dataclass(frozen=True, slots=True)
class Utun(Step):
    """The TUN device; it is there for as long as a process holds it, so a dead one leaves none."""

    name: str
    mtu: int
    """Bytes."""

    def commands(self) -> list[str]:
        # There is no program that makes one; it takes a process that holds it.
        return [f"ifconfig {self.name} mtu {self.mtu}  # opened by this process"]

    def undo_commands(self) -> list[str]:
        return [f": {self.name} vanishes when this process closes it"]

    def do(self, system: MacosSystem) -> None:
        system.open_tun(self.name, mtu=self.mtu)

    def undo(self, system: MacosSystem) -> None:
        system.close_tun()


@dataclass(frozen=True, slots=True)
class _OfUtun(Step):
    """What goes with the TUN, by itself."""

    vanishes: ClassVar[bool] = True
    device: str

    def argv(self) -> list[str]:
        """Return the program that does it, with its arguments."""
        raise NotImplementedError

    def commands(self) -> list[str]:
        return [shlex.join(self.argv())]

    def undo_commands(self) -> list[str]:
        return []

    def do(self, system: MacosSystem) -> None:
        system.run(self.argv())

    def undo(self, system: MacosSystem) -> None:
        """Leave it to the end of the TUN."""

    def remains(self, view: MacosState) -> bool:
        return False


@kind
@dataclass(frozen=True, slots=True)
class UtunAddress(_OfUtun):
    """An address of the TUN, such as ``198.18.0.1/30``."""

    interface: str
    peer: str
    """Of IPv4, the address at the other end; else empty."""

    def argv(self) -> list[str]:
        family = "inet" if ipaddress.ip_interface(self.interface).version == 4 else "inet6"
        peer = [self.peer] if self.peer else []
        return ["ifconfig", self.device, family, self.interface, *peer, "alias"]

    def is_there(self, view: MacosState) -> bool:
        return view.has_address(self.device, self.interface)


@kind
@dataclass(frozen=True, slots=True)
class UtunUp(_OfUtun):
    """The TUN up."""

    def argv(self) -> list[str]:
        return ["ifconfig", self.device, "up"]

    def is_there(self, view: MacosState) -> bool:
        return view.is_up(self.device)


@dataclass(frozen=True, slots=True)
class _RouteStep(Step):
    """A route of the table."""

    destination: str
    """A network in CIDR form."""

    def target(self) -> list[str]:
        """Return the arguments of route(8) behind the destination."""
        raise NotImplementedError

    def entry(self) -> RouteEntry:
        """Return how it looks in the table."""
        raise NotImplementedError

    def scope(self) -> list[str]:
        """Return the arguments of route(8) that say for which sockets it is."""
        return []

    def argv(self, verb: str) -> list[str]:
        """Return the program that does it, with its arguments."""
        family = "-inet6" if ":" in self.destination else "-inet"
        network = ipaddress.ip_network(self.destination)
        what = ["-net", self.destination]
        if network.prefixlen == network.max_prefixlen:
            # To a network of IPv6 with 128 bits route(8) gives no mask, and netstat then shows /0.
            what = ["-host", str(network.network_address)]
        return ["route", "-n", verb, family, *self.scope(), *what, *self.target()]

    def commands(self) -> list[str]:
        return [shlex.join(self.argv("add"))]

    def undo_commands(self) -> list[str]:
        return [shlex.join(self.argv("delete"))]

    def do(self, system: MacosSystem) -> None:
        if "File exists" in _run_route(system, self.argv("add"), tolerate="File exists"):
            _run_route(system, self.argv("change"))

    def undo(self, system: MacosSystem) -> None:
        _run_route(system, self.argv("delete"), tolerate="not in table")

    def is_there(self, view: MacosState) -> bool:
        return self.entry() in view.table

    def check_recorded(self) -> None:
        ipaddress.ip_network(self.destination)


def _run_route(system: MacosSystem, argv: list[str], tolerate: str = "\0") -> str:
    """Run route(8), which says what has failed, and may exit with 0 all the same.

    :param tolerate: words of what counts as success.
    :returns: what it said.
    :raises HostError: it failed.
    """
    try:
        said = system.run(argv)
    except HostError as error:
        if tolerate not in str(error):
            raise
        return str(error)
    failed = _ROUTE_ERROR.search(said)
    if failed and tolerate not in said:
        raise HostError(f"`{shlex.join(argv)}` failed: {failed[1]}")
    return said


@kind
@dataclass(frozen=True, slots=True)
class TunRoute(_RouteStep):
    """A route into the TUN. Half of the Internet goes before a default route, which stays."""

    vanishes: ClassVar[bool] = True
    paused: ClassVar[bool] = True
    device: str

    def target(self) -> list[str]:
        return ["-interface", self.device]

    def entry(self) -> RouteEntry:
        return RouteEntry(self.destination, "", self.device)

    def remains(self, view: MacosState) -> bool:
        return False


@kind
@dataclass(frozen=True, slots=True)
class RefusingRoute(_RouteStep):
    """A route whose packets are refused at once: IPv6, where it does not go through the tunnel."""

    paused: ClassVar[bool] = True

    def target(self) -> list[str]:
        return ["::1" if ":" in self.destination else "127.0.0.1", "-reject"]

    def entry(self) -> RouteEntry:
        gateway = "::1" if ":" in self.destination else "127.0.0.1"
        return RouteEntry(self.destination, gateway, "lo0", rejects=True)


@kind
@dataclass(frozen=True, slots=True)
class DirectRoute(_RouteStep):
    """A route to what is reached beside the tunnel, by the gateway that there was before.

    With a scope only sockets that are bound to the interface use it: the tunnel's own.
    """

    gateway: str
    """An address; empty: the destination is on the interface's link."""
    interface: str
    scoped: bool

    def target(self) -> list[str]:
        return [self.gateway] if self.gateway else ["-interface", self.interface]

    def scope(self) -> list[str]:
        return ["-ifscope", self.interface] if self.scoped else []

    def entry(self) -> RouteEntry:
        return RouteEntry(self.destination, self.gateway, self.interface, scoped=self.scoped)

    def remains(self, view: MacosState) -> bool:
        return self.entry() in view.table


@kind
@dataclass(frozen=True, slots=True)
class ScutilDns(Step):
    """A record of the system's resolver: it asks this server for every name."""

    paused: ClassVar[bool] = True
    optional: ClassVar[bool] = True  # its questions are captured anyway
    server: str

    def _script(self) -> str:
        return (
            f"d.init\nd.add ServerAddresses * {self.server}\n"
            f'd.add SupplementalMatchDomains * ""\nset {DNS_KEY}\nquit\n'
        )

    def commands(self) -> list[str]:
        return [f"scutil <<'END'\n{self._script()}END"]

    def undo_commands(self) -> list[str]:
        return [f"scutil <<'END'\nremove {DNS_KEY}\nquit\nEND"]

    def do(self, system: MacosSystem) -> None:
        system.run(["scutil"], self._script())

    def undo(self, system: MacosSystem) -> None:
        system.run(["scutil"], f"remove {DNS_KEY}\nquit\n")

    def is_there(self, view: MacosState) -> bool:
        return view.dns_set

    def recorded(self) -> ScutilDns:
        return ScutilDns("")  # its name is enough to undo it

    def replaces(self, other: Step) -> bool:
        return isinstance(other, ScutilDns)
