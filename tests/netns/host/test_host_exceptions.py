"""Exceptions hold for the host's own packets, to the right addresses, and for no others; and what
is between the host and its containers is not in the way.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from tests.kits.netns import leak, talk
from tests.kits.netns.child import Child, until
from tests.kits.netns.containers import INTERFACE, address4, container, nft
from tests.kits.netns.lab import Namespace
from tests.kits.netns.leak import Detector, Packet, Prober, Probers, Space
from tests.kits.netns.talk import ALL, BRIEF, MANY, NONE, PATIENT
from tests.netns.host.conftest import Holder, execute, nothing

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes network namespaces")

BROADCAST4, SERVERS6 = "255.255.255.255", "ff02::1:2"


@pytest.mark.parametrize("ports", [[22], [22, 53, 80, 9999]], ids=["ssh", "many"])
@pytest.mark.parametrize("forward", [False, True], ids=["refused", "forward"])
def test_a_container_does_not_leave_by_the_ports_that_are_let_in(
    holder: Holder, detector: Detector, fast_probers: Probers, ports: list[int], forward: bool
) -> None:
    """``--allow-inbound``: connected, killed, taken over."""
    config = {"inbound": ports, "forward": forward}
    holder.order("^closed", config)
    with detector.watching() as found:
        holder.expect("^applied")
        if forward:
            holder.in_tun("4 6 22")
            holder.in_tun("6 6 22")
        fast_probers.rounds(2)
        holder.end("kill")
        fast_probers.rounds(2)
        holder.apply(**config)
        fast_probers.rounds()
    holder.end()
    nothing(found)


@contextlib.contextmanager
def published(host: Namespace, port: int, to: str, inner: int) -> Iterator[None]:
    """As a container engine publishes a port of a container."""
    nft(
        host,
        "table ip published {\nchain pre {\ntype nat hook prerouting priority -100\n"
        f"fib daddr type local meta l4proto {{ tcp, udp }} th dport {port} dnat to {to}:{inner}\n"
        "}\n}",
    )
    try:
        yield
    finally:
        nft(host, "delete table ip published")


@pytest.mark.parametrize("rp_filter", [0, 1])
@pytest.mark.parametrize("inner_port", [80, 53])
def test_callers_reach_a_published_port(
    holder: Holder, space: Space, rp_filter: int, inner_port: int
) -> None:
    """From outside, where the container has NAT: the port is let in, its container's is not."""

    def call(timeout: float = PATIENT) -> tuple[bool, bool]:
        results = []
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with talk.caller(space.gateway, kind, timeout=timeout, host=leak.FAR4) as one:
                results.append(talk.answered(one, leak.CLIENT4, 8022))
        return results[0], results[1]

    with contextlib.ExitStack() as stack:
        inner = stack.enter_context(container(space.client, 3, nat=True))
        stack.enter_context(published(space.client, 8022, address4(3), inner_port))
        stack.enter_context(talk.echo(inner, address4(3), inner_port))
        execute(space, talk.RP_FILTER.format(rp_filter))
        stack.callback(execute, space, talk.RP_FILTER.format(0))
        assert call() == ALL, "the control"
        holder.apply()
        assert call(BRIEF) == NONE
        holder.end()
        holder.apply(inbound=[8022])
        assert call() == ALL
        holder.update({"inbound": [8022], "lan": False})
        assert call() == ALL
        holder.end("kill")
        assert call() == ALL
        holder.apply(inbound=[8022])
        holder.end()


def test_a_lease_is_renewed_by_the_host_alone(
    holder: Holder, space: Space, detector: Detector
) -> None:
    """From its server, wherever that is; DHCPv6 on its link."""

    def sent_to(*ends: tuple[str, int]) -> set[tuple[str, int]]:
        with detector.watching() as found:
            for host, port in ends:
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                client = 546 if family == socket.AF_INET6 else 68
                with talk.datagram_socket(space.client, family, port=client) as one:
                    scope = (
                        (0, talk.index_of(space.client, "up0")) if family == socket.AF_INET6 else ()
                    )
                    talk.send(one, host, port, *scope)
        return {(packet.destination, packet.port) for packet in found}

    renewals = {(leak.GATEWAY4, 67), (leak.FAR4, 67), (SERVERS6, 547)}
    others = {(leak.FAR6, 547), (leak.FAR4, 68), (leak.FAR4, 547)}
    assert sent_to(*renewals, *others) == renewals | others, "the control"
    holder.apply(lan=False)
    assert sent_to(*renewals, *others) == renewals
    holder.end("kill")
    assert sent_to(*renewals, *others) == renewals
    holder.apply(kill_switch="route")
    assert (leak.FAR4, 67) in sent_to((leak.FAR4, 67))
    holder.end()


