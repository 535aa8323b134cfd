"""Do and undo steps through rtnetlink, sysctl files and programs; runs in a thread in the
namespace.
"""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import socket
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from zks_lwip._descriptors import is_scarcity
from zks_lwip.device import TunDevice, open_tun
from zks_lwip.errors import HostError, PrivilegeError
from zks_lwip.host._observe import list_table, nft_path, read_sysctl, sysctl_path
from zks_lwip.host._programs import run_program
from zks_lwip.host._resolver import DO, UNDO, Hand
from zks_lwip.host.steps import (
    PROTOCOL,
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
)

__all__ = ["Applier", "count_refused"]

_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_UNREACHABLE = 7
_SCOPE_UNIVERSE = 0
_THERE = {errno.EEXIST}
# (EINVAL: what the kernel does not understand now, it cannot have taken before.)
_GONE = {
    errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EINVAL
}  # fmt: skip
_NODAD = 0x02


_DELETE = f"add table inet {TABLE_NAME}\ndelete table inet {TABLE_NAME}\n"
"""Before a ruleset, in one transaction: nothing of the table that is there stays. Packets may pass
meanwhile, see :func:`~zks_lwip.host.firewall.ruleset`: only where nothing else helps.
"""
_LOADS = 5
"""How often a new ruleset is loaded again at most, until it looks as it did; once nearly always."""


class Applier:
    """Does steps in the network namespace of the thread that calls it, and made ``ip``."""

    def __init__(self, ip: IPRoute) -> None:
        self._ip = ip
        self.device: TunDevice | None = None
        """The TUN, once its step has been done."""
        self.hand: Hand | None = None
        """Who tells the system's resolver, if we may not."""
        self.loaded: str | None = None
        """The firewall's table as it was listed once it had been loaded, see :func:`list_table`."""
        self._ruleset = ""

    def do(self, step: Step) -> None:
        """Make it so; harmless where it is so already.

        :raises HostError: it cannot be done; says what and why.
        :raises PrivilegeError: for want of a privilege.
        """
        self._run(step, step.commands(), _DO[type(step)])

    def undo(self, step: Step, *, stays: bool = False) -> None:
        """Take it back; harmless where it has gone already. Raises as :meth:`do`.

        What vanishes with the TUN is left to that, unless the TUN ``stays``.
        """
        if stays or not step.vanishes:
            self._run(step, step.undo_commands(), _UNDO[type(step)])

    def _run(
        self, step: Step, commands: Sequence[str], action: Callable[[Applier, Any], object]
    ) -> None:
        try:
            action(self, step)
        except NetlinkError as error:
            raise _explain(commands, error.code) from error
        except OSError as error:
            raise _explain(commands, error.errno or 0) from error
        except subprocess.SubprocessError as error:
            raise HostError(f"{_shown(commands)}: {error}") from error

    def _load(self, step: Nftables) -> None:
        """Load the table, and remember how it looks: whoever changes it, what is seen is that."""
        load, delete = step.ruleset, ""
        try:
            _nft(["-f", "-"], load)
            if self.loaded is not None and load == self._ruleset:
                if _listed() in (self.loaded, None):
                    return
                delete = _DELETE  # a chain of somebody else's in it, say, which loading leaves
        except HostError as error:
            if is_scarcity(error):
                raise
            delete = _DELETE  # something of it has become of another kind
        if delete:
            _nft(["-f", "-"], delete + load)
        looks = _listed()
        for _ in range(_LOADS):
            # It may have been changed between the two: what two loads give alike is ours.
            _nft(["-f", "-"], load)
            before, looks = looks, _listed()
            if looks == before:
                break
        self._ruleset, self.loaded = load, looks

    def _tell(self, step: Step, *, undo: bool) -> None:
        if self.hand is not None and step in self.hand:
            (self.hand.undo if undo else self.hand.do)(step)
        else:
            (UNDO if undo else DO)[type(step)](step)

    def _index(self, name: str) -> int:
        try:
            return socket.if_nametoindex(name)
        except OSError as error:  # which does not say so in its errno
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), name) from error

    def _route(self, step: Route, command: str) -> None:
        request: dict[str, Any] = {
            "family": _FAMILY[step.family],
            "dst_len": 0,
            "scope": _SCOPE_UNIVERSE,
            "table": step.table,
            "priority": step.metric,
            "proto": PROTOCOL,
        }
        if step.device is None:
            request["type"] = _UNREACHABLE
        else:
            request["oif"] = self._index(step.device)
        self._ip.route(command, **request)

    def _rule(self, step: Rule, command: str) -> None:
        request: dict[str, Any] = {
            "family": _FAMILY[step.family],
            "priority": step.priority,
            "protocol": PROTOCOL,
        }
        if step.table is None:
            request["action"] = _UNREACHABLE
        else:
            request |= {"table": step.table, "action": 1}
        if step.fwmark is not None:
            request |= {"fwmark": step.fwmark, "fwmask": 0xFFFFFFFF}
        if step.iif is not None:
            request["iifname"] = step.iif
        if step.source is not None:
            request["src"] = step.source
        if step.to is not None:
            request["dst"] = step.to  # (pyroute2 drops 0.0.0.0 and :: where they stand alone)
        if step.ipproto is not None:
            # Not getprotobyname(): minimal systems have no /etc/protocols.
            request["ip_proto"] = getattr(socket, f"IPPROTO_{step.ipproto.upper()}")
        for name, value in (("uid", step.uid), ("sport", step.sport), ("dport", step.dport)):
            if value is not None:
                request[f"{name}_range"] = f"{value}:{value}"
        self._ip.rule(command, **request)

    def _address(self, step: Address) -> None:
        interface = ipaddress.ip_interface(step.interface)
        extra = {"IFA_FLAGS": _NODAD} if interface.version == 6 else {}
        self._ip.addr(
            "add",
            index=self._index(step.device),
            family=_FAMILY[interface.version],
            address=str(interface.ip),
            prefixlen=interface.network.prefixlen,
            **extra,
        )

    def _tun(self, step: Tun) -> None:
        if self.device is None:
            self.device = open_tun(
                step.name,
                mtu=step.mtu,
                vnet_hdr=step.vnet_hdr,
                queue_length=step.queue_length,
                node=step.node,
            )

    def _remove_tun(self, step: Tun) -> None:
        """It vanishes with its descriptor, so that of an instance that died has gone."""
        if self.device is not None:
            self.device.close()
            self.device = None

    def _link_up(self, step: LinkUp) -> None:
        for name, value in step.settings():
            # A kernel without the setting makes a link that is a little noisier, no worse.
            if read_sysctl(name) is not None:
                sysctl_path(name).write_text(value, encoding="ascii")
        self._ip.link("set", index=self._index(step.device), state="up")


