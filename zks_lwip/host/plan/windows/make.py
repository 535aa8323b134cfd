"""From a configuration and the state of a machine with Windows to the list of changes: pure.

What closes comes first (the filters), what opens a way comes last (the TUN's routes); taking down
goes backwards.

The default routes stay (:mod:`..halves`). The tunnel's sockets are bound to the interface of the
default route (``IP_UNICAST_IF``), whose routes alone they use, and need none of their own.
"""

from __future__ import annotations

from dataclasses import replace

from ....errors import DeviceError, HostError
from ..addresses import free_addresses, other_host
from ..config import HostConfig, KillSwitch
from ..halves import captured, check_wishes, is_within, stale
from ..plan import Plan
from ..state import HostState, lan_networks
from ..step import Step
from .filters import filters, refuse_ipv6
from .state import WindowsState
from .steps import (
    AdapterAddress,
    AdapterResolver,
    AdapterRoute,
    AdapterSettings,
    BypassRoute,
    WfpFilters,
    WfpPermitTun,
    WintunAdapter,
)

__all__ = ["make_plan", "with_state"]

_METRIC = 1
"""Of the TUN: names are asked for by the interface with the least."""
_HYPER_V = "vEthernet ("
"""What the names of interfaces that lead to virtual machines begin with."""


def make_plan(config: HostConfig, state: HostState, *, keep: Plan | None = None) -> Plan:
    """Return what is to be changed on a machine that looks like this.

    :param state: a :class:`.state.WindowsState`.
    :param keep: the plan that is in force, when this one is to take its place: its TUN and
        addresses stay.
    :raises ConfigError: Windows cannot do what is asked for.
    :raises HostError: another VPN has captured the machine.
    :raises DeviceError: the interface is taken.
    """
    if not isinstance(state, WindowsState):
        raise TypeError("that is not the state of a machine with Windows")
    check_wishes(config, "Windows")
    if keep is None:
        _check_host(config, state)
        ipv4, ipv6 = free_addresses(
            [*(address.interface.network for address in state.addresses), *state.routes]
        )
    else:
        ipv4, ipv6 = keep.ipv4, keep.ipv6
    tun = config.tun
    families = (4, 6) if state.ipv6 and config.ipv6 else (4,)
    steps = _closing(config, state)
    steps.append(WintunAdapter(tun, config.mtu))
    steps += [AdapterSettings(tun, version, config.mtu, _METRIC) for version in families]
    steps += [AdapterAddress(tun, str({4: ipv4, 6: ipv6}[version])) for version in families]
    if config.kill_switch is KillSwitch.STRICT:
        steps.append(WfpPermitTun(tun))
    steps += _bypass(config, state)
    for version in families:
        steps += [AdapterRoute(network, tun) for network in captured(config, version)]
    if config.resolver:
        steps.append(AdapterResolver(tun, str(other_host(ipv4))))
    left = () if keep else stale(state, steps, [WfpFilters("", False)])
    return Plan(config, state, ipv4, ipv6, tuple(steps), left, _notes(config, state))


def _closing(config: HostConfig, state: WindowsState) -> list[Step]:
    if config.kill_switch is KillSwitch.STRICT:
        lan = lan_networks(state, config.tun) if config.lan and not config.only else []
        lines = [str(each) for each in filters(config, lan)]
    elif state.ipv6 and not config.ipv6:
        lines = [str(each) for each in refuse_ipv6(config)]
    else:
        return []
    return [WfpFilters("\n".join(lines), config.persistent)]


def _check_host(config: HostConfig, state: WindowsState) -> None:
    """Refuse a name that is taken, and a machine that another program has captured."""
    if state.link(config.tun) is not None:
        raise DeviceError(
            f"the interface {config.tun} is taken (`Get-NetAdapter`); give another name (`tun`)"
        )
    halves = {network for version in (4, 6) for network in captured(config, version)}
    others = [entry for entry in sorted(state.table) if entry.destination in halves]
    if others:
        raise HostError(
            f"another VPN has captured this machine: {others[0].destination} leads to "
            f"{others[0].interface} (`route print`); stop it first"
        )


def _bypass(config: HostConfig, state: WindowsState) -> list[Step]:
    """Return the routes of what is reached beside the tunnel."""
    links = [address.interface.network for address in state.addresses]
    steps: list[Step] = []
    for network in config.bypass:
        uplink = state.uplink(network.version)
        if uplink is not None and not any(is_within(network, link) for link in links):
            steps.append(BypassRoute(str(network), uplink.gateway, uplink.interface))
    return steps


def _notes(config: HostConfig, state: WindowsState) -> tuple[str, ...]:
    """Return what a user should know: limits of what was asked for."""
    if config.kill_switch is KillSwitch.OFF:
        return (
            "`kill_switch` off: when this process ends, traffic goes out as without a tunnel, and "
            "a program that binds its sockets to an interface goes around it; names may be asked "
            "for at other interfaces' servers, too",
        )
    if any(link.name.startswith(_HYPER_V) for link in state.links):
        return (
            "virtual machines (Hyper-V, WSL 2) send past our filters, and so outside while there "
            "is no TUN, as before it is made and after a crash; Windows 11 refuses what they send "
            "by `New-NetFirewallHyperVRule -Direction Outbound -Action Block`",
        )
    return ()


def with_state(plan: Plan, state: HostState) -> Plan:
    """Return the plan for the same configuration on a machine that has changed since."""
    return make_plan(plan.config, replace(state, leftover=plan.state.leftover), keep=plan)
