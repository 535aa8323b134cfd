"""A command whose only way out is a TUN: user, mount and network namespaces, no privilege (Linux).

:func:`spawn` forks a helper that makes the namespaces and hands over the TUN's descriptor;
:meth:`Rootless.start` makes the helper the command. The command has the caller's uid, groups,
environment, terminal and process group, and no descriptor but standard input, output and error. It
dies with the process that made it. As root with CAP_SYS_ADMIN no user namespace is needed and none
is made.

What stays reachable is what unix sockets reach (a session's D-Bus, a container engine's socket):
those services run outside.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import signal
import socket
import struct
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import trio

from ..._lwip import ffi, lib
from ...device import TUN_NODE, TunDevice, queue_length_for, set_offloads
from ...device.options import DeviceOptions
from ...errors import CommandError, HostError
from ..plan.addresses import TUN_IPV4, TUN_IPV6, other_host
from ..resolv_conf import read_resolv_conf
from .errors import explain
from .mounts import isolation, own_copies, resolv_conf

__all__ = ["Rootless", "spawn"]

_REPORT = struct.Struct("=iiii240s")
_CAP_NET_ADMIN, _CAP_SYS_ADMIN = 12, 21


def spawn(
    *,
    name: str = "zks0",
    mtu: int = 1500,
    vnet_hdr: bool = False,
    queue_length: int | None = None,
    node: str = TUN_NODE,
    ipv4: ipaddress.IPv4Interface = TUN_IPV4,
    ipv6: ipaddress.IPv6Interface | None = TUN_IPV6,
    nameserver: str | None = None,
) -> Rootless:
    """Make the namespaces and the TUN, with addresses and default routes, and wait for them.

    Takes milliseconds. To be called from the main thread, at best before there are others: the
    command lives as long as the thread.

    :param mtu: bytes, 1280 to 65535.
    :param queue_length: packets; None: what takes a burst.
    :param node: the TUN's character device.
    :param ipv6: None leaves IPv6 without a route.
    :param nameserver: what resolv.conf names; None: the other address of ``ipv4``'s network.
    :raises ConfigError: name or MTU cannot be used.
    :raises PrivilegeError: user namespaces or the TUN are not to be had; names the setting.
    :raises HostError: anything else failed.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("spawn() must be called from the main thread: the command dies with it")
    DeviceOptions(tun=name, mtu=mtu)
    user_namespace = not _is_privileged()
    resolv = resolv_conf(nameserver or str(other_host(ipv4)), read_resolv_conf())
    mounts = isolation(resolv, mirror_run=user_namespace)
    if user_namespace:
        mounts += own_copies()
    keep: list[Any] = []  # cffi: memory lives as long as its owner

    def text(value: str) -> Any:
        keep.append(ffi.new("char[]", os.fsencode(value)))
        return keep[-1]

    config = ffi.new(
        "struct zks_nsrun_config *",
        {
            "user_namespace": user_namespace,
            "tun_node": text(node),
            "tun_name": text(name),
            "mtu": mtu,
            "queue_length": queue_length or queue_length_for(mtu),
            "vnet_hdr": vnet_hdr,
            "address4": text(str(ipv4.ip)),
            "prefix4": ipv4.network.prefixlen,
            "address6": ffi.NULL if ipv6 is None else text(str(ipv6.ip)),
            "prefix6": 0 if ipv6 is None else ipv6.network.prefixlen,
            "mount_count": len(mounts),
        },
    )
    array = ffi.new(
        "struct zks_nsrun_mount[]",
        [(int(m.kind), text(m.path), text(m.content), m.mode) for m in mounts],
    )
    config.mounts = array
    report = ffi.new("struct zks_nsrun_report *")
    pid, control, tun = ffi.new("int *"), ffi.new("int *"), ffi.new("int *")
    code = lib.zks_nsrun_spawn(config, report, pid, control, tun)
    if code != 0:
        raise HostError(f"cannot start a process for the command: {os.strerror(-code)}")
    if report.step != lib.ZKS_NSRUN_DONE:
        raise explain(report.step, report.error, os.fsdecode(ffi.string(report.detail)))
    device = TunDevice(tun[0], name, mtu)
    rootless = Rootless(device, pid[0], socket.socket(fileno=control[0]))
    rootless.ipv6, rootless.ping = bool(report.ipv6), bool(report.ping)
    rootless.user_namespace = user_namespace
    if vnet_hdr:
        try:
            set_offloads(device)
        except BaseException:
            rootless.close()
            raise
    return rootless


