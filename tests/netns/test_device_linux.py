"""The TUN device of Linux, made in namespaces of our own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kits.netns.child import ROOT, until
from tests.kits.netns.lab import NOBODY, Namespace
from zks_lwip.device import Offload, TunDevice, open_tun
from zks_lwip.errors import ConfigError, DeviceError, HostError, PrivilegeError
from zks_lwip.net.netns import NamespaceThread, namespace_id, run_in_netns

pytestmark = pytest.mark.usefixtures("machine_is_left_as_found")


@pytest.fixture
def net() -> Iterator[Namespace]:
    with contextlib.closing(Namespace("device")) as namespace:
        yield namespace


def link(net: Namespace, name: str = "zks0") -> str:
    argv = ["ip", "-n", net.name, "-d", "link", "show", name]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60).stdout


def threads() -> set[str]:
    """Those of this process; one that was joined is there for a moment more."""
    return set(os.listdir("/proc/self/task"))


def packets(device: TunDevice) -> Iterator[bytes]:
    """What comes out of the device, which the kernel may put in later than it was sent."""
    while True:
        assert select.select([device.fd], [], [], 30)[0], "nothing comes out"
        yield os.read(device.fd, 2000)


def test_it_is_made_in_the_namespace_and_vanishes_with_its_descriptor(net: Namespace) -> None:
    home, before = os.readlink("/proc/thread-self/ns/net"), threads()
    name = f"zkt{os.getpid()}"  # this machine may have a zks0 of its own
    with open_tun(name, mtu=1400, netns=net.name, queue_length=32) as device:
        shown = link(net, name)
        assert " mtu 1400 " in shown and "qlen 32" in shown and "tun type tun pi off" in shown
        assert (device.name, device.mtu, device.vnet_hdr) == (name, 1400, False)
        assert not os.get_blocking(device.fd) and not os.get_inheritable(device.fd)
        assert name not in {link for _, link in socket.if_nameindex()}
    device.close()
    assert link(net, name) == ""
    assert os.readlink("/proc/thread-self/ns/net") == home
    until(lambda: threads() <= before)


def test_offloads_are_had(net: Namespace) -> None:
    with open_tun(netns=net.path, vnet_hdr=True) as device:
        assert "vnet_hdr on" in link(net)
        assert device.vnet_hdr and device.vnet_header_size == 10
        tcp = Offload.CSUM | Offload.TSO4 | Offload.TSO6 | Offload.TSO_ECN
        assert device.offloads in (tcp, tcp | Offload.USO4 | Offload.USO6)  # as of Linux 6.2
        size = fcntl.ioctl(device.fd, 0x800454D7, b"\0" * 4)  # TUNGETVNETHDRSZ
        assert struct.unpack("i", size) == (10,)


def test_packets_pass_both_ways(net: Namespace) -> None:
    with open_tun(netns=net.name) as device:
        net.ip("addr add 198.18.0.1/30 dev zks0", "link set zks0 up")
        udp = run_in_netns(net.name, socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        with udp:
            udp.settimeout(30)
            udp.bind(("198.18.0.1", 4000))
            udp.sendto(b"out", ("198.18.0.2", 5000))
            packet = next(p for p in packets(device) if (p[0] >> 4, p[9]) == (4, 17))
            assert packet[12:20] == bytes([198, 18, 0, 1, 198, 18, 0, 2]) and packet[-3:] == b"out"
            # Send it back: addresses and ports change places, which leaves the checksums right.
            back = packet[:12] + packet[16:20] + packet[12:16] + packet[22:24] + packet[20:22]
            os.write(device.fd, back + packet[24:])
            assert udp.recvfrom(100) == (b"out", ("198.18.0.2", 5000))


@pytest.mark.parametrize("taken", ["tun", "other"])
def test_a_name_that_is_taken(net: Namespace, taken: str) -> None:
    kind = "tuntap add zks7 mode tun" if taken == "tun" else "link add zks7 type bridge"
    net.ip(kind)
    with pytest.raises(DeviceError, match="zks7 is taken"):
        open_tun("zks7", netns=net.name)
    assert link(net, "zks7")


@pytest.mark.parametrize("name", ["", "a" * 16, "a b", "../x", "a/b", ".", "-x", "é", "x%d"])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(ConfigError, match="no interface name"):
        open_tun(name)


@pytest.mark.parametrize("mtu", [0, 1279, 65536])
def test_mtu_out_of_range(mtu: int) -> None:
    with pytest.raises(ConfigError, match="give 1280 .* to 65535"):
        open_tun(mtu=mtu)


def test_what_is_missing_is_named(net: Namespace) -> None:
    with pytest.raises(DeviceError, match="modprobe tun"):
        open_tun(netns=net.name, node="/dev/net/no-tun")
    with pytest.raises(ConfigError, match="no network namespace zt-none"):
        open_tun(netns="zt-none")
    with pytest.raises(HostError, match="cannot enter"):
        open_tun(netns="/etc/hostname")
    with pytest.raises(DeviceError, match="cannot be made"):
        open_tun(netns=net.name, node="/dev/null")


def test_without_privilege(net: Namespace, tmp_path: Path) -> None:
    node = tmp_path / "tun"  # distributions have one that all users may open
    os.mknod(node, 0o600 | stat.S_IFCHR, os.makedev(10, 200))
    code = (
        "import sys\n"
        "from zks_lwip.device import open_tun\n"
        "from zks_lwip.errors import PrivilegeError\n"
        "for netns in (None, sys.argv[1]):\n"
        "    try: open_tun('zks9', netns=netns)\n"
        "    except PrivilegeError as error: print(error)\n"
    )
    argv = net.command([sys.executable, "-c", code, net.name], user=NOBODY, tun=node)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, cwd=ROOT)
    first, second = done.stdout.splitlines()
    assert "chmod 0666 /dev/net/tun" in first and "CAP_SYS_ADMIN" in second


def test_the_thread_stays_in_the_namespace_and_programs_follow(net: Namespace) -> None:
    thread = NamespaceThread(net.name)
    try:
        inside = thread.call(os.readlink, "/proc/thread-self/ns/net")
        assert inside == f"net:[{namespace_id(net.name)}]" != os.readlink("/proc/self/ns/net")
        links = thread.call(subprocess.check_output, ["ip", "-br", "link"])
        assert links.split()[0] == b"lo" and len(links.splitlines()) == 1
        with pytest.raises(ZeroDivisionError):
            thread.call(divmod, 1, 0)
    finally:
        thread.close()
        thread.close()


async def test_the_thread_serves_trio() -> None:
    thread = NamespaceThread()
    try:
        assert await thread.run(divmod, 7, 2) == (3, 1)
        with pytest.raises(PrivilegeError):
            await thread.run(_raise, PrivilegeError("no"))
    finally:
        thread.close()


def _raise(error: Exception) -> None:
    raise error
