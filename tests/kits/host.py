"""A host that is made of nothing: what steps act through, and what is written down of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

from zks_lwip.device import TunDevice
from zks_lwip.host.plan.state import HostState, Leftover


class FakeSystem:
    """Stands for one network namespace: writes down what steps ask of it, and does none of it.

    It fulfils :class:`zks_lwip.host.linux.system.LinuxHostSystem`.
    """

    def __init__(self, state: HostState | None = None) -> None:
        self.state = state or HostState()
        """What a look at it shows."""
        self.calls: list[tuple[Any, ...]] = []
        """Every change, in order: the name of the method and what it was given."""
        self.sysctls: dict[str, str] = {}
        self.device: TunDevice | None = None
        self.refuse: Callable[[tuple[Any, ...]], None] = lambda call: None
        """Called with each change before it is written down; may raise."""
        self.closed = False

    def _change(self, *call: Any) -> None:
        self.refuse(call)
        self.calls.append(call)

    def observe(
        self,
        netns: str | None,
        own_inode: int,
        leftover: Leftover | None = None,
        *,
        table_known: bool | None = None,
    ) -> HostState:
        return self.state

    def run(self, argv: Sequence[str], text: str = "") -> str:
        self._change("run", list(argv), text)
        return ""

    def netlink(
        self,
        kind: Literal["route", "rule", "addr", "link"],
        command: str,
        request: Mapping[str, Any],
        *,
        tolerate: Collection[int] = (),
    ) -> None:
        try:
            self._change("netlink", kind, command, dict(request))
        except OSError as error:
            if error.errno not in tolerate:
                raise

    def read_sysctl(self, name: str) -> str | None:
        return self.sysctls.get(name)

    def write_sysctl(self, name: str, value: str) -> None:
        self._change("write_sysctl", name, value)
        self.sysctls[name] = value

    def load_table(self, ruleset: str) -> None:
        self._change("load_table", ruleset)

    def delete_table(self) -> None:
        self._change("delete_table")

    def make_cgroup(self, path: str) -> None:
        self._change("make_cgroup", path)

    def remove_cgroup(self, path: str) -> None:
        self._change("remove_cgroup", path)

    def add_process(self, path: str, pid: int) -> None:
        self._change("add_process", path, pid)

    def open_tun(
        self, name: str, *, mtu: int, queue_length: int, vnet_hdr: bool, node: str
    ) -> None:
        self._change("open_tun", name, mtu, queue_length, vnet_hdr, node)

    def close_tun(self) -> None:
        self._change("close_tun")

    def close(self) -> None:
        self.closed = True
