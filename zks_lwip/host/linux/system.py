"""Linux, as steps act on it: rtnetlink, sysctl files, programs, the firewall's table, the TUN.

All of it belongs to one network namespace, and is used in a thread that is in it.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, Protocol

from ...device import TunDevice, open_tun
from ...errors import HostError
from ..base import HostSystem
from ..plan.state import HostState, Leftover
from ..plan.system import System
from ..programs import run_program
from .cgroup import add_process, make_cgroup, remove_cgroup
from .observe import look
from .rtnetlink import NetlinkError, open_rtnetlink
from .sysctl import read_sysctl, write_sysctl
from .table import Table

__all__ = ["LinuxHostSystem", "LinuxSystem"]


_INTERFACES = ("index", "oif")
"""Fields of requests that take the index of an interface."""


class LinuxHostSystem(HostSystem, System, Protocol):
    """What a :class:`~zks_lwip.host.linux.host.Host` needs besides what its steps do."""

    def observe(
        self,
        netns: str | None,
        own_inode: int,
        leftover: Leftover | None = None,
        *,
        table_known: bool | None = None,
    ) -> HostState:
        """Return the state of the namespace, see :func:`~zks_lwip.host.linux.observe.look`."""
        ...

    def add_process(self, path: str, pid: int) -> None:
        """Move a process into a cgroup that this system has made.

        :raises HostError: it cannot be moved.
        """
        ...


class LinuxSystem:
    """The network namespace of the thread that makes it."""

    def __init__(self) -> None:
        self.device: TunDevice | None = None
        self._ip = open_rtnetlink()
        self._table = Table()
        self._groups: dict[str, int] = {}

    def observe(
        self,
        netns: str | None,
        own_inode: int,
        leftover: Leftover | None = None,
        *,
        table_known: bool | None = None,
    ) -> HostState:
        loaded = self._table.loaded
        return look(self._ip, netns, own_inode, leftover, table_known=table_known, loaded=loaded)

    def run(self, argv: Sequence[str], text: str = "") -> str:
        return run_program(argv, text)

    def netlink(
        self,
        kind: Literal["route", "rule", "addr", "link"],
        command: str,
        request: Mapping[str, Any],
        *,
        tolerate: Collection[int] = (),
    ) -> None:
        try:
            found = {name: _index(request[name]) for name in _INTERFACES if name in request}
            self._ip.request(kind, command, **{**request, **found})
        except (NetlinkError, OSError) as error:
            if isinstance(error, NetlinkError):
                error = OSError(error.code, os.strerror(error.code))
            if error.errno not in tolerate:
                raise error from None

    def read_sysctl(self, name: str) -> str | None:
        return read_sysctl(name)

    def write_sysctl(self, name: str, value: str) -> None:
        write_sysctl(name, value)

    def load_table(self, ruleset: str) -> None:
        self._table.load(ruleset)

    def delete_table(self) -> None:
        self._table.delete()

    def make_cgroup(self, path: str) -> None:
        if path not in self._groups:
            self._groups[path] = make_cgroup(path)

    def remove_cgroup(self, path: str) -> None:
        if path in self._groups:
            os.close(self._groups.pop(path))
        remove_cgroup(path)

    def add_process(self, path: str, pid: int) -> None:
        if path not in self._groups:
            raise HostError(f"the cgroup {path} is not ours")
        add_process(self._groups[path], pid)

    def open_tun(
        self, name: str, *, mtu: int, queue_length: int, vnet_hdr: bool, node: str
    ) -> None:
        if self.device is None:
            self.device = open_tun(
                name, mtu=mtu, vnet_hdr=vnet_hdr, queue_length=queue_length, node=node
            )

    def close_tun(self) -> None:
        if self.device is not None:
            self.device.close()
            self.device = None

    def close(self) -> None:
        if self.device is not None:
            self.device.close()
        while self._groups:
            os.close(self._groups.popitem()[1])
        self._ip.close()


def _index(interface: str) -> int:
    try:
        return socket.if_nametoindex(interface)
    except OSError as error:  # which does not say so in its errno
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), interface) from error