@pytest.mark.parametrize("mode", ["strict", "route"])
def test_roots_bypass_is_not_the_containers(
    holder: Holder, space: Space, detector: Detector, mode: str
) -> None:
    """To the kernel's rules a packet that it forwards is root's, and DHCP's ports are DHCP."""
    with container(space.client, 3) as inner:
        with Prober(inner, "container", interface=INTERFACE, rate=400) as prober:
            with detector.watching() as found:
                prober.rounds()
            assert found, "the control"
            holder.apply(kill_switch=mode, bypass_users=[0], forward=True)
            for packet in ("4 17 9999", "4 6 80", "4 17 67", "6 17 9999", "6 17 547"):
                holder.in_tun(packet)
            with detector.watching() as found:
                prober.rounds(2)
            with Prober(space.client, "udp4"), detector.watching() as own:
                until(lambda: any(p.source == leak.CLIENT4 for p in detector.seen()))
        assert {p.source for p in own if p.destination == leak.FAR4} == {leak.CLIENT4}
        nothing(found)
        holder.end()


@pytest.mark.parametrize(
    "config",
    [{}, {"forward": True}, {"lan": False}, {"only": ["25.2.0.0/16"]}, {"block_dot": True}],
    ids=["plain", "forward", "nolan", "only", "nodot"],
)
def test_dns_between_two_containers(
    holder: Holder, space: Space, config: dict[str, object]
) -> None:
    """Of one bridge, whose packets the kernel shows to the firewall: they do not leave."""
    ports = (53, 853, 8443)
    with contextlib.ExitStack() as stack:
        asks = stack.enter_context(container(space.client, 3))
        answers = stack.enter_context(container(space.client, 4, bridge="br3"))
        answers.ip("addr add 172.30.3.4/24 dev in1", "addr add fd30:3::4/64 dev in1 nodad")
        both = ("net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables")
        space.client.sysctl(*(f"{name}=1" for name in both))
        stack.callback(space.client.sysctl, *(f"{name}=0" for name in both))
        for port in ports:
            stack.enter_context(talk.echo(answers, "172.30.3.4", port))
        assert all(talk.reaches(asks, "172.30.3.4", port) == ALL for port in ports), "the control"
        holder.apply(**config)
        assert all(talk.reaches(asks, "172.30.3.4", port) == ALL for port in ports)
        with (
            talk.datagram_socket(asks, socket.AF_INET6) as one,
            talk.datagram_socket(answers, socket.AF_INET6, port=53) as other,
        ):
            assert talk.arrives(one, other, "fd30:3::4", 53)
            assert talk.arrives(one, other, "ff02::1", 53, 0, talk.index_of(asks, INTERFACE))
        # What the host itself asks of them is captured as ever.
        assert talk.reaches(space.client, "172.30.3.4", 53, timeout=BRIEF) == NONE
        holder.end("kill")
        assert talk.reaches(asks, "172.30.3.4", 53) == ALL
        holder.apply(**config)
        holder.end()


def test_a_bridge_that_leads_elsewhere_is_none_of_containers(holder: Holder, space: Space) -> None:
    """By a veth pair whose other end is here, say: what crosses it to port 53 is refused again."""

    def leaving() -> str:
        return execute(space, "nft list chain inet zks_lwip leaving")

    def refused() -> int:
        text = execute(space, "nft list counter inet zks_lwip refused")
        return int(text.split("packets ")[1].split()[0])

    with container(space.client, 3) as inner, contextlib.ExitStack() as undo:
        space.client.sysctl("net.bridge.bridge-nf-call-iptables=1")
        undo.callback(space.client.sysctl, "net.bridge.bridge-nf-call-iptables=0")
        holder.apply(lan=False)
        assert '"br3"' in leaving()
        inner.ip(f"neigh add 172.30.3.77 lladdr 02:00:00:00:00:77 dev {INTERFACE}")
        space.client.ip("link add port0 type veth peer name port1", "link set port1 up")
        undo.callback(space.client.ip, "link del port0")
        space.client.ip("link set port0 master br3 up")
        until(lambda: '"br3"' not in leaving())
        before = refused()
        with talk.datagram_socket(inner) as one:
            talk.send(one, "172.30.3.77", 53)
        until(lambda: refused() >= before + MANY)
    holder.end()


