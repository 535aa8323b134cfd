"""What steps act through, and what they look at: interfaces that ``linux/`` and tests fulfil.

A step never opens a socket or starts a program itself. It is handed a :class:`System`, which does
so in one network namespace, and it finds out whether it is there from a :class:`View`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, Protocol

__all__ = ["Groups", "Programs", "System", "View"]


class Programs(Protocol):
    """Programs of the system, run in one network namespace."""

    def run(self, argv: Sequence[str], text: str = "") -> str:
        """Run a program to its end.

        :param text: its standard input.
        :returns: what it printed.
        :raises HostError: it is not installed, or failed.
        :raises PrivilegeError: it was not permitted to.
        """
        ...


class Groups(Protocol):
    """The machine's cgroups (v2)."""

    def make_cgroup(self, path: str) -> None:
        """Make a cgroup without processes: those of one that is there are moved to the root's."""
        ...

    def remove_cgroup(self, path: str) -> None:
        """Remove a cgroup, if it is there; its processes are moved to the root's."""
        ...


class System(Programs, Groups, Protocol):
    """One network namespace that steps change: rtnetlink, sysctl files, programs, the TUN.

    Every method may also raise OSError, or what stands for it in the library that it uses; who does
    a step turns that into an error that names the step.
    """

    def netlink(
        self,
        kind: Literal["route", "rule", "addr", "link"],
        command: str,
        request: Mapping[str, Any],
        *,
        tolerate: Collection[int] = (),
    ) -> None:
        """Send one request of rtnetlink(7).

        :param command: ``add``, ``del``, ``replace`` or ``set``.
        :param request: its fields and attributes, as the kernel's structures name them; ``index``
            and ``oif`` take the name of an interface.
        :param tolerate: errno values that count as success.
        """
        ...

    def read_sysctl(self, name: str) -> str | None:
        """Return the value of a sysctl; None if the kernel does not have it."""
        ...

    def write_sysctl(self, name: str, value: str) -> None:
        """Set a sysctl."""
        ...

    def load_table(self, ruleset: str) -> None:
        """Load our nftables table, as one transaction, and remember how it looks."""
        ...

    def delete_table(self) -> None:
        """Delete our nftables table, if it is there."""
        ...

    def open_tun(
        self, name: str, *, mtu: int, queue_length: int, vnet_hdr: bool, node: str
    ) -> None:
        """Make the TUN, unless this system has it open.

        :param mtu: bytes.
        :param queue_length: packets.
        :param vnet_hdr: each packet has a virtio-net header, for offloads.
        :param node: the device file, ``/dev/net/tun``.
        """
        ...

    def close_tun(self) -> None:
        """Close the TUN, with which it vanishes, if this system has it open."""
        ...


class View(Protocol):
    """A network namespace at one moment, as far as a step asks for it.

    :class:`~zks_lwip.host.plan.state.HostState` is one.
    """

    @property
    def ours(self) -> Collection[object]:
        """The rules and routes that are there and bear our protocol number, as steps."""
        ...

    @property
    def nft_table(self) -> bool:
        """Our nftables table is loaded."""
        ...

    @property
    def sysctls(self) -> Mapping[str, str]:
        """Values of the sysctls that a step may change for the host as a whole."""
        ...

    def has_address(self, link: str, interface: str) -> bool:
        """Return whether an interface has an address such as ``198.18.0.1/30``."""
        ...

    def is_up(self, link: str) -> bool:
        """Return whether an interface is there, and up."""
        ...
