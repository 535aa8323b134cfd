"""Bytes and datagrams arrive whole, both ways, whichever way into the tunnel is taken."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable

import pytest

from tests.kits.netns import client, lab, servers
from tests.kits.netns.child import Child, until
from tests.kits.netns.lab import Lab
from tests.netns.conftest import Way

HUNDRED_MB = 100_000_000


@pytest.mark.parametrize("far", [lab.FAR4, lab.FAR6])
def test_the_far_end_sees_the_worker(way: Way, far: str) -> None:
    assert way.client("who", far) in (lab.MID4, lab.MID6)


@pytest.mark.parametrize("flows", [1, 50])
def test_100_mb_both_ways_at_once(way: Way, flows: int) -> None:
    far = lab.FAR4 if flows == 1 else lab.FAR6
    way.client("duplex", far, flows, HUNDRED_MB)


def test_the_device_takes_large_segments(way: Way) -> None:
    """Whichever way in: one that segments into 1500 bytes is several times slower."""
    assert "vnet_hdr on" in way.start("ip", "-d", "link", "show", "zks0").succeed()


def test_half_close_in_both_orders(way: Way) -> None:
    way.client("half-close", lab.FAR4, 3_000_000)
    way.client("half-close", lab.FAR6, 1)


@pytest.mark.parametrize("size", [1, 1472, 9000, 65507])
def test_udp_echo(tunnel: Child, net: Lab, size: int) -> None:
    payload = bytes(i * 7 & 255 for i in range(size))
    with net.host.entered():
        assert client.udp_exchange(lab.FAR4, servers.ECHO, payload) == payload
        assert client.udp_exchange(lab.FAR6, servers.ECHO, payload) == payload


def test_udp_echo_any_way(way: Way) -> None:
    for size in (1, 1472, 9000):
        way.client("udp", lab.FAR4, size)


def test_udp_keeps_boundaries_and_the_mapping(tunnel: Child, net: Lab) -> None:
    """Empty and many datagrams, one source port at the worker for several targets (full cone)."""
    with net.host.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(90)
        seen = set()
        for port in (servers.WHO, servers.WHO, servers.FULL_CONE):
            sock.sendto(b"", (lab.FAR4, port))
            answer, address = sock.recvfrom(100)
            if port == servers.WHO:
                seen.add(answer)
            else:
                assert (answer, address) == (b"", (lab.FAR4, servers.FULL_CONE + 1))
        assert len(seen) == 1
        assert seen.pop().decode().split()[0] == lab.MID4
        for size in range(20):
            sock.sendto(bytes([size]) * size, (lab.FAR4, servers.ECHO))
        got = sorted(sock.recv(100) for _ in range(20))
        assert got == sorted(bytes([size]) * size for size in range(20))


def test_thousands_of_associations_keep_their_mappings(tunnel: Child, net: Lab) -> None:
    """As with any NAT: the same socket is seen from the same port, others from others."""
    with net.host.entered(), contextlib.ExitStack() as stack:
        kind = socket.SOCK_DGRAM
        sockets = [stack.enter_context(socket.socket(type=kind)) for _ in range(2500)]
        seen: list[bytes] = []
        for first in [*range(0, 2500, 25)] * 2:  # few at once: a queue may drop the rest
            for sock in sockets[first : first + 25]:
                sock.settimeout(90)
                sock.sendto(b"who?", (lab.FAR4, servers.WHO))
            seen += [sock.recv(100) for sock in sockets[first : first + 25]]
        assert seen[:2500] == seen[2500:] and len(set(seen)) == 2500


def test_udp_to_a_closed_port_is_refused(tunnel: Child, net: Lab) -> None:
    with net.host.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(90)
        sock.connect((lab.FAR4, servers.CLOSED))
        sock.send(b"anyone?")
        with pytest.raises(ConnectionRefusedError):
            sock.recv(100)


def test_ping_through_the_worker(tunnel: Child, net: Lab) -> None:
    for far in (lab.FAR4, lab.FAR6):
        text = net.application(net.host, "ping", "-c2", "-i0.2", "-W60", far).succeed()
        assert " 0% packet loss" in text


@pytest.mark.parametrize("far", [lab.FAR4, lab.FAR6])
def test_a_reset_by_the_far_end_reaches_the_application(tunnel: Child, net: Lab, far: str) -> None:
    with net.host.entered(), client.connect(far, servers.RESET) as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_a_reset_by_the_application_reaches_the_far_end(tunnel: Child, net: Lab) -> None:
    with net.host.entered():
        before = client.counters(lab.FAR4).get(f"reset {servers.ECHO}", 0)
        sock = client.connect(lab.FAR4, servers.ECHO)
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        until(lambda: client.counters(lab.FAR4).get(f"reset {servers.ECHO}", 0) > before)


def test_one_who_stops_reading_holds_up_no_other_connection(tunnel: Child, net: Lab) -> None:
    """Backpressure goes to the far end; others transfer on; when read, nothing is missing."""
    total = 60_000_000
    with net.host.entered(), client.connect(lab.FAR4, servers.SOURCE) as lazy:
        before = client.counters(lab.FAR4).get("source bytes", 0)
        lazy.sendall(struct.pack("!Q", total))
        stuck = _settled(lambda: client.counters(lab.FAR4).get("source bytes", 0), before)
        assert stuck - before < total * 3 // 4, "nothing held the far end back"
        client.duplex_many(lab.FAR4, servers.DUPLEX, 2, 50_000_000)
        client.download(lab.FAR6, servers.SOURCE, 50_000_000)
        assert servers.digest_of(lazy) == (total, servers.pattern_digest(total))


def test_a_far_end_that_never_reads_holds_up_no_other_connection(tunnel: Child, net: Lab) -> None:
    """The far end's closed window reaches the application, which then can send no more."""
    with net.host.entered(), client.connect(lab.FAR4, servers.HANG) as hung:
        sent = 0
        hung.settimeout(3)
        with pytest.raises(TimeoutError):
            while sent < 200_000_000:
                sent += hung.send(bytes(65536))
        client.duplex_many(lab.FAR4, servers.DUPLEX, 2, 50_000_000)
        assert sent < 50_000_000


def test_many_short_connections(tunnel: Child, net: Lab) -> None:
    with net.host.entered():
        for number in range(100):
            assert client.who(lab.FAR4 if number % 2 else lab.FAR6) in (lab.MID4, lab.MID6)


def _settled(read: Callable[[], int], start: int) -> int:
    """The value of ``read()`` once it has left ``start`` and then been the same for two seconds."""
    deadline = time.monotonic() + 40
    value, since = read(), time.monotonic()
    while time.monotonic() < deadline:
        time.sleep(0.1)
        previous, value = value, read()
        if value != previous or value == start:
            since = time.monotonic()
        elif time.monotonic() - since > 2:
            break
    return value
