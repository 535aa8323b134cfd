"""Whether a host allows a configuration: what others use that would be ours, and what to tell."""

from __future__ import annotations

from ...errors import ConfigError, DeviceError, HostError
from .config import MARK, HostConfig, KillSwitch
from .marks import MarkUse
from .state import HostState
from .steps import TABLE_NAME

__all__ = ["LEAVES_HERE", "check", "notes"]

LEAVES_HERE = "the worker runs on this machine: its own connections leave from here"
"""The note about an embedded worker."""
_MAX_SHOWN = 3  # others' rules that a message names


def check(config: HostConfig, state: HostState, *, running: bool) -> None:
    """Refuse a configuration that this host does not allow.

    :param running: a plan of ours is in force, so that the interface is ours.
    :raises ConfigError: the configuration needs another kill switch.
    :raises HostError: nft is missing, or another program uses one of our tables or marks.
    :raises DeviceError: the interface name is taken.
    """
    if config.kill_switch is KillSwitch.STRICT and state.nft is None:
        raise HostError(
            "the kill switch needs nft, which is not installed: install the package nftables "
            "(`apt install nftables`), or do without the firewall (`kill_switch` route)"
        )
    if uses := _foreign_uses(config, state):
        raise HostError(
            "another program uses what would be ours, another VPN perhaps: " + "; ".join(uses)
        )
    if not running and state.link(config.tun) is not None:
        raise DeviceError(
            f"the interface name {config.tun} is taken: by a `connect` that runs already "
            "(`zks-lwip status`; `zks-lwip disconnect` stops it), or by another program "
            f"(`ip link show {config.tun}`): then choose another with `tun` NAME"
        )
    if config.inbound and config.kill_switch is not KillSwitch.STRICT:
        raise ConfigError("needs `kill_switch` strict: the firewall does it", "host.inbound")
    if config.exclude:
        _check_exclude(config, state)


def _check_exclude(config: HostConfig, state: HostState) -> None:
    """Refuse to exclude programs where the firewall or the kernel cannot tell them."""
    if config.kill_switch is not KillSwitch.STRICT:
        raise ConfigError("needs `kill_switch` strict: the firewall does it", "allow_exclude")
    if state.cgroup is None:
        raise HostError(
            "`allow_exclude` needs cgroup v2 in /sys/fs/cgroup, and it is not mounted there: do "
            "`mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified`, or "
            "leave the option out"
        )


def _foreign_uses(config: HostConfig, state: HostState) -> list[str]:
    """Return what others use that would be ours, and what to do about it."""
    uses = list(state.foreign_uses)
    if state.foreign_table and config.kill_switch is KillSwitch.STRICT:
        table = f"table inet {TABLE_NAME}"
        uses.append(
            f"the nftables {table} is not of our making (`nft list {table}` shows it): remove it "
            f"(`nft delete {table}`), or do without the firewall (`kill_switch` route)"
        )
    if taken := [use for use in _mark_uses(config, state) if not use.flag]:
        uses.append(
            f"the mark {config.mark:#x} of our own packets, in {_listed(taken)}: choose another "
            f"({_other_mark(state)})"
        )
    return uses


def _mark_uses(config: HostConfig, state: HostState) -> list[MarkUse]:
    """Return the uses of others that take our packets for theirs."""
    marks = [config.mark] if state.own else []
    marks += [config.mark_inbound] if config.inbound else []
    marks += [config.mark_excluded] if config.exclude else []
    return [use for use in state.mark_uses if any(map(use.is_of, marks))]


def _listed(uses: list[MarkUse]) -> str:
    """Return a few uses as text, and how many more there are."""
    more = [f"{len(uses) - _MAX_SHOWN} more"] if len(uses) > _MAX_SHOWN else []
    return ", ".join([*map(str, uses[:_MAX_SHOWN]), *more])


def _other_mark(state: HostState) -> str:
    """Return the option for a mark that no other program uses, nor the next two."""
    for mark in range(MARK & 0xFFF | 0x1000, 1 << 16, 0x1F5):
        if not any(use.is_of(mark + n) for n in range(3) for use in state.mark_uses):
            return f"`host.mark` {mark:#x}"
    return "`host.mark` NUMBER"


def notes(config: HostConfig, state: HostState) -> tuple[str, ...]:
    """Return what a user should know: limits of what was asked for, and rules of others."""
    found = []
    if config.kill_switch is KillSwitch.ROUTE:
        found.append(
            "`kill_switch` route: a program that binds its sockets to another interface goes "
            "around the tunnel; only `strict` stops it"
        )
    elif config.kill_switch is KillSwitch.OFF:
        found.append(
            "`kill_switch` off: when this process ends, traffic goes out as without a tunnel"
        )
    if state.own and config.peers is None and config.kill_switch is KillSwitch.STRICT:
        found.append(LEAVES_HERE)
    if flags := [use for use in _mark_uses(config, state) if use.flag]:
        found.append(
            f"a bit of our packets' mark {config.mark:#x} means something to another program's "
            f"rules, too: {_listed(flags)}; if that does harm, choose another "
            f"({_other_mark(state)})"
        )
    if state.own or config.inbound:
        found += [f"whether others use our mark, too, is not known: {why}" for why in state.unseen]
    found += [
        f"a rule of another program comes before ours: {rule}" for rule in state.foreign_rules
    ]
    return tuple(found)
