"""Packets that few programs send: what those see that do."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from tests.kits.netns import lab, servers
from tests.kits.netns.child import Child
from tests.kits.netns.commands import counters
from tests.kits.netns.lab import Lab

IP_RECVERR, IPV6_RECVERR = 11, 25
GRE, SCTP = 47, 132


@pytest.mark.parametrize("protocol", [GRE, SCTP])
@pytest.mark.parametrize(("address", "error"), [(lab.FAR4, "ENOPROTOOPT"), (lab.FAR6, "EPROTO")])
def test_a_protocol_that_is_not_carried_is_an_error_at_once(
    net: Lab, tunnel: Child, address: str, error: str, protocol: int
) -> None:
    six = ":" in address
    with (
        net.host.entered(),
        socket.socket(
            socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_RAW, protocol
        ) as sock,
    ):
        if six:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        sock.settimeout(30)
        sock.connect((address, 0))
        sock.send(bytes(40))
        with pytest.raises(OSError, match=os.strerror(getattr(errno, error))):
            sock.recv(1000)


@pytest.mark.parametrize("address", [lab.FAR4, lab.FAR6])
def test_tcp_fast_open(net: Lab, worker: Child, address: str) -> None:
    """The first bytes are in the SYN: they are sent again, and nothing is dropped.

    What is answered late is sent again as a whole, where a machine is busy; but not each time.
    """
    host = net.add_host()
    host.sysctl("net.ipv4.tcp_fastopen=5")  # as a client, and without a cookie
    data = b"".join(servers.pattern(1000))
    found: list[tuple[int, int]] = []
    with net.connect(host) as connect, host.entered():
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        before = counters(connect)["stack"]
        while (1, 0) not in found and len(found) < 3:
            with socket.socket(family, socket.SOCK_STREAM) as sock:
                sock.settimeout(40)
                sent = sock.sendto(data, socket.MSG_FASTOPEN, (address, servers.ECHO))
                sock.sendall(data[sent:])
                assert servers.receive_exactly(sock, len(data)) == data
            told = counters(connect)["stack"]
            assert told["drop_tcp_header"] == 0
            opened, joined = (told[name] - before[name] for name in ("flows_opened", "syn_joined"))
            found.append((opened, joined))
            before = told
        assert (1, 0) in found, f"connections and joined SYNs: {found}"
    connect.no_traceback()