@pytest.mark.parametrize("lan", [True, False], ids=["lan", "nolan"])
def test_the_hosts_dhcp_server_answers_its_containers(
    holder: Holder, space: Space, detector: Detector, lan: bool
) -> None:
    """By broadcast and to link-local addresses; and not by its uplink, where the LAN is blocked."""
    with container(space.client, 3) as inner:
        bridge, uplink = (talk.index_of(space.client, name) for name in ("br3", "up0"))
        shown = inner.command(["ip", "-6", "-o", "addr", "show", "dev", "in1", "scope", "link"])
        lines = Child("ip", shown).succeed().splitlines()
        link_local = lines[0].split()[3].split("/")[0]

        def answers() -> list[bool]:
            results = []
            with (
                talk.datagram_socket(space.client, port=67, index=bridge) as server,
                talk.datagram_socket(inner, port=68) as client,
            ):
                results.append(talk.arrives(server, client, BROADCAST4, 68))
            with (
                talk.datagram_socket(
                    space.client, socket.AF_INET6, port=547, index=bridge
                ) as server,
                talk.datagram_socket(inner, socket.AF_INET6, port=546) as client,
            ):
                results.append(talk.arrives(server, client, link_local, 546, 0, bridge))
            return results

        def outside() -> set[str]:
            with detector.watching() as found:
                with talk.datagram_socket(space.client, port=67, index=uplink) as server:
                    talk.send(server, BROADCAST4, 68)
            return {packet.destination for packet in found}

        assert answers() == [True, True] and outside() == {BROADCAST4}, "the control"
        holder.apply(lan=lan)
        assert answers() == [True, True]
        assert outside() == ({BROADCAST4} if lan else set())
        holder.end()


@pytest.mark.parametrize("block", [False, True], ids=["allow", "block"])
@pytest.mark.parametrize("only", [False, True], ids=["all", "only"])
def test_dns_over_tls_to_the_lan(
    holder: Holder, space: Space, detector: Detector, block: bool, only: bool
) -> None:
    """With ``--dot block`` it comes to the gateway, which refuses it; bound to a link, it ends."""
    config = {"block_dot": block, **({"only": ["203.0.113.0/24"]} if only else {})}
    with (
        talk.echo(space.gateway, leak.NEIGHBOUR4, 853),
        talk.echo(space.gateway, leak.NEIGHBOUR4, 8443),
    ):
        assert talk.reaches(space.client, leak.NEIGHBOUR4, 853) == ALL, "the control"
        holder.apply(**config)
        assert talk.reaches(space.client, leak.NEIGHBOUR4, 8443) == ALL
        timeout = BRIEF if block else PATIENT
        with detector.watching() as found:
            seen = len(holder.child.stdout)
            answers = talk.reaches(space.client, leak.NEIGHBOUR4, 853, timeout=timeout)
            with talk.datagram_socket(
                space.client, index=talk.index_of(space.client, "up0")
            ) as one:
                talk.send(one, leak.NEIGHBOUR4, 853)
        assert answers == (NONE if block else ALL)

        def to_dot(packets: dict[Packet, int]) -> bool:
            return any(packet.port == 853 for packet in packets)

        assert to_dot(found) != block
        if block:
            holder.child.wait_for("^tun 4 6 853", after=seen)
            holder.child.wait_for("^tun 4 17 853", after=seen)
        holder.end()


def test_a_container_with_an_address_of_the_hosts(
    holder: Holder, space: Space, detector: Detector
) -> None:
    """A forged IPv6 source, which the kernel forwards, makes no neighbour the host."""
    with container(space.client, 3) as inner, talk.forged(inner) as one:

        def leaves() -> set[int]:
            with detector.watching() as found:
                for port in (547, 9999):
                    for _ in range(MANY):
                        one.sendto(
                            talk.datagram6(leak.CLIENT6, leak.FAR6, 546, port), (leak.FAR6, 0)
                        )
            return {packet.port for packet in found if packet.source == leak.CLIENT6}

        assert leaves() == {547, 9999}, "the control"
        holder.apply(peers=None)
        assert leaves() == set()
        holder.end("kill")
        assert leaves() == set()
        holder.apply()
        holder.end()


def test_a_container_does_not_answer_in_the_hosts_name(
    holder: Holder, space: Space, detector: Detector
) -> None:
    """Who has called a port that is let in from outside hears the host, not what is forged."""
    port, caller = 8022, 9999
    with contextlib.ExitStack() as stack:
        inner = stack.enter_context(container(space.client, 3))
        one = stack.enter_context(talk.forged(inner))
        ends = []
        for net, *bound in (space.client, leak.CLIENT6, port), (space.gateway, leak.FAR6, caller):
            with net.entered():
                ends.append(stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)))
            ends[-1].settimeout(PATIENT)
            ends[-1].bind(tuple(bound))
        server, calls = ends
        forgery = talk.datagram6(leak.CLIENT6, leak.FAR6, port, caller)

        def forge() -> bool:
            with detector.watching() as found:
                for _ in range(MANY):
                    one.sendto(forgery, (leak.FAR6, 0))
            return any(packet.port == caller for packet in found)

        assert forge(), "the control"
        holder.apply(inbound=[port])
        assert not forge()
        talk.send(calls, leak.CLIENT6, port)
        assert server.recv(100) == b"ping"
        assert not forge()
        with detector.watching() as found:
            talk.send(server, leak.FAR6, caller)
        assert any(packet.port == caller for packet in found)
        holder.end()
