"""Pings, ICMP errors and path MTU the whole way, and datagrams from any host."""

from __future__ import annotations

import contextlib
import errno
import re
import socket
from collections.abc import Iterator

import pytest

from tests.kits.netns import lab, servers
from tests.kits.netns.child import Child, until
from tests.kits.netns.lab import WORKER4, Lab, Namespace
from tests.kits.netns.mirror import Mirror

DEEP4, DEEP6 = "25.66.5.1", "2a0e:66:5::1"  # behind far, over a link of MTU 1280
OTHER4, OTHER6 = lab.NAMES4, "2a0e:2:2::53"  # far, too
DELAY = 0.08
IP_MTU_DISCOVER, IP_PMTUDISC_DO, IP_MTU, IP_RECVERR = 10, 2, 14, 11
IPV6_MTU_DISCOVER, IPV6_MTU, IPV6_RECVERR = 23, 24, 25
SOL: dict[int, int] = {socket.AF_INET: socket.SOL_IP, socket.AF_INET6: 41}


@pytest.fixture(scope="module")
def deep(net: Lab) -> Iterator[None]:
    """A slow host with a narrow link, behind far."""
    net.far.sysctl("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    with net.far.entered():
        mirror = Mirror("deep0", DELAY)
    try:
        net.far.ip(
            "link set deep0 up mtu 1280",
            f"route add {DEEP4}/32 dev deep0 src {lab.FAR4}",
            f"route add {DEEP6}/128 dev deep0",
            f"addr add {OTHER6}/64 dev mid0 nodad",
        )
        net.mid.ip(f"route add {DEEP4}/32 via {lab.FAR4}", f"route add {DEEP6}/128 via {lab.FAR6}")
        mirror.start()
        yield
        net.mid.ip(f"route del {DEEP4}/32", f"route del {DEEP6}/128")
    finally:
        mirror.close()


def family_of(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


@contextlib.contextmanager
def datagrams(host: Namespace, family: int, errors: bool = False) -> Iterator[socket.socket]:
    """A UDP socket in ``host``; with ``errors`` it is told of all (IP_RECVERR)."""
    with host.entered(), socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(90)
        if errors:
            option = IPV6_RECVERR if family == socket.AF_INET6 else IP_RECVERR
            sock.setsockopt(SOL[family], option, 1)
        yield sock


def times(text: str) -> list[float]:
    """The round trips that ping shows, in seconds."""
    return [float(found) / 1000 for found in re.findall(r"time=([\d.]+) ms", text)]


def true_of(shown: list[float]) -> bool:
    """Whether they are the mirror's: none is shorter; a busy machine makes some longer."""
    assert min(shown) >= DELAY, shown
    return min(shown) < DELAY + 0.5


@pytest.mark.parametrize("far", [DEEP4, DEEP6])
def test_ping_shows_the_true_round_trip(net: Lab, tunnel: Child, deep: None, far: str) -> None:
    """Also with a payload that comes and goes in pieces."""

    def shows_it() -> bool:
        ping = net.application(net.host, "ping", "-c3", "-i0.2", "-W60", "-s1200", far)
        shown = times(ping.succeed())
        assert len(shown) == 3, ping.output
        return true_of(shown)

    until(shows_it)
    near = lab.FAR6 if ":" in far else lab.FAR4  # no narrow link on the way
    ping = net.application(net.host, "ping", "-c1", "-W60", "-s8000", near)
    assert " 0% packet loss" in ping.succeed()


def test_ping_in_run(net: Lab, worker: Child, deep: None, run_host: Namespace) -> None:

    def shows_it() -> bool:
        ping = net.run(run_host, "ping", "-c3", "-i0.2", "-W60", DEEP4)
        shown = times(ping.succeed())
        assert len(shown) == 3, ping.output
        return true_of(shown)

    until(shows_it)


@pytest.mark.parametrize(("mode", "answered"), [("reply", True), ("off", False)])
def test_icmp_option(
    net: Lab, worker: Child, run_host: Namespace, mode: str, answered: bool
) -> None:
    """``reply`` answers for every address, there or not; ``off`` for none but the tunnel's own."""
    patience = 60 if answered else 1
    ping = f"ping -c1 -W{patience}"
    script = f"{ping} {lab.SILENT4}; echo $?; {ping} {lab.FAR6}; echo $?"
    child = net.run(run_host, "sh", "-c", script, options=["--icmp", mode])
    codes = [line for line in child.succeed().splitlines() if line in ("0", "1")]
    assert codes == ["0" if answered else "1"] * 2, child.output


@pytest.mark.parametrize("raw", [True, False])
def test_where_ping_group_range_forbids_it(net: Lab, run_host: Namespace, raw: bool) -> None:
    """A worker with CAP_NET_RAW pings all the same; one without is silent, rather than lie."""
    port = lab.WORKER_PORT + 60 + raw
    under = () if raw else ("setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw")
    net.mid.sysctl("net.ipv4.ping_group_range=1 0")
    try:
        with net.worker("-v", listen=f"{WORKER4}:{port}", under=under) as worker:
            url = f"ws://{WORKER4}:{port}"
            for far in (lab.FAR4, lab.FAR6):
                patience = f"-W{60 if raw else 1}"
                ping = net.run(run_host, "ping", "-c1", patience, "-s3000", far, url=url)
                assert ping.wait() == (0 if raw else 1), ping.output
        assert any("clients cannot ping: " in line for line in worker.stderr) is not raw
    finally:
        net.mid.sysctl("net.ipv4.ping_group_range=0 2147483647")


@pytest.mark.parametrize("far", [lab.FAR4, lab.FAR6])
def test_a_closed_port_is_connection_refused(net: Lab, tunnel: Child, far: str) -> None:
    with datagrams(net.host, family_of(far)) as sock:
        sock.connect((far, servers.CLOSED))
        for _ in range(2):
            sock.send(b"anyone?")
            with pytest.raises(ConnectionRefusedError):
                sock.recv(100)
        sock.connect((far, servers.ECHO))  # the same socket goes on with others
        sock.send(b"you?")
        assert sock.recv(100) == b"you?"


@pytest.mark.parametrize(
    ("far", "number"),
    [
        (lab.NO_ROUTE4, errno.ENETUNREACH),
        (lab.NO_ROUTE6, errno.ENETUNREACH),
        (lab.NO_HOST4, errno.EHOSTUNREACH),
        (lab.NO_HOST6, errno.EHOSTUNREACH),
        (lab.PRIVATE4, errno.EHOSTUNREACH),  # prohibited, as for TCP
        (lab.PRIVATE6, errno.EACCES),
    ],
)
def test_other_errors(net: Lab, tunnel: Child, far: str, number: int) -> None:
    with datagrams(net.host, family_of(far), errors=True) as sock:
        sock.connect((far, servers.ECHO))
        sock.send(b"x")
        with pytest.raises(OSError) as caught:
            sock.recv(100)
        assert caught.value.errno == number


@pytest.mark.parametrize("far", [DEEP4, DEEP6])
def test_too_big_for_the_path(net: Lab, tunnel: Child, deep: None, far: str) -> None:
    """The first large datagram is EMSGSIZE; from then on the system knows, and it arrives."""
    family = family_of(far)
    payload = bytes(range(256)) * 5 + bytes(120)  # 1400
    with datagrams(net.host, family) as sock:
        sock.connect((far, 7))
        sock.send(b"small")
        assert sock.recv(2000) == b"small"
        sock.send(payload)
        with pytest.raises(OSError) as caught:
            sock.recv(2000)
        assert caught.value.errno == errno.EMSGSIZE
        sock.send(payload)
        assert sock.recv(2000) == payload
        option = IPV6_MTU if family == socket.AF_INET6 else IP_MTU
        assert sock.getsockopt(SOL[family], option) == 1280
        whole = IPV6_MTU_DISCOVER if family == socket.AF_INET6 else IP_MTU_DISCOVER
        sock.setsockopt(SOL[family], whole, IP_PMTUDISC_DO)
        with pytest.raises(OSError) as caught:
            sock.send(payload)
        assert caught.value.errno == errno.EMSGSIZE
        sock.send(payload[:1200])
        assert sock.recv(2000) == payload[:1200]


@pytest.mark.parametrize(("far", "other"), [(lab.FAR4, OTHER4), (lab.FAR6, OTHER6)])
def test_full_cone(net: Lab, tunnel: Child, deep: None, far: str, other: str) -> None:
    """A host that knows the worker's port reaches the application, which sees who it is."""
    family = family_of(far)
    with net.far.entered():
        stranger = socket.socket(family, socket.SOCK_DGRAM)
    with stranger, datagrams(net.host, family) as sock:
        stranger.bind((other, 0))
        stranger.settimeout(90)
        sock.sendto(b"who?", (far, servers.WHO))
        mapped, port = sock.recvfrom(200)[0].decode().split()
        stranger.sendto(b"hello", (mapped, int(port)))
        data, source = sock.recvfrom(200)
        assert (data, source[:2]) == (b"hello", stranger.getsockname()[:2])
        sock.sendto(b"and to you", source)
        data, back = stranger.recvfrom(200)
        assert (data, back[:2]) == (b"and to you", (mapped, int(port)))
