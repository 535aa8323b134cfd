"""Look at a Mac: interfaces, routes, pf, the resolver, and the journal about it."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Protocol

from ..plan.macos.pf import ANCHOR
from ..plan.macos.state import MacosState
from ..plan.macos.steps import DNS_KEY, TOKEN_NOTE, ask_anchor
from ..plan.macos.system import MacosSystem
from ..plan.state import Leftover
from .read import pf_calls_us, read_interfaces, read_name_server, read_table, uplinks

__all__ = ["Looked", "look"]


class Looked(MacosSystem, Protocol):
    """What a look needs."""

    @property
    def is_root(self) -> bool:
        """pfctl answers us."""
        ...

    def indexes(self) -> Mapping[str, int]:
        """Return the indexes of interfaces by their names."""
        ...


def look(system: Looked, leftover: Leftover | None = None) -> MacosState:
    """Return the state of this machine; of pf only root knows.

    :param leftover: what the journal says that a dead instance has left.
    :raises HostError: a program of the system fails.
    """
    indexes = system.indexes()
    links, addresses = read_interfaces(system.run(["ifconfig", "-a"]), indexes)
    table = read_table(system.run(["netstat", "-rn"]))
    uplink4, uplink6 = uplinks(table, indexes)
    name_server, asks_itself = read_name_server(system.run(["scutil", "--dns"]))
    loaded = enabled = holds = False
    calls, token = True, system.read_note(TOKEN_NOTE)
    if system.is_root:
        enabled = "Status: Enabled" in system.run(["pfctl", "-s", "info"])
        calls = pf_calls_us(system.run(["pfctl", "-s", "rules"]))
        loaded = "block" in ask_anchor(system, "-a", ANCHOR, "-s", "rules")
        references = system.run(["pfctl", "-s", "References"]).split() if token else []
        holds = token in references
    gone = "No such key" in system.run(["scutil"], f"show {DNS_KEY}\nquit\n")
    networks = [ipaddress.ip_network(entry.destination) for entry in table]
    return MacosState(
        ipv6=any(address.interface.version == 6 for address in addresses),
        links=links,
        addresses=addresses,
        routes=tuple(network for network in networks if network.prefixlen),
        uplinks=tuple(f"{each}" for each in (uplink4, uplink6) if each),
        name_servers=(name_server,) if name_server else (),
        asks_itself=asks_itself,
        leftover=leftover,
        uplink4=uplink4,
        uplink6=uplink6,
        table=frozenset(table),
        pf_enabled=enabled,
        pf_calls_us=calls,
        pf_loaded=loaded,
        pf_noted=token is not None,
        pf_token=holds,
        dns_set=not gone,
    )
