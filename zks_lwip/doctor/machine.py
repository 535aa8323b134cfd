"""The machine: kernel, privileges, namespaces, TUN, nft, cgroups, resolver, clock. Linux only."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from ..device import open_tun
from ..errors import HostError, PrivilegeError, ZksError
from ..host.linux.cgroup import find_cgroups
from ..host.linux.find_resolver import find_name_servers, find_resolver
from ..host.linux.privileges import check_net_admin
from ..host.linux.table import nft_path
from ..host.programs import run_program
from ..host.resolv_conf import read_name_servers
from ..host.rootless.errors import explain_user_namespace
from ..net.netns import CLONE_NEWNET, NamespaceThread, namespace_id
from .finding import Finding, failed, noted, warned, well

__all__ = ["examine_machine", "in_new_netns"]

T = TypeVar("T")

_OLDEST = (5, 4)
"""The oldest kernel that is tested; distributions have had a later one since 2020."""
_LEASE_KERNEL = (5, 13)
_CLONE_NEWUSER = 0x10000000
_TIME_ERROR = 5  # of adjtimex(2): no program keeps the clock right
_TIMEX_BYTES = 256  # more than its struct timex
_RELEASE = re.compile(r"(\d+)\.(\d+)")

_RULES = """table inet zks_lwip_probe {
    chain out { type filter hook postrouting priority filter; policy accept;
        meta skuid 0 ct mark set 1
        fib saddr type != local drop
    }
    chain names { type nat hook output priority -100; policy accept; }
}
"""
"""What the firewall needs of the kernel."""


def examine_machine() -> Iterator[Finding]:
    """Look at this machine, one thing after the other. Blocks, for some seconds at most."""
    yield _kernel()
    admin = _may_administrate()
    yield _privileges(admin)
    yield _namespaces()
    yield _tun(admin)
    yield _nft(admin)
    yield _cgroups()
    yield _resolver()
    yield _clock()


def in_new_netns(function: Callable[[], T]) -> T:
    """Call a function in a thread that has a network namespace of its own, which ends with it.

    :raises PrivilegeError: this process may not make one.
    """
    thread = NamespaceThread()
    try:
        thread.call(_unshare)
        return thread.call(function)
    finally:
        thread.close()


def _unshare() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise PrivilegeError(f"cannot make a network namespace: {reason}; run it as root")


def kernel_version(release: str) -> tuple[int, int]:
    """Return the first two numbers of a kernel's release; (0, 0): it has none."""
    found = _RELEASE.match(release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _kernel() -> Finding:
    release = platform.release()
    text = f"Linux {release}, {platform.machine()}"
    if kernel_version(release) < _OLDEST:
        return warned("kernel", text, f"use Linux {'.'.join(map(str, _OLDEST))} or later")
    if not Path("/proc/net/if_inet6").exists():
        return noted("kernel", f"{text}; it has no IPv6: programs are offered IPv4 alone")
    return well("kernel", text)


def _may_administrate() -> bool:
    try:
        check_net_admin()
    except PrivilegeError:
        return False
    return True


def _privileges(admin: bool) -> Finding:
    if admin:
        return well("privileges", "CAP_NET_ADMIN is held: `connect` may set the machine up")
    return noted(
        "privileges",
        "no CAP_NET_ADMIN: `run` and `proxy` work, `connect` does not",
        "run it with sudo to look at what `connect` needs",
    )


def _namespaces() -> Finding:
    """Try, in a process of its own, what ``run`` needs."""
    script = (
        "import ctypes, sys\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        f"sys.exit(ctypes.get_errno() if libc.unshare({_CLONE_NEWUSER | CLONE_NEWNET}) else 0)"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", script], capture_output=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError) as error:
        return noted("namespaces", f"whether `run` may make namespaces is not known: {error}")
    if done.returncode == 0:
        return well("namespaces", "user and network namespaces can be made: `run` works")
    text, _, remedy = str(explain_user_namespace(done.returncode)).partition(": ")
    return failed("namespaces", text, remedy)


def _tun(admin: bool) -> Finding:
    node = Path("/dev/net/tun")
    try:
        if admin:
            in_new_netns(lambda: open_tun("zks-doctor").close())
            return well("TUN", f"{node} makes devices")
        os.close(os.open(node, os.O_RDWR | os.O_CLOEXEC))
    except ZksError as error:
        text, bracket, remedy = str(error).partition("): ")
        if not bracket:
            remedy = "load the module (`sudo modprobe tun`), or pass the device"
        return failed("TUN", text + bracket[:1], remedy)
    except OSError as error:
        return failed(
            "TUN",
            f"{node} cannot be opened: {error.strerror}",
            f"`sudo modprobe tun`; everybody must be able to open it (`sudo chmod 0666 {node}`); "
            f"start a container with `--device {node}`",
        )
    return well("TUN", f"{node} can be opened")


def _nft(admin: bool) -> Finding:
    path = nft_path()
    if path is None:
        return failed(
            "nft",
            "nft is not installed: no kill switch",
            "install the package nftables, or say `kill_switch` route",
        )
    try:
        version = run_program([path, "--version"]).split(" (")[0].strip()
        if not admin:
            return well("nft", f"{version} is installed")
        in_new_netns(lambda: run_program([path, "-f", "-"], _RULES))
    except PrivilegeError as error:
        return noted("nft", f"not tried: {error}")
    except HostError as error:
        return failed(
            "nft",
            str(error),
            "use a kernel with nf_tables, its inet family, nat and fib (`sudo modprobe nf_tables`)",
        )
    return well("nft", f"{version} loads the rules of the kill switch")


def _cgroups() -> Finding:
    where = find_cgroups()
    if where is None:
        return noted(
            "cgroups",
            "cgroup v2 is not mounted in /sys/fs/cgroup: no `exclude`",
            "`mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified`",
        )
    if kernel_version(platform.release()) < _LEASE_KERNEL:
        return noted("cgroups", "no `exclude`: nftables tells no cgroups before Linux 5.13")
    return well("cgroups", f"cgroup v2 is at {where}: `exclude` works")


def _resolver() -> Finding:
    servers = read_name_servers(Path("/etc/resolv.conf"))
    asked = f"programs ask {', '.join(servers)}" if servers else "/etc/resolv.conf names no server"
    found = find_resolver(namespace_id(None))
    if found == "resolved":
        return well("resolver", f"{asked}; systemd-resolved runs, and will be told")
    if found == "resolvconf":
        return well("resolver", f"{asked}; resolvconf is there, and will be told")
    if not servers:
        return warned(
            "resolver",
            "/etc/resolv.conf names no server: programs ask 127.0.0.1",
            "write `nameserver 1.1.1.1` into it: any address will do, the tunnel answers",
        )
    if find_name_servers()[1]:
        return noted(
            "resolver", f"{asked}, on this machine; what that asks over port 53 is captured"
        )
    return well("resolver", f"{asked}; port 53 is captured, whatever the address")


def _clock() -> Finding:
    """Ask the kernel whether a program keeps the clock right."""
    libc = ctypes.CDLL(None, use_errno=True)
    state = libc.adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    if state == _TIME_ERROR:
        return noted(
            "clock",
            "no program keeps the clock right; with a wrong one no certificate verifies",
            "start one: `sudo timedatectl set-ntp true`, or chrony",
        )
    if state < 0:
        return noted("clock", f"not known: {os.strerror(ctypes.get_errno())}")
    return well("clock", "it is kept right (NTP)")
