"""Network namespaces that play host, worker's machine and internet.

::

    host (one or more)  ──veth──  mid: worker, router  ──veth──  far: the internet's servers
    25.1.N.2                      25.1.N.1  25.2.2.1             25.2.2.2, .53
    2a0e:1:N::2                   2a0e:1:N::1  2a0e:2:2::1       2a0e:2:2::2

The ranges are public ones, so a worker takes them without ``--allow``; they exist in these
namespaces only. ``mid`` also routes, so that a host can go directly: that is the control of the
tests. Which way a connection went shows at the far end, as its source address.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.kits.netns import enter
from tests.kits.netns.child import ROOT, SESSION, Child, until
from tests.kits.netns.link import Link

WORKER4, WORKER6 = "25.1.1.1", "2a0e:1:1::1"
WORKER_PORT = 8787
SSH_PORT = 2222
MID4, MID6 = "25.2.2.1", "2a0e:2:2::1"  # where the worker's connections come from
FAR4, FAR6 = "25.2.2.2", "2a0e:2:2::2"
NAMES4 = "25.2.2.53"
PRIVATE4, PRIVATE6 = "10.66.0.1", "fd66::1"  # far answers there, too: only the policy forbids it
NO_ROUTE4, NO_ROUTE6 = "25.66.1.1", "2a0e:66:1::1"  # mid: ENETUNREACH
NO_HOST4, NO_HOST6 = "25.66.2.1", "2a0e:66:2::1"  # mid: EHOSTUNREACH
SILENT4, SILENT6 = "25.66.3.1", "2a0e:66:3::1"  # far drops it
NAMESERVER = "25.250.250.250"  # of the hosts; routed nowhere, so only the tunnel can answer
TOKEN = "correct-horse-battery-staple"
# An ordinary user. In a user namespace the ids that it does not map are 65534, too: as NOBODY one
# does not notice what that breaks.
USER = 1000
NOBODY = 65534

PYTHON = [sys.executable]
ZKS = [sys.executable, "-m", "zks_lwip"]


class Namespace:
    """A named network namespace; ``close`` removes it."""

    def __init__(
        self, name: str, sysctls: Sequence[str] = (), *, state: Path | None = None
    ) -> None:
        """``state`` is what its processes see as /run/zks_lwip."""
        self.state = state
        self.cgroups = False
        """Its processes find cgroup v2 where they expect it, whatever this machine has there."""
        self.name = f"zt-{SESSION[:6]}-{name}"
        self.path = f"/run/netns/{self.name}"
        _execute("ip", "netns", "add", self.name)
        try:
            self.ip("link set lo up")
            defaults = ["net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0"]
            # What a kernel says by ICMP it says each time, however much of it there is beside.
            defaults += ["net.ipv4.icmp_ratemask=0", "net.ipv6.icmp.ratemask=255"]
            self.sysctl(*defaults, *sysctls)
        except BaseException:
            self.close()
            raise

    def ip(self, *lines: str) -> None:
        """Run ``ip`` commands, all in one process, in this namespace."""
        _execute("ip", "-n", self.name, "-batch", "-", stdin="\n".join(lines) + "\n")

    def sysctl(self, *settings: str) -> None:
        _execute("nsenter", f"--net={self.path}", "sysctl", "-qw", *settings)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread, and the threads that it starts, are in this namespace."""
        own = f"/proc/self/task/{threading.get_native_id()}/ns/net"
        home = os.open(own, os.O_RDONLY | os.O_CLOEXEC)
        try:
            enter.set_net(self.path)
            try:
                yield
            finally:
                enter.set_net(f"/proc/self/fd/{home}")
        finally:
            os.close(home)

    def command(
        self,
        argv: Sequence[str],
        *,
        resolv: Path | None = None,
        user: int | None = None,
        tun: Path | None = None,
        sshd: bool = False,
        binds: Mapping[str, Path] | None = None,
        etc: Path | None = None,
    ) -> list[str]:
        """``argv`` preceded by what puts it into this namespace, as ``user``, with own files.

        ``resolv`` becomes its /etc/resolv.conf, ``tun`` its /dev/net/tun, and each path of
        ``binds`` the file beside it. What is in the folder ``etc`` is in /etc, too.
        """
        options = ["--net", self.path, "--sysfs", *(["--cgroups"] if self.cgroups else [])]
        if self.state:
            options += ["--bind", str(self.state), "/run/zks_lwip"]
        if etc:
            options += ["--etc", str(etc)]
        if resolv:
            options += ["--bind", str(resolv), "/etc/resolv.conf"]
        if tun:
            options += ["--bind", str(tun), "/dev/net/tun"]
        for path, source in (binds or {}).items():
            options += ["--bind", str(source), path]
        if sshd:
            options += ["--run-tmpfs"]
        if user is not None:
            for directory in (str(ROOT), sys.prefix, sys.base_prefix):
                options += ["--expose", directory]
            options += ["--user", str(user)]
        return [enter.program(), *options, "--", *argv]

    def settle(self, interface: str) -> None:
        """Wait until it counts as up, and has all that the kernel gives it a moment later.

        What comes later still could be taken for a change that a test has made: a link-local
        address comes some time after the link is up, the routes of an address some time after it.
        """

        def shown(*what: str) -> str:
            return _execute("ip", "-n", self.name, *what, "dev", interface)

        def settled() -> bool:
            routes = shown("-6", "route", "show", "table", "all")
            addresses = re.findall(r"inet6 (\S+)/", shown("-6", "addr", "show"))
            return (
                shown("-br", "link", "show").split()[1:2] in (["UP"], ["UNKNOWN"])  # a TUN's
                and any(address.startswith("fe80:") for address in addresses)
                and all(f"local {address} " in routes for address in addresses)
                and all(f"{prefix} " in routes for prefix in ("fe80::/64", "multicast ff00::/8"))
            )

        until(settled, message=lambda: f"{interface} in {self.name} does not come up")

    def close(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True, timeout=60)


