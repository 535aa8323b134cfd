"""Sends probes of every kind, in turn, until killed: ``probe.py INTERFACE RATE [KIND]…``.

The kind ``container`` stands for all of them, and for those that are the host's to send, not its
containers' (DHCP, MLD and such), or that go to ports which the host lets in (``--allow-inbound``).

Imports only the standard library, so that it is quickly there. A kind is ``udp4``, ``tcp6-bound``
(to the interface, SO_BINDTODEVICE), ``dns4-unicast-if`` (IP_UNICAST_IF) and so on.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import sys
import time
from collections.abc import Callable

GATEWAY4, GATEWAY6 = "192.168.77.1", "fd77::1"
NEIGHBOUR4, NEIGHBOUR6 = "192.168.77.9", "fd77::9"
CLIENT4, CLIENT6 = "192.168.77.2", "fd77::2"
FAR4, FAR6 = "25.2.2.2", "2a0e:2:2::2"
NAMES4, NAMES6 = "25.2.2.53", "2a0e:2:2::53"

_IP_UNICAST_IF = 50


def _udp(family: int, host: str, port: int, *options: tuple[int, int, bytes]) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        for option in options:
            probe.setsockopt(*option)
        probe.connect((host, port))
        probe.send(b"\x12\x34\x01\0\0\1\0\0\0\0\0\0\4leak\4test\0\0\1\0\1")


def _tcp(family: int, host: str, port: int, *options: tuple[int, int, bytes]) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        for option in options:
            probe.setsockopt(*option)
        probe.setblocking(False)
        probe.connect_ex((host, port))


def _dhcp(family: int, host: str, client: int, server: int) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind(("", client))
        probe.sendto(b"no DHCP at all", (host, server))


def _icmp6(host: str, kind: int, hops: int) -> None:
    """What looks as NDP's or MLD's when it has been forwarded."""
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as probe:
        probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, hops)
        probe.sendto(bytes([kind, *bytes(23)]), (host, 0))


def _ping(family: int, host: str, *options: tuple[int, int, bytes]) -> None:
    v4 = family == socket.AF_INET
    protocol = socket.IPPROTO_ICMP if v4 else socket.IPPROTO_ICMPV6
    with socket.socket(family, socket.SOCK_RAW, protocol) as probe:
        for option in options:
            probe.setsockopt(*option)
        body = struct.pack("!BBHHH", 8 if v4 else 128, 0, 0xF7FF - 0x1234 if v4 else 0, 0x1234, 0)
        probe.sendto(body, (host, 0))


def probes(interface: str) -> dict[str, Callable[[], None]]:
    """Every kind of probe by name."""
    device = (socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
    unicast = (
        socket.IPPROTO_IP,
        _IP_UNICAST_IF,
        struct.pack("!I", socket.if_nametoindex(interface)),
    )
    found: dict[str, Callable[[], None]] = {}
    for version, family, far, names, lan in (
        (4, socket.AF_INET, FAR4, NAMES4, NEIGHBOUR4),
        (6, socket.AF_INET6, FAR6, NAMES6, NEIGHBOUR6),
    ):
        options = {"": (), "-bound": (device,)} | (
            {"-unicast-if": (unicast,)} if version == 4 else {}
        )
        for name, option in options.items():
            end = f"{version}{name}"
            found[f"udp{end}"] = lambda f=family, h=far, o=option: _udp(f, h, 9999, *o)
            found[f"tcp{end}"] = lambda f=family, h=far, o=option: _tcp(f, h, 80, *o)
            found[f"ping{end}"] = lambda f=family, h=far, o=option: _ping(f, h, *o)
            found[f"dns{end}"] = lambda f=family, h=names, o=option: _udp(f, h, 53, *o)
            found[f"dnstcp{end}"] = lambda f=family, h=names, o=option: _tcp(f, h, 53, *o)
            found[f"landns{end}"] = lambda f=family, h=lan, o=option: _udp(f, h, 53, *o)
    found |= {
        "dhcp4": lambda: _dhcp(socket.AF_INET, FAR4, 68, 67),
        "dhcp6": lambda: _dhcp(socket.AF_INET6, FAR6, 546, 547),
        "mld6": lambda: _icmp6(FAR6, 131, 2),
        "ndp6": lambda: _icmp6(FAR6, 135, 255),
        "ssh4": lambda: _tcp(socket.AF_INET, FAR4, 22),
        "ssh6": lambda: _tcp(socket.AF_INET6, FAR6, 22),
    }
    return found


_OF_CONTAINERS = {"dhcp4", "dhcp6", "mld6", "ndp6", "ssh4", "ssh6"}


def main(interface: str, rate: str, *only: str) -> None:
    """Send probes in turn, ``rate`` a second; a line tells that all have had theirs."""
    kinds = probes(interface)
    if "container" not in only:
        wanted = only or kinds.keys() - _OF_CONTAINERS
        kinds = {name: probe for name, probe in kinds.items() if name in wanted}
    print("probing", json.dumps(list(kinds)), flush=True)
    while True:
        for probe in kinds.values():
            # Refused is what it should be; who looks are the detector and the counters.
            with contextlib.suppress(OSError):
                probe()
            time.sleep(1 / int(rate))
        print("round", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
