"""A plan: what is to be done to a host, in order; each system has a ``make_plan`` of its own."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace

from .addresses import other_host
from .config import HostConfig
from .state import HostState
from .step import Step, render

__all__ = ["Plan", "missing"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done to a host (on Linux to one network namespace), in order."""

    config: HostConfig
    state: HostState
    ipv4: ipaddress.IPv4Interface
    """The TUN's address; the other host of its network is ours, in the tunnel."""
    ipv6: ipaddress.IPv6Interface
    steps: tuple[Step, ...]
    stale: tuple[Step, ...] = ()
    """Left by an instance that died, and not wanted any more: taken away after all steps."""
    notes: tuple[str, ...] = ()
    """What a user should know: limits of what was asked for."""

    @property
    def peer4(self) -> ipaddress.IPv4Address:
        """The tunnel's own address next to the TUN's: DNS server, and the host's loopback."""
        return other_host(self.ipv4)

    @property
    def mark(self) -> int | None:
        """What keeps the tunnel's sockets out of the TUN (:mod:`zks_lwip.net.sockets`); None: they
        are in another namespace."""
        return self.config.mark if self.state.own else None

    @property
    def name_server(self) -> str:
        """What answers excluded programs' questions to loopback or to us; empty: not known."""
        return self.state.name_server(self.ipv4)

    def render(self) -> list[str]:
        """Return the commands that do the same, in order."""
        stale = [command for step in self.stale for command in step.undo_commands()]
        return [*render(self.steps), *stale]


def missing(plan: Plan, state: HostState) -> list[Step]:
    """Return the steps of a plan in force that, as the state shows, are not there any more."""
    view = replace(state, ours=frozenset(state.ours))  # a set, as each rule is looked for in it
    return [step for step in plan.steps if step.is_there(view) is False]
