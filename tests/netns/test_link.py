"""The emulated link of the other tests does what it is told, and no more."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.kits.netns.child import Child, until
from tests.kits.netns.lab import Lab, Namespace
from tests.kits.netns.link import Link

NEAR, FAR, OTHER, PORT = "25.9.9.1", "25.9.9.2", "25.9.9.77", 7000
SO_RCVBUFFORCE = 33  # (not in the module)
SIZE = 1472  # of a datagram: 1500 bytes on the link


@dataclass
class Ends:
    """A link, the namespaces at its ends, and a bound UDP socket in each."""

    link: Link
    near: Namespace
    far: Namespace
    here: socket.socket
    there: socket.socket
    sent: int = 0
    """Packets, up."""

    def send(self, count: int, size: int = SIZE) -> None:
        """Send numbered datagrams up."""
        self.sent += count
        for number in range(count):
            self.here.sendto(number.to_bytes(4, "big").ljust(size, b"x"), (FAR, PORT))

    def receive(self) -> list[int]:
        """The numbers that arrive, until nothing is on its way any more."""
        until(self.all_taken)
        until(lambda: self.link.stats()["up"]["travelling"] == 0)
        found: list[int] = []
        self.there.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(int.from_bytes(self.there.recv(2000)[:4], "big"))
        return found

    def all_taken(self) -> bool:
        """Whether the emulator has taken all that was sent."""
        way = self.link.stats()["up"]
        ends = ("packets", "lost", "overflowed", "blackholed", "refused", "travelling")
        return sum(way[key] for key in ends) >= self.sent


@pytest.fixture(scope="module")
def places(net: Lab) -> tuple[Namespace, Namespace]:
    """Without IPv6: nothing is sent but what a test sends."""
    quiet = ["net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"]
    return net.namespace("near", *quiet), net.namespace("beyond", *quiet)


def bound(place: Namespace, address: str) -> socket.socket:
    with place.entered():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
    sock.bind((address, PORT))
    return sock


@contextlib.contextmanager
def linked(places: tuple[Namespace, Namespace], seed: int) -> Iterator[Ends]:
    near, far = places
    with Link(near, "up0", far, "down0", seed=seed) as link:
        near.ip(f"addr add {NEAR}/24 dev up0", "link set up0 up")
        far.ip(f"addr add {FAR}/24 dev down0", "link set down0 up")
        with bound(near, NEAR) as here, bound(far, FAR) as there:
            yield Ends(link, near, far, here, there)


@pytest.fixture
def ends(places: tuple[Namespace, Namespace]) -> Iterator[Ends]:
    with linked(places, 1) as made:
        yield made


def pings(ends: Ends, count: int = 40) -> list[float]:
    """Round trips in milliseconds."""
    ends.sent += count
    argv = ["ping", "-c", str(count), "-i", "0.01", "-W", "60", FAR]
    text = Child("ping", ends.near.command(argv)).succeed()
    return sorted(float(x.split("time=")[1].split()[0]) for x in text.splitlines() if "time=" in x)


# (In the following a busy machine may be in the way, but not always.)


def test_delay_of_each_way(ends: Ends) -> None:
    until(lambda: pings(ends)[0] < 3)
    ends.link.set("up", delay=0.03)
    ends.link.set("down", delay=0.01)

    def true() -> bool:
        times = pings(ends)
        assert len(times) == 40 and times[0] >= 40, times
        return times[0] < 41.5

    until(true)


def test_jitter_overtakes_nothing(ends: Ends) -> None:
    ends.link.set(delay=0.02, jitter=0.02)

    def differ() -> bool:
        times = pings(ends)
        return times[0] < 35 and times[-1] > 45

    until(differ)
    ends.send(300)
    assert ends.receive() == list(range(300))


def test_loss_by_the_seed(places: tuple[Namespace, Namespace]) -> None:
    found = []
    for seed in (7, 7, 8):
        with linked(places, seed) as ends:
            ends.link.set("up", loss=0.2)
            ends.send(2000, size=100)
            found.append(ends.receive())
            up, down = (ends.link.stats()[way] for way in ("up", "down"))
            assert 300 <= up["lost"] <= 500 and up["lost"] + len(found[-1]) == 2000
            assert down["lost"] == up["overflowed"] == up["blackholed"] == 0
    assert found[0] == found[1] != found[2]


def test_rate(ends: Ends) -> None:
    ends.link.set("up", rate=10e6)
    ends.send(1)
    ends.receive()

    def true() -> bool:
        began = time.monotonic()
        ends.send(200)
        ends.there.settimeout(90)
        for _ in range(200):
            ends.there.recv(2000)
        took = time.monotonic() - began
        assert took >= 0.24, "300000 bytes at 10 Mbit/s"
        return took < 0.4

    until(true)


def test_a_queue_that_is_full(ends: Ends) -> None:
    """Ten packets fit; while the burst is sent, perhaps another leaves, each 60 ms."""
    ends.link.set("up", rate=200e3, queue=15000)
    began = time.monotonic()
    ends.send(100)
    until(ends.all_taken)
    left = (time.monotonic() - began) / 0.06
    assert ends.link.stats()["up"]["overflowed"] >= 85 - left
    assert 10 <= len(ends.receive()) <= 13 + left
    up = ends.link.stats()["up"]
    assert up["packets"] + up["overflowed"] == 100


def test_a_blackhole_takes_what_is_on_its_way(ends: Ends) -> None:
    ends.link.set(delay=60)
    ends.send(5)
    until(lambda: ends.link.stats()["up"]["travelling"] == 5)
    ends.link.blackhole()
    ends.send(3)
    until(lambda: ends.link.stats()["up"]["blackholed"] == 8)
    ends.link.restore()
    ends.link.set(delay=0)
    ends.send(1)
    assert ends.receive() == [0]
    ends.link.blackhole("down")
    ends.send(1)
    assert ends.receive() == [0], "the other way is open"


def test_a_cable_that_is_pulled(ends: Ends) -> None:
    def carrier() -> bool:
        argv = ["ip", "-br", "link", "show", "up0"]
        return "NO-CARRIER" not in Child("ip", ends.near.command(argv)).succeed()

    assert carrier()
    ends.link.cut()
    until(lambda: not carrier())
    ends.link.restore()
    until(carrier)
    ends.send(1)
    assert ends.receive() == [0]


def test_a_translation_that_changes(ends: Ends) -> None:
    """The kernels check the checksums of TCP and UDP."""
    ends.link.translate(NEAR, OTHER)
    ends.here.sendto(b"one", (FAR, PORT))
    ends.there.settimeout(90)
    assert ends.there.recvfrom(10) == (b"one", (OTHER, PORT))
    ends.there.sendto(b"two", (OTHER, PORT))
    ends.here.settimeout(90)
    assert ends.here.recvfrom(10) == (b"two", (FAR, PORT))
    with ends.far.entered():
        listener = socket.create_server((FAR, PORT))
    with ends.near.entered():
        caller = socket.socket()
    with listener, caller:
        caller.settimeout(90)
        caller.connect((FAR, PORT))
        taken, peer = listener.accept()
        with taken:
            assert peer[0] == OTHER
            caller.sendall(b"abc")
            assert taken.recv(10) == b"abc"
            ends.link.translate(NEAR, "25.9.9.78")
            taken.sendall(b"to the former address")
            ends.here.sendto(b"three", (FAR, PORT))
            assert ends.there.recvfrom(10) == (b"three", ("25.9.9.78", PORT))
            caller.setblocking(False)
            with pytest.raises(BlockingIOError):
                caller.recv(10)
            caller.setblocking(True)
            caller.settimeout(90)
            caller.sendall(b"x")
            with pytest.raises(ConnectionResetError):  # that kernel does not know this connection
                caller.recv(10)
    ends.link.translate(None)
    ends.here.sendto(b"four", (FAR, PORT))
    assert ends.there.recvfrom(10) == (b"four", (NEAR, PORT))


@pytest.mark.parametrize("settings", [{"delay": -1}, {"loss": 1.5}, {"rate": 1e15}])
def test_what_cannot_be_set(ends: Ends, settings: dict[str, float]) -> None:
    with pytest.raises(AssertionError, match="no such setting"):
        ends.link.set("both", **settings)
