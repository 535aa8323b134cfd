"""From a configuration and a Linux host's state to the list of changes: pure, golden-tested.

The order is the point. What closes comes first (firewall, then routes that refuse, then the rules
that lead to them), what opens a way comes last (the TUN's routes); taking down goes backwards. So a
death between any two steps leaves a host that is either untouched or closed; with ``--kill-switch
off``, which closes nothing, one that sends what is not yet captured as before.

Rules, for each family (table ``main`` is the host's own, T is ours)::

    100  marked sockets of the tunnel           main
    100  marked answers, --allow-inbound        main
    100  what programs of `exclude` send        main
    101  the tunnel's, and the programs',       unreachable: never into our own TUN
         where main has no route
    105  DHCP of this machine's own clients     main
    107  from the TUN's own addresses           T: the kernel's errors about late answers, too
    110  port 53, to any address                T: a resolver on the LAN is captured, too
    110  port 853, with --dot block             T: the gateway refuses it
    115  --bypass (user: own packets)           main
    120  each private subnet that is connected; main (none with --only)
         with --lan allow also multicast of
         IPv4 and link-local of IPv6
    130  everything else;                       T; unreachable where IPv6 is refused
         with --only, its networks alone
"""

from __future__ import annotations

import ipaddress
from dataclasses import replace

from ...device import queue_length_for
from .addresses import free_addresses, other_host
from .config import TABLE, HostConfig, KillSwitch, Network
from .conflicts import check, notes
from .firewall import Firewall, ruleset
from .plan import Plan, missing
from .state import HostState, internal_bridges, lan_networks
from .steps import (
    CGROUP_PREFIX,
    MAIN,
    SYSCTLS,
    Address,
    Cgroup,
    LinkDns,
    LinkUp,
    Marking,
    Nftables,
    Resolvconf,
    Route,
    Rule,
    Step,
    Sysctl,
    Tun,
)

__all__ = ["Plan", "make_plan", "missing", "with_state"]

# The lower metric wins; the other one is what remains when the TUN is gone.
_METRIC_TUN, _METRIC_REFUSE = 100, 20000
PRIORITY_MARKED, PRIORITY_MARKED_END, PRIORITY_DHCP = 100, 101, 105
PRIORITY_TUN, PRIORITY_DNS = 107, 110
PRIORITY_BYPASS, PRIORITY_LAN, PRIORITY_ALL = 115, 120, 130
# Where the packets that this machine sends itself come from, as rules see it.
_OWN = "lo"
_SRC_VALID_MARK, _RP_FILTER, _ACCEPT_MARK, _ROUTE_LOCALNET = SYSCTLS


def make_plan(config: HostConfig, state: HostState, *, keep: Plan | None = None) -> Plan:
    """Return what is to be changed on a host that looks like this.

    :param keep: the plan that is in force, when this one is to take its place (other addresses,
        another configuration): its TUN and addresses stay.
    :raises ConfigError: the configuration needs another kill switch.
    :raises HostError: nft is missing, or another program uses one of our tables or marks.
    :raises DeviceError: the interface name is taken.
    """
    check(config, state, running=keep is not None)
    if keep is None:
        ipv4, ipv6 = free_addresses(_taken(state))
    else:
        ipv4, ipv6 = keep.ipv4, keep.ipv6
    families = (4, 6) if state.ipv6 else (4,)
    strict = config.kill_switch is KillSwitch.STRICT
    # With --only everything else is direct anyway, and what is named is not, wherever it is.
    lan = lan_networks(state, config.tun, internal_only=not config.lan) if not config.only else []
    steps: list[Step] = []
    if strict:
        firewall = Firewall(
            marks=state.own,
            tun4=ipv4.network,
            tun6=ipv6.network if state.ipv6 else None,
            server4=str(other_host(ipv4)),
            lan=lan,
            bridges=internal_bridges(state),
            name_server=state.name_server(ipv4),
            asks_itself=state.asks_itself,
        )
        steps.append(Nftables(ruleset(config, firewall)))
    steps += _sysctls(config, state, ipv4)
    if config.kill_switch is not KillSwitch.OFF:
        steps += [Route(family, TABLE, _METRIC_REFUSE) for family in families]
    for family in families:
        tun = str((ipv4 if family == 4 else ipv6).network)
        steps += _rules(config, state.own, family, lan, tun)
    steps.append(
        Tun(
            config.tun,
            config.mtu,
            config.queue_length or queue_length_for(config.mtu),
            config.vnet_hdr,
            config.node,
        ),
    )
    steps.append(LinkUp(config.tun, state.ipv6))
    steps.append(Address(config.tun, str(ipv4)))
    if state.ipv6:
        steps.append(Address(config.tun, str(ipv6)))
    steps += [Route(family, TABLE, _METRIC_TUN, config.tun) for family in families]
    steps += _resolver(config, state, str(other_host(ipv4)))
    if config.exclude and state.cgroup is not None:
        group = Cgroup(f"{state.cgroup}/{CGROUP_PREFIX}{state.inode}")
        steps += [group, Marking(group.path, config.mark_excluded)]
    stale = _stale(state, steps) if keep is None else ()
    return Plan(config, state, ipv4, ipv6, tuple(steps), stale, notes(config, state))


def _taken(state: HostState) -> list[Network]:
    return [*(address.interface.network for address in state.addresses), *state.routes]


