"""The steps that make the TUN, give it addresses and set it up."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any, ClassVar

from ..step import Step, kind
from ..system import System, View
from ._rtnetlink import FAMILIES, THERE

__all__ = ["Address", "LinkUp", "Tun"]

_NODAD = 0x02  # IFA_F_NODAD


@kind
@dataclass(frozen=True, slots=True)
class Tun(Step):
    """The TUN device; it is there for as long as a process holds it, so a dead one leaves none."""

    name: str
    mtu: int
    """Bytes."""
    queue_length: int
    """Packets."""
    vnet_hdr: bool
    node: str
    """The character device, such as ``/dev/net/tun``."""

    def commands(self) -> list[str]:
        header = " vnet_hdr" if self.vnet_hdr else ""
        return [
            f"ip tuntap add dev {self.name} mode tun{header}",
            f"ip link set dev {self.name} mtu {self.mtu} txqueuelen {self.queue_length}",
        ]

    def undo_commands(self) -> list[str]:
        return [f"ip link del dev {self.name}"]

    def do(self, system: System) -> None:
        system.open_tun(
            self.name,
            mtu=self.mtu,
            queue_length=self.queue_length,
            vnet_hdr=self.vnet_hdr,
            node=self.node,
        )

    def undo(self, system: System) -> None:
        system.close_tun()


@kind
@dataclass(frozen=True, slots=True)
class LinkUp(Step):
    """The TUN up, without a link-local address and router solicitations of its own."""

    vanishes: ClassVar[bool] = True
    device: str
    ipv6: bool

    def _settings(self) -> list[tuple[str, str]]:
        """Return sysctls of the interface, which vanish with it."""
        names = ("disable_ipv6", "0"), ("accept_ra", "0"), ("addr_gen_mode", "1")
        start = f"net.ipv6.conf.{self.device}."
        return [(start + name, value) for name, value in names] if self.ipv6 else []

    def commands(self) -> list[str]:
        settings = [f"sysctl -w {name}={value}" for name, value in self._settings()]
        return [*settings, f"ip link set dev {self.device} up"]

    def undo_commands(self) -> list[str]:
        return []

    def do(self, system: System) -> None:
        for name, value in self._settings():
            # A kernel without the setting makes a link that is a little noisier, no worse.
            if system.read_sysctl(name) is not None:
                system.write_sysctl(name, value)
        system.netlink("link", "set", {"index": self.device, "state": "up"})

    def undo(self, system: System) -> None:
        """Leave it to the end of the TUN."""

    def is_there(self, view: View) -> bool:
        return view.is_up(self.device)

    def remains(self, view: View) -> bool:
        return False


@kind
@dataclass(frozen=True, slots=True)
class Address(Step):
    """An address of the TUN, such as ``198.18.0.1/30``."""

    vanishes: ClassVar[bool] = True
    device: str
    interface: str

    def commands(self) -> list[str]:
        nodad = " nodad" if ":" in self.interface else ""
        return [f"ip address add {self.interface} dev {self.device}{nodad}"]

    def undo_commands(self) -> list[str]:
        return []

    def do(self, system: System) -> None:
        interface = ipaddress.ip_interface(self.interface)
        request: dict[str, Any] = {
            "index": self.device,
            "family": FAMILIES[interface.version],
            "address": str(interface.ip),
            "prefixlen": interface.network.prefixlen,
        }
        if interface.version == 4:
            request["local"] = request["address"]
        else:
            request["flags"] = _NODAD
        system.netlink("addr", "add", request, tolerate=THERE)

    def undo(self, system: System) -> None:
        """Leave it to the end of the TUN."""

    def is_there(self, view: View) -> bool:
        return view.has_address(self.device, self.interface)

    def remains(self, view: View) -> bool:
        return False
