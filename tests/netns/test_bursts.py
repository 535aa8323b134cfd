"""What applications send in one burst, faster than anything here wakes, is not lost on its way."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.kits.netns import lab, servers
from tests.kits.netns.child import Child, until
from tests.kits.netns.commands import counters, flows
from tests.kits.netns.lab import PYTHON, Lab, Namespace

SO_RCVBUFFORCE = 33
ROOM = 16 << 20  # bytes: what comes is for the socket to keep until we have sent all
ECHO = """
import socket, sys
sock = socket.socket(type=socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)
sock.bind((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
while True:
    data, peer = sock.recvfrom(65536)
    sock.sendto(data, peer)
"""
ECHO_PORT = 9200
#: Many connections with a byte each that is not read: the kernel of a program that is killed with
#: them sends RST, once.
CLIENTS = """
import resource, socket, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
socks = []
for _ in range(int(sys.argv[3])):
    sock = socket.create_connection((sys.argv[1], int(sys.argv[2])), 60)
    sock.sendall(b"x")
    sock.recv(1, socket.MSG_PEEK)
    socks.append(sock)
print("open", flush=True)
time.sleep(1000)
"""


@pytest.fixture(scope="module")
def roomy_echo(net: Lab) -> Iterator[None]:
    """A UDP echo whose socket takes a burst, whatever else this machine does."""
    argv = net.far.command([*PYTHON, "-c", ECHO, lab.FAR4, str(ECHO_PORT)])
    with Child("roomy echo", argv) as child:
        child.wait_for("ready")
        yield


@contextlib.contextmanager
def roomy_socket(host: Namespace, address: tuple[str, int]) -> Iterator[socket.socket]:
    with host.entered(), socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ROOM)
        sock.settimeout(90)
        sock.connect(address)
        yield sock


def dropped_by_the_device(host: Namespace) -> int:
    argv = host.command(["cat", "/sys/class/net/zks0/statistics/tx_dropped"])
    return int(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("size", [16, 1200])
def test_500_datagrams_at_once(net: Lab, tunnel: Child, roomy_echo: None, size: int) -> None:
    before = dropped_by_the_device(net.host)
    with roomy_socket(net.host, (lab.FAR4, ECHO_PORT)) as sock:
        sock.send(b"the association is open")
        sock.recv(100)
        for number in range(500):
            sock.send(number.to_bytes(4, "big") + bytes(size - 4))
        got = {sock.recv(2000) for _ in range(500)}
    assert {int.from_bytes(data[:4], "big") for data in got} == set(range(500))
    assert dropped_by_the_device(net.host) == before


SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104


@pytest.mark.parametrize("gathers", [False, True], ids=["one by one", "gathered"])
def test_datagrams_that_programs_send_several_at_once(
    net: Lab, tunnel: Child, roomy_echo: None, gathers: bool
) -> None:
    """As QUIC does: the kernel cuts what a program sends (UDP_SEGMENT), or leaves that to the
    device; and what comes back at once a program may have in one piece (UDP_GRO)."""
    rounds, each = 8, 1200
    with roomy_socket(net.host, (lab.FAR4, ECHO_PORT)) as sock:
        sock.send(b"the association is open")
        sock.recv(100)
        sock.setsockopt(SOL_UDP, UDP_SEGMENT, each)
        if gathers:
            sock.setsockopt(SOL_UDP, UDP_GRO, 1)
        sent = []
        for first in range(0, rounds * 41, 41):
            pieces = [(first + n).to_bytes(4, "big") * (each // 4) for n in range(40)]
            pieces.append((first + 40).to_bytes(4, "big"))  # the last may be shorter
            sock.send(b"".join(pieces))
            sent += pieces
        got: list[bytes] = []
        while len(got) < len(sent):
            data, ancillary, _, _ = sock.recvmsg(65536, socket.CMSG_SPACE(4))
            size = len(data)
            for level, kind, value in ancillary:
                if (level, kind) == (SOL_UDP, UDP_GRO):
                    size = int.from_bytes(value, "little")
            got += [data[at : at + size] for at in range(0, len(data), size)]
            assert gathers or len(data) == size
    assert got == sent
    stats = counters(tunnel)["stack"]
    assert stats["drop_udp_header"] == 0 and stats["drop_checksum"] == 0


def test_3000_dns_queries_at_once(net: Lab, worker: Child) -> None:
    """From one socket, for 300 names that are not in the cache."""
    host, count = net.add_host(), 3000
    with (
        net.connect(host, "--dns-via", "worker") as connect,
        roomy_socket(host, (lab.NAMESERVER, 53)) as sock,
    ):
        for ident in range(count):
            name = b"\x04n%03d\x03zks\x04test\x00" % (ident % 300)
            sock.send(struct.pack("!6H", ident, 0x100, 1, 0, 0, 0) + name + b"\x00\x01\x00\x01")
        codes: Counter[int] = Counter()
        left = set(range(count))
        while left:
            answer = sock.recv(2000)
            ident, flags = struct.unpack_from("!HH", answer)
            left.discard(ident)
            codes[flags & 15] += 1
        print(f"codes: {dict(codes)}")
        assert dropped_by_the_device(host) == 0
    connect.no_traceback()


def test_a_program_that_is_killed_leaves_no_connection(net: Lab, worker: Child) -> None:
    count = 1500
    host = net.add_host()
    argv = [*PYTHON, "-c", CLIENTS, lab.FAR4, str(servers.IDLE), str(count)]
    with net.connect(host, "--keepalive", "0") as connect:
        with net.application(host, *argv) as program:
            program.wait_for("open", 200)
            assert flows(connect) == count
            program.process.kill()
            program.wait()
            until(lambda: flows(connect) == 0)
        assert counters(connect)["stack"]["keepalive_probes"] == 0
    connect.no_traceback()