def _sysctls(config: HostConfig, state: HostState, tun: ipaddress.IPv4Interface) -> list[Step]:
    wanted = {}
    if config.kill_switch is KillSwitch.STRICT:
        # With it a reply's mark counts when its reverse path is checked (rp_filter).
        if state.own or config.inbound or config.exclude:
            wanted[_SRC_VALID_MARK] = "1"
        # Excluded programs' questions to loopback are then led to a name server outside.
        if config.exclude and state.asks_itself and state.name_server(tun):
            wanted[_ROUTE_LOCALNET] = "1"
        if config.inbound:
            wanted[_ACCEPT_MARK] = "1"
    elif state.own and state.strict_rp_filter:
        # Without the firewall nothing gives replies their mark: loose mode, for as long as we run.
        wanted[_RP_FILTER] = "2"
    before = {
        step.name: step.previous
        for step in reversed(state.leftover.steps if state.leftover else ())
        if isinstance(step, Sysctl)
    }
    steps: list[Step] = []
    for name, value in wanted.items():
        now = before.get(name, state.sysctls.get(name))
        if now is not None and (now != value or name in before):
            steps.append(Sysctl(name, value, now))
    return steps


def _rules(config: HostConfig, own: bool, family: int, lan: list[Network], tun: str) -> list[Step]:
    rules: list[Step] = []
    beside = []
    if config.inbound:
        rules.append(Rule(family, PRIORITY_MARKED, MAIN, fwmark=config.mark_inbound))
    if own:
        beside.append(config.mark)
    if config.exclude:
        beside.append(config.mark_excluded)
    rules += [Rule(family, PRIORITY_MARKED, MAIN, fwmark=mark) for mark in beside]
    rules += [Rule(family, PRIORITY_MARKED_END, None, fwmark=mark) for mark in beside]
    client, server = (68, 67) if family == 4 else (546, 547)
    dhcp = Rule(family, PRIORITY_DHCP, MAIN, ipproto="udp", sport=client, dport=server, iif=_OWN)
    # An answer from the LAN's name server, which was never asked, comes out of the TUN; should no
    # program wait for it any more, the kernel's ICMP error would tell that server on its link.
    rules += [dhcp, Rule(family, PRIORITY_TUN, TABLE, source=tun)]
    rules.append(Rule(family, PRIORITY_DNS, TABLE, dport=53))
    if config.block_dot:
        rules.append(Rule(family, PRIORITY_DNS, TABLE, dport=853))
    for network in config.bypass:
        if network.version == family:
            rules.append(Rule(family, PRIORITY_BYPASS, MAIN, to=str(network)))
    # To the kernel what is forwarded is root's.
    users = config.bypass_users
    rules += [Rule(family, PRIORITY_BYPASS, MAIN, uid=uid, iif=_OWN) for uid in users]
    direct = [str(network) for network in lan if network.version == family]
    if config.lan and not config.only:
        direct.append("224.0.0.0/4" if family == 4 else "fe80::/10")
    rules += [Rule(family, PRIORITY_LAN, MAIN, to=to) for to in direct]
    # Refused by a rule, not in T: port 53 over IPv6 is still ours.
    action = TABLE if family == 4 or config.ipv6 else None
    captured = [_to(n) for n in config.only if n.version == family] if config.only else [None]
    rules += [Rule(family, PRIORITY_ALL, action, to=to) for to in captured]
    return rules


def _to(network: Network) -> str | None:
    """Return the destination of a rule; the kernel has none for everything."""
    return str(network) if network.prefixlen else None


def _resolver(config: HostConfig, state: HostState, server: str) -> list[Step]:
    if not config.resolver or not state.resolver:
        return []
    if state.resolver == "resolved":
        return [LinkDns(config.tun, server)]
    return [Resolvconf(state.resolver_prefix + config.tun, server, state.resolver_wishes)]


def _stale(state: HostState, steps: list[Step]) -> tuple[Step, ...]:
    """Return what a dead instance has left and the new one does not want, last first."""
    stale = [
        step
        for step in reversed(state.leftover.steps if state.leftover else ())
        if step.in_journal_only and not any(new.replaces(step) for new in steps)
    ]
    wanted = set(steps)
    stale += [step for step in state.ours if step not in wanted]
    table = Nftables("")
    if table.is_there(state) and not any(new.replaces(table) for new in steps):
        stale.append(table)
    return tuple(dict.fromkeys(stale))


def with_state(plan: Plan, state: HostState) -> Plan:
    """Return the plan for the same configuration on a host that has changed since.

    What was there before us, and what the sysctls were, stays as the first look saw it; of the name
    servers what was last seen, where only the TUN's is left.
    """
    first = plan.state
    servers = state.name_servers if state.name_server(plan.ipv4) else first.name_servers
    seen = replace(
        state,
        sysctls=first.sysctls,
        strict_rp_filter=first.strict_rp_filter,
        leftover=first.leftover,
        foreign_uses=(),
        mark_uses=(),
        unseen=(),
        foreign_table=False,
        nft=first.nft,
        resolver=first.resolver,
        resolver_prefix=first.resolver_prefix,
        resolver_wishes=first.resolver_wishes,
        cgroup=first.cgroup,
        name_servers=servers,
        asks_itself=first.asks_itself,
    )
    return make_plan(plan.config, seen, keep=plan)