class Rootless:
    """The helper, later the command; as a context manager its end kills what still runs."""

    ipv6: bool = False
    """The namespace has IPv6."""
    ping: bool = False
    """Unprivileged ``ping`` works in the namespace."""
    user_namespace: bool = True
    """The command has a user namespace of its own."""

    def __init__(self, device: TunDevice, pid: int, control: socket.socket) -> None:
        self.device = device
        """The TUN; closed by :meth:`close`."""
        self.pid = pid
        self._control = control
        self._exit_code: int | None = None
        self._forwarding = False
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError as error:
            control.close()
            device.close()
            os.waitpid(pid, 0)  # the helper ends with its socket
            raise HostError(
                f"cannot watch the command: {error.strerror}; Linux 5.3 or later is needed"
            ) from error

    @property
    def tun_fd(self) -> int:
        """The TUN's descriptor: non-blocking, stays ours."""
        return self.device.fd

    def start(
        self,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> None:
        """Execute the command; returns when it has been, which is at once.

        From now on SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1 and SIGUSR2 that are sent to this
        process go to the command, until it has ended. (Ctrl-C of a terminal reaches it by itself.)

        :param argv: the command; ``argv[0]`` is looked up in the PATH of ``env``.
        :param env: its environment; None: this process's.
        :param cwd: its directory; None: this process's, also when it has been removed or a
            directory above it is closed to this user.
        :raises CommandError: it cannot be executed; exit code 127 (not found) or 126, as of a
            shell.
        """
        environment = dict(os.environ if env is None else env)
        directory = _directory() if cwd is None else os.fspath(cwd)
        strings = [directory, *(candidates := _candidates(argv[0], environment)), *argv]
        strings += [f"{name}={value}" for name, value in environment.items()]
        if any("\0" in string for string in strings):
            raise CommandError(f"{argv[0]!r}: arguments and environment cannot hold NUL", 126)
        blob = b"".join(os.fsencode(string) + b"\0" for string in strings)
        head = struct.pack("=4I", len(blob), len(candidates), len(argv), len(environment))
        lib.zks_nsrun_forward(self._pidfd)
        self._forwarding = True
        # The end of the stream means that it was executed; a helper that was killed looks the same,
        # and shows in wait().
        answer = b""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._control.sendall(head + blob)
            answer = self._control.recv(_REPORT.size, socket.MSG_WAITALL)
        self._control.close()
        if len(answer) == _REPORT.size:
            step, code, _, _, detail = _REPORT.unpack(answer)
            what = os.fsdecode(detail.split(b"\0", 1)[0])
            enters = step == lib.ZKS_NSRUN_CHDIR
            where = "cannot enter its directory" if enters else "cannot run"
            self.close()
            status = 127 if code == errno.ENOENT and step == lib.ZKS_NSRUN_EXEC else 126
            hint = "; give its path, or a name that PATH leads to" if status == 127 else ""
            hint = "; start it in another directory" if enters else hint
            raise CommandError(f"{where} {what}: {os.strerror(code)}{hint}", status)

    async def wait(self) -> int:
        """Wait for the command's end.

        :returns: its exit code, or 128 + n when signal n ended it.
        """
        while self._exit_code is None and not self._reap():
            await trio.lowlevel.wait_readable(self._pidfd)
        assert self._exit_code is not None
        return self._exit_code

    def send_signal(self, number: int) -> None:
        """Send a signal to the command; nothing happens when it has ended."""
        if self._exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def close(self) -> None:
        """Kill the command if it still runs, close the TUN; twice is harmless."""
        if self._exit_code is None:
            self.send_signal(signal.SIGKILL)
            self._reap(0)
        self._control.close()
        self.device.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def _reap(self, options: int = os.WNOHANG) -> bool:
        result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | options)
        if result is None:
            return False
        exited = result.si_code == os.CLD_EXITED
        self._exit_code = result.si_status if exited else 128 + result.si_status
        if self._forwarding:
            self._forwarding = False
            lib.zks_nsrun_forward_stop()
        return True

    def __enter__(self) -> Rootless:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _candidates(program: str, environment: Mapping[str, str]) -> list[str]:
    if "/" in program or not program:
        return [program]
    path = environment.get("PATH", os.defpath)
    return [os.path.join(directory or ".", program) for directory in path.split(os.pathsep)]


def _directory() -> str:
    """Return the working directory's path, which leads to what the command has mounted there.

    Empty where the path does not lead there: the command then inherits the directory itself.
    """
    try:
        path = os.getcwd()
        return path if os.path.samestat(os.stat(path), os.stat(".")) else ""
    except OSError:
        return ""


def _is_privileged() -> bool:
    """Return whether mount and network namespaces can be made without a user namespace."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    line = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    capabilities = int(line.split()[1], 16)
    needed = 1 << _CAP_NET_ADMIN | 1 << _CAP_SYS_ADMIN
    return os.geteuid() == 0 and capabilities & needed == needed
