"""From a configuration and the state of a machine with Windows to the list of changes: pure.

What closes comes first (the filters), what opens a way comes last (the TUN's routes); taking down
goes backwards.

The default routes stay. Into the TUN lead two halves each, ``0.0.0.0/1`` and ``128.0.0.0/1``,
``::/1`` and ``8000::/1``, which go before them and vanish with the TUN. The tunnel's sockets are
bound to the interface of the default route (``IP_UNICAST_IF``), whose routes alone they use, and
need none of their own.
"""

from __future__ import annotations

from dataclasses import replace

from ....errors import ConfigError, DeviceError, HostError
from ..addresses import free_addresses, other_host
from ..config import HostConfig, KillSwitch, Network
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

_HALVES = {4: ("0.0.0.0/1", "128.0.0.0/1"), 6: ("::/1", "8000::/1")}
_METRIC = 1
"""Of the TUN: names are asked for by the interface with the least."""
_UNABLE = (
    ("bypass_users", "host.bypass", "user:NAME works on Linux only: name networks or hosts"),
    ("forward", "host.forward", "works on Linux only: leave it out"),
    ("inbound", "host.inbound", "works on Linux only: leave it out"),
    ("exclude", "allow_exclude", "works on Linux only: leave it out"),
)


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
    _check(config)
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
        steps += [AdapterRoute(network, tun) for network in _captured(config, version)]
    if config.resolver:
        steps.append(AdapterResolver(tun, str(other_host(ipv4))))
    stale = _stale(state, steps) if keep is None else ()
    return Plan(config, state, ipv4, ipv6, tuple(steps), stale, _notes(config))


def _closing(config: HostConfig, state: WindowsState) -> list[Step]:
    if config.kill_switch is KillSwitch.STRICT:
        lan = lan_networks(state, config.tun) if config.lan and not config.only else []
        lines = [str(each) for each in filters(config, lan)]
    elif state.ipv6 and not config.ipv6:
        lines = [str(each) for each in refuse_ipv6(config)]
    else:
        return []
    return [WfpFilters("\n".join(lines), config.persistent)]


def _check(config: HostConfig) -> None:
    """Refuse what Windows cannot do."""
    for name, option, why in _UNABLE:
        if getattr(config, name):
            raise ConfigError(why, option)
    if config.kill_switch is KillSwitch.ROUTE:
        raise ConfigError(
            "route works on Linux only: on Windows routes alone do not hold; give strict or off",
            "kill_switch",
        )
    if config.peers is None:
        raise ConfigError(
            "is needed on Windows: the connections of a worker on this machine would come back "
            "through the tunnel.",
            "worker",
        )


def _check_host(config: HostConfig, state: WindowsState) -> None:
    """Refuse a name that is taken, and a machine that another program has captured."""
    if state.link(config.tun) is not None:
        raise DeviceError(
            f"the interface {config.tun} is taken (`Get-NetAdapter`); give another name (`tun`)"
        )
    captured = {network for version in (4, 6) for network in _captured(config, version)}
    others = [entry for entry in sorted(state.table) if entry.destination in captured]
    if others:
        raise HostError(
            f"another VPN has captured this machine: {others[0].destination} leads to "
            f"{others[0].interface} (`route print`); stop it first"
        )


def _captured(config: HostConfig, version: int) -> list[str]:
    if config.only:
        return [str(network) for network in config.only if network.version == version]
    return list(_HALVES[version])


def _bypass(config: HostConfig, state: WindowsState) -> list[Step]:
    """Return the routes of what is reached beside the tunnel."""
    links = [address.interface.network for address in state.addresses]
    steps: list[Step] = []
    for network in config.bypass:
        uplink = state.uplink(network.version)
        if uplink is not None and not any(_within(network, link) for link in links):
            steps.append(BypassRoute(str(network), uplink.gateway, uplink.interface))
    return steps


def _within(network: Network, other: Network) -> bool:
    return network.network_address in other and network.broadcast_address in other


def _stale(state: WindowsState, steps: list[Step]) -> tuple[Step, ...]:
    """Return what a dead instance has left and the new one does not want, last first."""
    left = list(reversed(state.leftover.steps)) if state.leftover else []
    left.append(WfpFilters("", False))
    stale = [
        step
        for step in left
        if step.remains(state) and not any(new.replaces(step) for new in steps)
    ]
    return tuple(dict.fromkeys(step.recorded() for step in stale))


def _notes(config: HostConfig) -> tuple[str, ...]:
    """Return what a user should know: limits of what was asked for."""
    if config.kill_switch is KillSwitch.OFF:
        return (
            "`kill_switch` off: when this process ends, traffic goes out as without a tunnel, and "
            "a program that binds its sockets to an interface goes around it; names may be asked "
            "for at other interfaces' servers, too",
        )
    return ()


def with_state(plan: Plan, state: HostState) -> Plan:
    """Return the plan for the same configuration on a machine that has changed since."""
    return make_plan(plan.config, replace(state, leftover=plan.state.leftover), keep=plan)
