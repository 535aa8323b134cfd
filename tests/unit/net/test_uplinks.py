"""Sockets that stay out of the TUN without marks, as on macOS and Windows."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Iterator

import pytest

from zks_lwip.net.sockets import bind_to_uplink, bind_to_uplink_of_windows
from zks_lwip.net.uplinks import set_uplinks, uplink


class Options:
    """Stands for a socket: writes down its options."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int, int | bytes]] = []

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        self.calls.append((level, option, value))


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    set_uplinks({})


def test_it_is_bound_to_the_interface_of_the_default_route() -> None:
    set_uplinks({4: 11, 6: 12})
    sock = Options()
    bind_to_uplink(sock, socket.AF_INET)
    bind_to_uplink(sock, socket.AF_INET6)
    # IP_BOUND_IF and IPV6_BOUND_IF, which test_macos_headers.py finds in the SDK
    assert sock.calls == [(socket.IPPROTO_IP, 25, 11), (socket.IPPROTO_IPV6, 125, 12)]


def test_where_it_leads_is_looked_up_for_every_socket() -> None:
    set_uplinks({4: 11, 6: 11})
    set_uplinks({4: 14})
    sock = Options()
    bind_to_uplink(sock, socket.AF_INET)
    assert sock.calls == [(socket.IPPROTO_IP, 25, 14)] and uplink(6) is None


def test_without_a_default_route_it_leaves_by_none() -> None:
    """Not by the TUN, which an unbound socket would take: that is a loop."""
    sock = Options()
    with pytest.raises(OSError, match="no default route of IPv6") as caught:
        bind_to_uplink(sock, socket.AF_INET6)
    assert caught.value.errno == errno.ENETUNREACH and sock.calls == []


def test_windows_wants_the_index_of_ipv4_in_network_order() -> None:
    set_uplinks({4: 0x0B, 6: 0x0C})
    sock = Options()
    bind_to_uplink_of_windows(sock, socket.AF_INET)
    bind_to_uplink_of_windows(sock, socket.AF_INET6)
    # IP_UNICAST_IF and IPV6_UNICAST_IF, which test_windows_headers.py finds in the SDK
    assert sock.calls == [
        (socket.IPPROTO_IP, 31, b"\0\0\0\x0b"),
        (socket.IPPROTO_IPV6, 31, (0x0C).to_bytes(4, sys.byteorder)),
    ]
    set_uplinks({})
    with pytest.raises(OSError, match="no default route of IPv4"):
        bind_to_uplink_of_windows(sock, socket.AF_INET)
