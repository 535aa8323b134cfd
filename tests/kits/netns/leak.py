"""A leak detector, and the probes that it has to see when nothing holds them back.

::

    client  up0 ──veth── gw0  gateway: the LAN, and by its loopback the internet
    192.168.77.2             192.168.77.1, .9 (a neighbour)    25.2.2.2, 25.2.2.53
    fd77::2                  fd77::1, fd77::9                  2a0e:2:2::2, 2a0e:2:2::53

:class:`Detector` reads every packet that leaves ``client`` by up0, below the firewall (AF_PACKET),
and counts those that no exception explains. :class:`Prober` is a process in
``client`` that sends 50 probes a second, of every kind.
"""

from __future__ import annotations

import collections
import contextlib
import ipaddress
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from tests.kits.netns import probe
from tests.kits.netns.child import Child, until
from tests.kits.netns.containers import INTERFACE, address4, address6, container
from tests.kits.netns.lab import Namespace
from tests.kits.netns.probe import (
    CLIENT4,
    CLIENT6,
    FAR4,
    FAR6,
    GATEWAY4,
    GATEWAY6,
    NAMES4,
    NAMES6,
    NEIGHBOUR4,
    NEIGHBOUR6,
)
from zks_lwip.net.netns import run_in_netns

WORKER4 = "25.9.9.9"

_ETH_P_ALL, _OUTGOING = 3, 4
_RCVBUFFORCE = 33  # SO_RCVBUFFORCE, SOL_PACKET and PACKET_STATISTICS have no names in Python
_SOL_PACKET, _STATISTICS = 263, 6
_INTERNET6 = ipaddress.IPv6Network("2a0e:2::/32")
_NDP = range(133, 138)
_MLD = {131, 132, 143}


class Space:
    """``client`` and its gateway."""

    def __init__(self, *, containers: bool = False) -> None:
        self.containers: list[Namespace] = []
        """One that is routed only, one with NAT, if asked for."""
        more = "-c" if containers else ""
        with contextlib.ExitStack() as stack:
            self.gateway = stack.enter_context(contextlib.closing(Namespace(f"gateway{more}")))
            self.client = stack.enter_context(contextlib.closing(Namespace(f"client{more}")))
            self.gateway.sysctl("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
            self.gateway.ip(
                f"link add gw0 type veth peer name up0 netns {self.client.name}",
                *(f"addr add {a}/24 dev gw0" for a in (GATEWAY4, NEIGHBOUR4)),
                *(f"addr add {a}/64 dev gw0 nodad" for a in (GATEWAY6, NEIGHBOUR6)),
                *(f"addr add {a}/32 dev lo" for a in (FAR4, NAMES4, WORKER4)),
                *(f"addr add {a}/128 dev lo" for a in (FAR6, NAMES6)),
                "link set gw0 up",
            )
            self.client.ip(
                f"addr add {CLIENT4}/24 dev up0",
                f"addr add {CLIENT6}/64 dev up0 nodad",
                "link set up0 up",
                f"route add default via {GATEWAY4}",
                f"route add ::/0 via {GATEWAY6}",
            )
            self.settle()
            if containers:
                self.containers = [
                    stack.enter_context(container(self.client, number, nat=number == 2))
                    for number in (1, 2)
                ]
            self._stack = stack.pop_all()

    def settle(self) -> None:
        """Wait for what the kernel adds to up0 by itself, so that it is not taken for ours."""
        self.client.settle("up0")

    def close(self) -> None:
        self._stack.close()


Packet = collections.namedtuple("Packet", "protocol source destination port sport kind")


def parse(frame: bytes) -> Packet | None:
    """What an Ethernet frame carries; None if it is not IP. ``kind`` is the ICMP type."""
    ethertype = int.from_bytes(frame[12:14], "big")
    ip = frame[14:]
    if ethertype == 0x0800:
        start, protocol = (ip[0] & 15) * 4, ip[9]
        source, destination = ip[12:16], ip[16:20]
    elif ethertype == 0x86DD:
        start, protocol = 40, ip[6]
        source, destination = ip[8:24], ip[24:40]
        if protocol == 0:  # hop-by-hop options, of MLD
            start, protocol = start + 8 * (1 + ip[41]), ip[40]
    else:
        return None
    sport, port = struct.unpack("!HH", ip[start : start + 4])
    addresses = [str(ipaddress.ip_address(a)) for a in (source, destination)]
    icmp = protocol in (socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6)
    if icmp:
        port = sport = 0
    return Packet(protocol, *addresses, port, sport, ip[start] if icmp else 0)


def housekeeping(packet: Packet) -> bool:
    """What a closed host may still send by itself: NDP and MLD, to the link."""
    if packet.protocol != socket.IPPROTO_ICMPV6:
        return False
    destination = ipaddress.IPv6Address(packet.destination)
    if packet.kind in _MLD:
        return destination.is_multicast
    return packet.kind in _NDP and destination not in _INTERNET6


class Detector:
    """Counts what leaves by an interface, by destination and protocol."""

    def __init__(self, net: Namespace, interface: str = "up0") -> None:
        self.allowed: Callable[[Packet], bool] = housekeeping
        self.leaks: collections.Counter[Packet] = collections.Counter()
        self._socket = run_in_netns(
            net.path, socket.socket, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)
        )
        self._socket.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, 16 << 20)
        self._socket.bind((interface, _ETH_P_ALL))
        self._socket.setblocking(False)
        self._dropped = 0
        self._end, end = socket.socketpair()
        self._thread = threading.Thread(target=self._run, args=(end,), daemon=True)
        self._thread.start()

    def _run(self, end: socket.socket) -> None:
        with end:
            while True:
                ready, _, _ = select.select([self._socket, end], [], [])
                order = end.recv(1) if end in ready else b"."
                if not order:
                    return
                self._look()
                if order == b"?":
                    end.sendall(b"!")

    def _look(self) -> None:
        """At all that has left up to now."""
        while True:
            try:
                frame, address = self._socket.recvfrom(200)
            except BlockingIOError:
                return
            except OSError:
                continue  # the interface went down
            if address[2] == _OUTGOING and (packet := parse(frame)):
                if not self.allowed(packet):
                    self.leaks[packet._replace(sport=0)] += 1

    def _catch_up(self) -> None:
        """Return when all that has left before this call has been looked at."""
        self._end.sendall(b"?")
        self._end.recv(1)
        # (Asking sets the kernel's counter back.)
        _, dropped = struct.unpack("=II", self._socket.getsockopt(_SOL_PACKET, _STATISTICS, 8))
        self._dropped += dropped

    def forget(self) -> None:
        """What has leaked up to now."""
        self._catch_up()
        self.leaks.clear()

    def seen(self) -> set[Packet]:
        """What has leaked since the block began, for who waits for it."""
        self._catch_up()
        return set(self.leaks)

    @contextlib.contextmanager
    def watching(self) -> Iterator[collections.Counter[Packet]]:
        """What leaks inside the block (filled when it ends)."""
        time.sleep(0.05)  # (what was let out before may wait for its neighbour's address)
        self.forget()
        self._dropped = 0
        found: collections.Counter[Packet] = collections.Counter()
        yield found
        time.sleep(0.1)
        self._catch_up()
        found.update(self.leaks)
        assert not self._dropped, f"{self._dropped} packets went by unseen"

    def close(self) -> None:
        self._end.close()
        self._thread.join()
        self._socket.close()


