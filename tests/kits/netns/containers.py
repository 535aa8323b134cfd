"""Containers behind a host: namespaces whose packets it forwards, with NAT and without.

::

    container  in1 ──veth── inN, port of brN  host  up0 ── …
    172.30.N.2              172.30.N.1
    fd30:N::2               fd30:N::1
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.kits.netns.child import Child
from tests.kits.netns.lab import Namespace

__all__ = ["INTERFACE", "address4", "address6", "container", "nft"]

INTERFACE = "in1"
"""Of a container."""


def address4(number: int) -> str:
    """Of the container with that number."""
    return f"172.30.{number}.2"


def address6(number: int) -> str:
    """Of the container with that number."""
    return f"fd30:{number}::2"


@contextlib.contextmanager
def container(
    host: Namespace, number: int = 0, *, nat: bool = False, bridge: str = ""
) -> Iterator[Namespace]:
    """A container of ``host``, behind a bridge of its own, or one more behind that ``bridge``."""
    name, link = f"{host.name.split('-', 2)[2]}-in{number}", bridge or f"br{number}"
    with contextlib.closing(Namespace(name)) as inner, contextlib.ExitStack() as undo:
        host.sysctl("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        if not bridge:
            undo.callback(host.sysctl, "net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0")
            host.ip(f"link add {link} type bridge")
            undo.callback(host.ip, f"link del {link}")
            host.ip(
                f"addr add 172.30.{number}.1/24 dev {link}",
                f"addr add fd30:{number}::1/64 dev {link} nodad",
            )
        host.ip(f"link add in{number} type veth peer name {INTERFACE} netns {inner.name}")
        undo.callback(host.ip, f"link del in{number}")
        host.ip(f"link set in{number} master {link}", f"link set in{number} up")
        host.ip(f"link set {link} up")
        inner.ip(
            f"addr add {address4(number)}/24 dev {INTERFACE}",
            f"addr add {address6(number)}/64 dev {INTERFACE} nodad",
            f"link set {INTERFACE} up",
            f"route add default via 172.30.{number}.1",
            f"route add ::/0 via fd30:{number}::1",
        )
        if nat:
            undo.enter_context(_masquerade(host, number, link))
        for interface in (f"in{number}", link):
            host.settle(interface)
        inner.settle(INTERFACE)
        yield inner


@contextlib.contextmanager
def _masquerade(host: Namespace, number: int, link: str) -> Iterator[None]:
    """NAT as of a container engine."""
    name = f"nat{number}"
    rules = (("ip", f"172.30.{number}.0/24"), ("ip6", f"fd30:{number}::/64"))
    nft(host, *(
        f"table {family} {name} {{ chain post {{ type nat hook postrouting priority 100; "
        f"{family} saddr {network} oifname != {link} masquerade\n}}\n}}"
        for family, network in rules
    ))  # fmt: skip
    try:
        yield
    finally:
        nft(host, *(f"delete table {family} {name}" for family, _ in rules))


def nft(net: Namespace, *lines: str) -> None:
    """Run commands of nft(8) there."""
    Child("nft", net.command(["nft", "\n".join(lines)])).succeed()
