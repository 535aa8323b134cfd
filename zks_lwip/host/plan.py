"""From a configuration and a host's state to the list of changes: pure, golden-tested.

The order is the point. What closes comes first (firewall, then routes that refuse, then the rules
that lead to them), what opens a way comes last (the TUN's routes); taking down goes backwards. So a
death between any two steps leaves a host that is either untouched or closed.

Rules, for each family (table ``main`` is the host's own, T is ours)::

    100  marked sockets of the tunnel           main
    101  the same, where main has no route      unreachable: never into our own TUN
    105  DHCP of this machine's own clients     main
    107  from the TUN's own addresses           T: the kernel's errors about late answers, too
    110  port 53, to anybody                    T: a resolver on the LAN is captured, too
    110  port 853, with --dot block             T: the gateway refuses it
    115  --bypass (user: own packets)           main
    120  each private subnet that is connected  main
    130  everything else                        T
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace

from zks_lwip.device._queue import queue_length_for
from zks_lwip.errors import ConfigError, DeviceError, HostError
from zks_lwip.host.addresses import free_addresses
from zks_lwip.host.config import MARK, TABLE, HostConfig, KillSwitch, Network
from zks_lwip.host.firewall import Firewall, ruleset
from zks_lwip.host.marks import MarkUse
from zks_lwip.host.state import HostState, internal_bridges, lan_networks
from zks_lwip.host.steps import (
    SYSCTLS,
    TABLE_NAME,
    Address,
    LinkDns,
    LinkUp,
    Nftables,
    Resolvconf,
    Route,
    Rule,
    Step,
    Sysctl,
    Tun,
    render,
)

__all__ = ["LEAVES_HERE", "Plan", "make_plan", "missing"]

MAIN = 254
# The better metric wins; the other one is what remains when the TUN is gone.
_METRIC_TUN, _METRIC_REFUSE = 100, 20000
PRIORITY_MARKED, PRIORITY_MARKED_END, PRIORITY_DHCP = 100, 101, 105
PRIORITY_TUN, PRIORITY_DNS = 107, 110
PRIORITY_BYPASS, PRIORITY_LAN, PRIORITY_ALL = 115, 120, 130
# Where the packets that this machine sends itself come from, as rules see it.
_OWN = "lo"
# Others' rules that a refusal names.
_SHOWN = 3
_SRC_VALID_MARK, _RP_FILTER, _ACCEPT_MARK = SYSCTLS
LEAVES_HERE = "the worker runs on this machine: its own connections leave from here"
"""The note about an embedded worker."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done to one network namespace, in order."""

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
        """The SO_MARK that the tunnel's sockets need; None: they are in another namespace."""
        return self.config.mark if self.state.own else None

    def render(self) -> list[str]:
        """The commands that do the same, in order."""
        stale = [command for step in self.stale for command in step.undo_commands()]
        return [*render(self.steps), *stale]


def other_host(interface: ipaddress.IPv4Interface) -> ipaddress.IPv4Address:
    """The other usable address of a /30."""
    return next(host for host in interface.network.hosts() if host != interface.ip)


def make_plan(config: HostConfig, state: HostState, *, keep: Plan | None = None) -> Plan:
    """What is to be changed on a host that looks like this.

    ``keep`` is the plan that is in force, when this one is to take its place (other addresses,
    another configuration): its TUN and addresses stay.

    :raises HostError: nft is missing, or one of our tables or marks is used by somebody else.
    :raises DeviceError: the interface name is taken.
    """
    _check(config, state, keep)
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
        )
        steps.append(Nftables(ruleset(config, firewall)))
    steps += _sysctls(config, state)
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
    stale = _stale(state, steps) if keep is None else ()
    return Plan(config, state, ipv4, ipv6, tuple(steps), stale, _notes(config, state))


def missing(plan: Plan, state: HostState) -> list[Step]:
    """Steps of a plan in force that somebody has taken back, as far as the state shows it."""
    there = set(state.ours)
    lost: list[Step] = []
    for step in plan.steps:
        if isinstance(step, (Rule, Route)) and step not in there:
            lost.append(step)
        elif isinstance(step, Nftables) and not state.nft_table:
            lost.append(step)
        elif isinstance(step, Sysctl) and state.sysctls.get(step.name, step.value) != step.value:
            lost.append(step)
        elif isinstance(step, Address) and not _has_address(state, step):
            lost.append(step)
        elif isinstance(step, LinkUp) and not _is_up(state, step):
            lost.append(step)
    return lost


def _has_address(state: HostState, step: Address) -> bool:
    return any(
        a.link == step.device and str(a.interface) == step.interface for a in state.addresses
    )


def _is_up(state: HostState, step: LinkUp) -> bool:
    link = state.link(step.device)
    return link is not None and link.up


def _check(config: HostConfig, state: HostState, keep: Plan | None) -> None:
    if config.kill_switch is KillSwitch.STRICT and state.nft is None:
        raise HostError(
            "the kill switch needs nft, which is not installed: install the package nftables "
            "(`apt install nftables`), or do without the firewall (`--kill-switch route`)"
        )
    if uses := _foreign_uses(config, state):
        raise HostError(
            "somebody else uses what would be ours, another VPN perhaps: " + "; ".join(uses)
        )
    if keep is None and state.link(config.tun) is not None:
        raise DeviceError(
            f"the interface name {config.tun} is taken (`ip link show {config.tun}`), by another "
            "`connect` perhaps (`zks-lwip status`); choose another with `--tun NAME`"
        )
    if config.inbound and config.kill_switch is not KillSwitch.STRICT:
        raise ConfigError("--allow-inbound needs `--kill-switch strict`: the firewall does it")