class Prober(Child):
    """The probes, running in a namespace until stopped; all of a host's kinds, or these only."""

    def __init__(self, net: Namespace, *only: str, interface: str = "up0", rate: int = 50) -> None:
        argv = [sys.executable, "-I", "-S", probe.__file__, interface, str(rate), *only]
        super().__init__("prober", net.command(argv))
        self.wait_for("probing")

    def rounds(self, count: int = 1, since: int | None = None) -> None:
        """Wait until each kind of probe has been sent that often, from now (or that line) on."""
        seen = len(self.stdout) if since is None else since
        until(  # the first line may be of a round that has begun before
            lambda: self.stdout[seen:].count("round") > count,
            message=lambda: f"the probes are not sent\n{self.output}",
        )

    def stop(self, timeout: float = 15) -> int:
        self.signal(signal.SIGKILL)
        return self.wait(timeout)


class Probers:
    """Probers of a host and of its containers, all at once."""

    def __init__(self, host: Namespace, containers: Sequence[Namespace], rate: int = 50) -> None:
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(Prober(host, rate=rate))
            others = [
                stack.enter_context(Prober(inner, "container", interface=INTERFACE, rate=rate))
                for inner in containers
            ]
            self.each = [first, *others]
            self._stack = stack.pop_all()

    def __enter__(self) -> Probers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def rounds(self, count: int = 1) -> None:
        """Wait until each has sent each of its kinds that often, from now on."""
        seen = [len(prober.stdout) for prober in self.each]
        for prober, start in zip(self.each, seen, strict=True):
            prober.rounds(count, start)


ORIGINS = ("host", "routed", "nat")
"""Where probes may come from: a host, its first container, its second one, which has NAT."""


def check_control(found: Iterable[Packet], origin: str) -> None:
    """That the detector has seen each kind of probe of that origin, by every address it has."""
    seen = {(p.protocol, p.destination, p.port) for p in found}
    udp, tcp = socket.IPPROTO_UDP, socket.IPPROTO_TCP
    # (A connection of an earlier test may be sending its last segment, too.)
    assert seen >= {
        (socket.IPPROTO_ICMP, FAR4, 0),
        (socket.IPPROTO_ICMPV6, FAR6, 0),
        *((udp, host, 9999) for host in (FAR4, FAR6)),
        *((tcp, host, 80) for host in (FAR4, FAR6)),
        *((udp, host, 53) for host in (NAMES4, NAMES6)),
        *((tcp, host, 53) for host in (NAMES4, NAMES6)),
        *((udp, host, 53) for host in (NEIGHBOUR4, NEIGHBOUR6)),
    }
    if origin == "host":
        return
    assert seen >= {(udp, FAR4, 67), (udp, FAR6, 547), (tcp, FAR4, 22), (tcp, FAR6, 22)}
    assert {p.kind for p in found if p.destination == FAR6} >= {131, 135}
    if origin == "routed":
        assert {p.source for p in found if p.destination == FAR4} == {address4(1)}
        assert {p.source for p in found if p.destination == FAR6} == {address6(1)}