def _tolerate(codes: set[int], action: Callable[[], None]) -> None:
    try:
        action()
    except (NetlinkError, OSError) as error:
        code = error.code if isinstance(error, NetlinkError) else error.errno
        if code not in codes:
            raise


def _set_sysctl(name: str, value: str) -> None:
    sysctl_path(name).write_text(value, encoding="ascii")


def _restore_sysctl(applier: Applier, step: Sysctl) -> None:
    # Who changed it after us meant it.
    if read_sysctl(step.name) == step.value:
        _set_sysctl(step.name, step.previous)


def _nft(arguments: Sequence[str], text: str = "") -> str:
    path = nft_path()
    if path is None:
        raise HostError("nft is not installed: install the package nftables")
    return run_program([path, *arguments], text)


def _listed() -> str | None:
    """How our table looks; None if that cannot be told: then it is taken to be as it was."""
    try:
        return list_table(nft_path() or "nft") or None  # it is there: nft had no room for it
    except HostError:
        return None


def count_refused() -> int:
    """The packets that our firewall has counted as refused."""
    text = _nft(["-j", "list", "counter", "inet", TABLE_NAME, "refused"])
    try:
        counters = [item["counter"] for item in json.loads(text)["nftables"] if "counter" in item]
        return int(counters[0]["packets"])
    except (ValueError, LookupError, TypeError, RecursionError):
        raise HostError("nft does not show how many packets the firewall has refused") from None


def _delete_table(applier: Applier, step: Nftables) -> None:
    # `add` first: then the deletion succeeds whether or not it is there.
    _nft(["-f", "-"], f"add table inet {TABLE_NAME}\ndelete table inet {TABLE_NAME}\n")


_DO: dict[type[Step], Callable[[Applier, Any], object]] = {
    Nftables: Applier._load,
    Sysctl: lambda self, step: _set_sysctl(step.name, step.value),
    Route: lambda self, step: self._route(step, "replace"),
    Rule: lambda self, step: _tolerate(_THERE, lambda: self._rule(step, "add")),
    Tun: Applier._tun,
    LinkUp: Applier._link_up,
    Address: lambda self, step: _tolerate(_THERE, lambda: self._address(step)),
    LinkDns: lambda self, step: self._tell(step, undo=False),
    Resolvconf: lambda self, step: self._tell(step, undo=False),
}

_UNDO: dict[type[Step], Callable[[Applier, Any], object]] = {
    Nftables: _delete_table,
    Sysctl: _restore_sysctl,
    Route: lambda self, step: _tolerate(_GONE, lambda: self._route(step, "del")),
    Rule: lambda self, step: _tolerate(_GONE, lambda: self._rule(step, "del")),
    Tun: Applier._remove_tun,
    LinkDns: lambda self, step: self._tell(step, undo=True),
    Resolvconf: lambda self, step: self._tell(step, undo=True),
}


def _shown(commands: Sequence[str]) -> str:
    return commands[0].split("\n")[0] if commands else "this step"


def _explain(commands: Sequence[str], code: int) -> HostError | PrivilegeError:
    message = f"`{_shown(commands)}` failed: {os.strerror(code)}"
    if code in (errno.EPERM, errno.EACCES):
        return PrivilegeError(
            f"{message}; `connect` needs root or CAP_NET_ADMIN, `run -- COMMAND` needs neither"
        )
    if code == errno.EOPNOTSUPP:
        return HostError(f"{message}; the kernel lacks CONFIG_IP_MULTIPLE_TABLES, perhaps")
    return HostError(message)