class Lab:
    """``mid`` and ``far`` with their servers, a folder for files, and hosts as asked for."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="zks-lab-"))
        self._stack = contextlib.ExitStack()
        self._stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self._numbers = itertools.count(1)
        try:
            self._build()
        except BaseException:
            self._stack.close()
            raise

    def _build(self) -> None:
        self.directory.chmod(0o755)
        self.token_file = self.secret("token", TOKEN + "\n")
        self.resolv = self.file(
            "resolv.conf", f"nameserver {NAMESERVER}\noptions timeout:2 attempts:5\n"
        )
        self.tun = self.directory / "tun"
        # Others on this machine have instances of their own: ours are not to be found there.
        self.state = self.directory / "state"
        self.state.mkdir(mode=0o700)
        Path("/run/zks_lwip").mkdir(mode=0o700, exist_ok=True)
        self.mid = self.namespace(
            "mid",
            "net.ipv4.ip_forward=1",
            "net.ipv4.tcp_syn_retries=2",  # so that a hung connect() of the worker's ends soon
            "net.ipv6.conf.all.forwarding=1",
            "net.ipv4.ping_group_range=0 2147483647",  # as distributions have it: ECHO
        )
        self.far = self.namespace("far", "net.core.somaxconn=32768")
        self.mid.ip(
            f"link add far0 type veth peer name mid0 netns {self.far.name}",
            f"addr add {MID4}/24 dev far0",
            f"addr add {MID6}/64 dev far0 nodad",
            "link set far0 up",
            f"route add {PRIVATE4}/32 via {FAR4}",
            f"route add unreachable {NO_HOST4}/32",
            f"route add {SILENT4}/32 via {FAR4}",
        )
        self.far.ip(
            f"addr add {FAR4}/24 dev mid0",
            f"addr add {NAMES4}/24 dev mid0",
            f"addr add {FAR6}/64 dev mid0 nodad",
            f"addr add {PRIVATE4}/32 dev lo",
            f"addr add {PRIVATE6}/128 dev lo",
            "link set mid0 up",
            f"route add 25.1.0.0/16 via {MID4}",
            f"route add blackhole {SILENT4}/32",
            f"route add 2a0e:1::/32 via {MID6}",
            f"route add blackhole {SILENT6}/128",
        )
        self.mid.settle("far0")
        self.far.settle("mid0")
        self.mid.ip(
            f"route add {PRIVATE6}/128 via {FAR6}",
            f"route add {SILENT6}/128 via {FAR6}",
            f"route add unreachable {NO_HOST6}/128",
        )
        self.host = self.add_host()
        self.pages = self.directory / "pages"
        self.pages.mkdir()
        argv = [*PYTHON, "-m", "tests.kits.netns.servers", str(self.pages)]
        far = self.child("far servers", self.far.command(argv))
        self.names = self.child(
            "name server", self.far.command([*PYTHON, "-m", "tests.kits.netns.names", NAMES4])
        )
        far.wait_for("servers are ready")
        self.names.wait_for("names are ready")

    def file(self, name: str, text: str, mode: int = 0o644) -> Path:
        path = self.directory / name
        path.write_text(text)
        path.chmod(mode)
        return path

    def secret(self, name: str, text: str) -> Path:
        """A file that ``USER`` and root may read."""
        path = self.file(name, text, 0o600)
        os.chown(path, USER, USER)
        return path

    def namespace(self, name: str, *sysctls: str) -> Namespace:
        made = Namespace(name, sysctls, state=self.state)
        return self._stack.enter_context(contextlib.closing(made))

    def add_host(self) -> Namespace:
        """Another host with its own link to ``mid``, its default routes through it."""
        host, number = self._new_host()
        host.ip(f"link add up0 type veth peer name h{number} netns {self.mid.name}")
        return self._address(host, number)

    def add_linked_host(
        self, *, seed: int = 1, segments: bool = False, **settings: Any
    ) -> tuple[Namespace, Link]:
        """Another host, and its link to ``mid``: an emulated one, with these settings.

        ``up`` is what the host sends. The devices are TUN devices, as those of a modem may be.

        :param settings: :class:`~tests.kits.netns.link.Settings`.
        """
        host, number = self._new_host()
        made = Link(host, "up0", self.mid, f"h{number}", seed=seed, segments=segments)
        link = self._stack.enter_context(made)
        self._address(host, number)
        link.set(**settings)
        return host, link

    def _new_host(self) -> tuple[Namespace, int]:
        number = next(self._numbers)
        # (Patient enough for a machine that is busy elsewhere; silence still ends soon.)
        return self.namespace(f"host{number}", "net.ipv4.tcp_syn_retries=4"), number

    def _address(self, host: Namespace, number: int) -> Namespace:
        """Give addresses and routes to a host and its uplink, up0 there and h``number`` in mid."""
        net4, net6 = f"25.1.{number}", f"2a0e:1:{number}"
        host.ip(
            f"addr add {net4}.2/24 dev up0",
            f"addr add {net6}::2/64 dev up0 nodad",
            "link set up0 up",
        )
        self.mid.ip(
            f"addr add {net4}.1/24 dev h{number}",
            f"addr add {net6}::1/64 dev h{number} nodad",
            f"link set h{number} up",
        )
        host.ip(f"route add default via {net4}.1", f"route add ::/0 via {net6}::1")
        host.settle("up0")
        self.mid.settle(f"h{number}")
        return host

    def tun_node(self) -> Path:
        """A TUN device node of our own that anyone may open; the machine's is left alone."""
        if not self.tun.exists():
            os.mknod(self.tun, 0o666 | 0o020000, os.makedev(10, 200))
            self.tun.chmod(0o666)
        return self.tun

    def child(self, name: str, argv: Sequence[str], **options: Any) -> Child:
        """A child that lives as long as the lab."""
        return self._stack.enter_context(Child(name, argv, **options))

    def application(self, host: Namespace, *argv: str, **options: Any) -> Child:
        """A program in ``host``; its resolv.conf names a server that only a tunnel answers for."""
        return Child(argv[0], host.command(argv, resolv=self.resolv), **options)

    def worker(
        self,
        *options: str,
        listen: str = f"{WORKER4}:{WORKER_PORT}",
        token: bool = True,
        under: Sequence[str] = (),
        zks: Sequence[str] = ZKS,
    ) -> Child:
        """A worker in ``mid``, ready; stop it, or use it as a context manager.

        ``under`` is a command that runs it, ``setpriv`` say; ``zks`` is our command line.
        """
        argv = [*under, *zks, "worker", "--listen", listen, "--resolver", NAMES4, *options]
        if token:
            argv += ["--token-file", str(self.token_file)]
        return _ready(Child("worker", self.mid.command(argv)), r"listening on \S+:\d+")

    @contextlib.contextmanager
    def hostile_worker(self, script: str, port: int) -> Iterator[tuple[Child, str]]:
        """A worker in ``mid`` that a script of :mod:`tests.kits.hostile_worker` leads; its URL."""
        argv = [*PYTHON, "-m", "tests.kits.hostile_worker", script, WORKER4, str(port)]
        with Child(f"hostile {script}", self.mid.command(argv)) as child:
            child.wait_for("hostile worker listens")
            yield child, f"ws://{WORKER4}:{port}"

    def tunnel_options(self, url: str | None = None, *others: str) -> list[str]:
        """The options of a tunnel; ``--worker`` and ``--token-file`` among ``others`` go before."""
        options = ["--plaintext"]
        if "--worker" not in others:
            options += ["--worker", url or f"ws://{WORKER4}:{WORKER_PORT}"]
        if "--token-file" not in others:
            options += ["--token-file", str(self.token_file)]
        return [*options, *others]

    def connect(
        self,
        host: Namespace,
        *options: str,
        url: str | None = None,
        embedded: bool = False,
        ready: bool = True,
        user: int | None = None,
        zks: Sequence[str] = ZKS,
    ) -> Child:
        """``connect`` in ``host``; ``embedded`` leaves ``--worker`` away, ``zks`` runs it."""
        options = options if embedded else (*self.tunnel_options(url, *options),)
        argv = [*zks, "connect", *options]
        child = Child("connect", host.command(argv, resolv=self.resolv, user=user))
        return _ready(child, r"^ready: ") if ready else child

    def run(
        self,
        host: Namespace,
        *command: str,
        options: Sequence[str] = (),
        url: str | None = None,
        embedded: bool = False,
        user: int | None = None,
        resolv: Path | None = None,
        binds: Mapping[str, Path] | None = None,
        etc: Path | None = None,
        under: Sequence[str] = (),
        **more: Any,
    ) -> Child:
        """``run -- command`` in ``host``; as another ``user``, with a TUN node that it may open.

        ``under`` is a command that runs it, as that user.
        """
        argv = [
            *under,
            *ZKS,
            "run",
            *(options if embedded else self.tunnel_options(url, *options)),
            "--",
            *command,
        ]
        tun = None if user is None else self.tun_node()
        resolv = resolv or self.resolv
        command = host.command(argv, resolv=resolv, user=user, tun=tun, binds=binds, etc=etc)
        return Child("run", command, **more)

    def close(self) -> None:
        self._stack.close()


def _ready(child: Child, pattern: str) -> Child:
    try:
        child.wait_for(pattern)
    except BaseException:
        child.__exit__(None, None, None)
        raise
    return child


def _execute(*argv: str, stdin: str = "") -> str:
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}\n{stdin}")
    return done.stdout


def our_namespaces() -> list[str]:
    """Names of this session's namespaces that exist now."""
    directory = Path("/run/netns")
    return sorted(p.name for p in directory.glob(f"zt-{SESSION[:6]}-*"))