def _foreign_uses(config: HostConfig, state: HostState) -> list[str]:
    uses = list(state.foreign_uses)
    if state.foreign_table and config.kill_switch is KillSwitch.STRICT:
        table = f"table inet {TABLE_NAME}"
        uses.append(
            f"the nftables {table} is not of our making (`nft list {table}` shows it): remove it "
            f"(`nft delete {table}`), or do without the firewall (`--kill-switch route`)"
        )
    if taken := [use for use in _mark_uses(config, state) if not use.flag]:
        uses.append(
            f"the mark {config.mark:#x} of our own packets, in {_listed(taken)}: choose another "
            f"({_other_mark(state)})"
        )
    return uses


def _mark_uses(config: HostConfig, state: HostState) -> list[MarkUse]:
    """Those of others that take our packets for theirs."""
    marks = [config.mark] if state.own else []
    marks += [config.mark_inbound] if config.inbound else []
    return [use for use in state.mark_uses if any(map(use.is_of, marks))]


def _listed(uses: list[MarkUse]) -> str:
    more = [f"{len(uses) - _SHOWN} more"] if len(uses) > _SHOWN else []
    return ", ".join([*map(str, uses[:_SHOWN]), *more])


def _other_mark(state: HostState) -> str:
    """The option that takes a mark which nobody uses, and the next one not, either."""
    for mark in range(MARK & 0xFFF | 0x1000, 1 << 16, 0x1F5):
        if not any(use.is_of(mark) or use.is_of(mark + 1) for use in state.mark_uses):
            return f"`--mark {mark:#x}`"
    return "`--mark NUMBER`"


def _taken(state: HostState) -> list[Network]:
    return [*(address.interface.network for address in state.addresses), *state.routes]


def _sysctls(config: HostConfig, state: HostState) -> list[Step]:
    wanted = {}
    if config.kill_switch is KillSwitch.STRICT:
        # With it a reply's mark counts when its reverse path is checked (rp_filter).
        if state.own or config.inbound:
            wanted[_SRC_VALID_MARK] = "1"
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
    if config.inbound:
        rules.append(Rule(family, PRIORITY_MARKED, MAIN, fwmark=config.mark_inbound))
    if own:
        rules.append(Rule(family, PRIORITY_MARKED, MAIN, fwmark=config.mark))
        rules.append(Rule(family, PRIORITY_MARKED_END, None, fwmark=config.mark))
    client, server = (68, 67) if family == 4 else (546, 547)
    dhcp = Rule(family, PRIORITY_DHCP, MAIN, ipproto="udp", sport=client, dport=server, iif=_OWN)
    # An answer from the LAN's name server, which was never asked, comes out of the TUN; should
    # nobody wait for it any more, the kernel's ICMP error would tell that server on its link.
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
    """The destination of a rule; the kernel has none for everything."""
    return str(network) if network.prefixlen else None


def _resolver(config: HostConfig, state: HostState, server: str) -> list[Step]:
    if not config.resolver or not state.resolver:
        return []
    if state.resolver == "resolved":
        return [LinkDns(config.tun, server)]
    return [Resolvconf(state.resolver_prefix + config.tun, server, state.resolver_wishes)]


def _stale(state: HostState, steps: list[Step]) -> tuple[Step, ...]:
    """What a dead instance has left and the new one does not want, last first."""
    wanted = set(steps)
    records = {step.record for step in steps if isinstance(step, Resolvconf)}
    settings = {step.name for step in steps if isinstance(step, Sysctl)}
    stale: list[Step] = []
    for step in reversed(state.leftover.steps if state.leftover else ()):
        if isinstance(step, Sysctl) and step.name not in settings:
            stale.append(step)
        elif isinstance(step, Resolvconf) and step.record not in records:
            stale.append(step)
    stale += [step for step in state.ours if step not in wanted]
    if state.nft_table and not any(isinstance(step, Nftables) for step in steps):
        stale.append(Nftables(""))
    return tuple(dict.fromkeys(stale))


def _notes(config: HostConfig, state: HostState) -> tuple[str, ...]:
    notes = []
    if config.kill_switch is KillSwitch.ROUTE:
        notes.append(
            "--kill-switch route: a program that binds its sockets to another interface goes "
            "around the tunnel; only `strict` stops it"
        )
    elif config.kill_switch is KillSwitch.OFF:
        notes.append(
            "--kill-switch off: when this process ends, traffic goes out as without a tunnel"
        )
    if state.own and config.peers is None and config.kill_switch is KillSwitch.STRICT:
        notes.append(LEAVES_HERE)
    if flags := [use for use in _mark_uses(config, state) if use.flag]:
        notes.append(
            f"a bit of our packets' mark {config.mark:#x} means something to somebody else's "
            f"rules, too: {_listed(flags)}; if that does harm, choose another "
            f"({_other_mark(state)})"
        )
    if state.own or config.inbound:
        notes += [f"whether others use our mark, too, is not known: {why}" for why in state.unseen]
    notes += [f"a rule of somebody else comes before ours: {rule}" for rule in state.foreign_rules]
    return tuple(notes)


def with_state(plan: Plan, state: HostState) -> Plan:
    """The plan for the same configuration on a host that has changed since.

    What was there before us, and what the sysctls were, stays as the first look saw it.
    """
    first = plan.state
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
    )
    return make_plan(plan.config, seen, keep=plan)
