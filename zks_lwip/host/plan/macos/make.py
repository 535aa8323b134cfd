"""From a configuration and a Mac's state to the list of changes: pure, golden-tested.

What closes comes first (the anchor's rules, then pf itself, then what refuses IPv6), what opens a
way comes last (the TUN's routes); taking down goes backwards.

The default routes stay (:mod:`..halves`). The tunnel's sockets are bound to the interface of the
default route; so that they find their way there, each of the peers has a route with that scope,
which no other socket uses.
"""

from __future__ import annotations

from dataclasses import replace

from ....device import utun_name
from ....errors import DeviceError, HostError
from ..addresses import free_addresses, other_host
from ..config import HostConfig, KillSwitch
from ..halves import captured, check_wishes, is_within, stale
from ..plan import Plan
from ..state import HostState, lan_networks
from ..step import Step
from .pf import ANCHOR, ruleset
from .state import MacosState
from .steps import (
    DirectRoute,
    PfAnchor,
    PfEnable,
    RefusingRoute,
    ScutilDns,
    TunRoute,
    Utun,
    UtunAddress,
    UtunUp,
)

__all__ = ["make_plan", "with_state"]


def make_plan(config: HostConfig, state: HostState, *, keep: Plan | None = None) -> Plan:
    """Return what is to be changed on a Mac that looks like this.

    :param state: a :class:`.state.MacosState`.
    :param keep: the plan that is in force, when this one is to take its place: its TUN and
        addresses stay.
    :raises ConfigError: macOS cannot do what is asked for.
    :raises HostError: pf does not evaluate our anchor, or another VPN has captured the machine.
    :raises DeviceError: the interface is taken.
    """
    if not isinstance(state, MacosState):
        raise TypeError("that is no Mac's state")
    check_wishes(config, "macOS")
    if keep is None:
        config = replace(config, tun=_free_tun(config.tun, state))
        ipv4, ipv6 = free_addresses(
            [*(address.interface.network for address in state.addresses), *state.routes]
        )
        _check_host(config, state)
    else:
        ipv4, ipv6 = keep.ipv4, keep.ipv6
    tun = config.tun
    server = str(other_host(ipv4))
    steps: list[Step] = []
    if config.kill_switch is KillSwitch.STRICT:
        lan = lan_networks(state, tun) if config.lan and not config.only else []
        steps += [PfAnchor(ruleset(config, tun, lan)), PfEnable()]
    if state.ipv6 and not config.ipv6:
        steps += [RefusingRoute(half) for half in captured(config, 6)]
    steps += [Utun(tun, config.mtu), UtunAddress(tun, str(ipv4), server)]
    families = (4, 6) if state.ipv6 and config.ipv6 else (4,)
    if 6 in families:
        steps.append(UtunAddress(tun, str(ipv6), ""))
    steps.append(UtunUp(tun))
    steps += _direct(config, state)
    for version in families:
        steps += [TunRoute(network, tun) for network in captured(config, version)]
    if config.resolver:
        steps.append(ScutilDns(server))
    left = () if keep else stale(state, steps, [PfAnchor("")])
    return Plan(config, state, ipv4, ipv6, tuple(steps), left, _notes(config))


def _free_tun(name: str, state: MacosState) -> str:
    """Return the name of the TUN: as asked for, or with the first number that is free."""
    number = utun_name(name)
    if number is None:
        taken = {link.name for link in state.links}
        return next(f"utun{n}" for n in range(len(taken) + 1) if f"utun{n}" not in taken)
    if state.link(name) is not None:
        raise DeviceError(
            f"the interface {name} is taken (`ifconfig {name}`), by another VPN perhaps; leave its "
            "number out (`tun` utun) and a free one is found"
        )
    return name


def _check_host(config: HostConfig, state: MacosState) -> None:
    """Refuse a machine that another program has captured, or whose pf would not hold."""
    halves = {network for version in (4, 6) for network in captured(config, version)}
    others = [
        entry
        for entry in sorted(state.table)
        if entry.destination in halves and not entry.scoped and not entry.rejects
    ]
    if others:
        where = others[0].interface
        raise HostError(
            f"another VPN has captured this machine: {others[0].destination} leads to {where} "
            "(`netstat -rn`); stop it first"
        )
    if config.kill_switch is KillSwitch.STRICT and not state.pf_calls_us:
        raise HostError(
            f"pf's main ruleset would not evaluate our anchor {ANCHOR}, so the kill switch would "
            'not hold: another program has replaced it (`pfctl -s rules` shows no `anchor "'
            "com.apple/*\"`, or a `pass quick` before it). Load the system's again "
            "(`pfctl -f /etc/pf.conf`), or do without (`kill_switch` off)"
        )


def _direct(config: HostConfig, state: MacosState) -> list[Step]:
    """Return the routes of what is reached beside the tunnel."""
    links = [address.interface.network for address in state.addresses]
    steps: list[Step] = []
    for networks, scoped in ((config.peers or (), True), (config.bypass, False)):
        for network in networks:
            uplink = state.uplink(network.version)
            if uplink is None or any(is_within(network, link) for link in links):
                continue
            gateway, interface = uplink.gateway, uplink.interface
            steps.append(DirectRoute(str(network), gateway, interface, scoped))
    return list(dict.fromkeys(steps))


def _notes(config: HostConfig) -> tuple[str, ...]:
    """Return what a user should know: limits of what was asked for."""
    if config.kill_switch is KillSwitch.OFF:
        return (
            "`kill_switch` off: when this process ends, traffic goes out as without a tunnel, and "
            "a program that binds its sockets to an interface goes around it",
        )
    return ()


def with_state(plan: Plan, state: HostState) -> Plan:
    """Return the plan for the same configuration on a Mac that has changed since."""
    return make_plan(plan.config, replace(state, leftover=plan.state.leftover), keep=plan)
