"""Where it is measured: namespaces, the far end with its load, and contenders that are up."""

from __future__ import annotations

import contextlib
import functools
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import trustme

from tests.bench.compare.contenders import Contender
from tests.kits.netns import lab
from tests.kits.netns.child import Child, ChildError, cpu_seconds, descendants, until
from tests.kits.netns.lab import Lab, Namespace
from tests.kits.netns.link import Link

__all__ = ["ECHO_PORT", "NETWORK", "Running", "Site", "load_program", "steal_seconds"]

NETWORK = "25.2.2.0/24"
"""The far end's network, to which a host's only way is its contender."""
ECHO_PORT = 7101
_RECEIVE_BUFFER = 64 << 20
_SEND_BUFFER, _LONG_SEND_BUFFER = 4 << 20, 64 << 20
"""Bytes of a connection at the most. Linux' own limit, and one for what is on its way over 1 Gbit/s
with 100 ms (some 12 MB), several times: 64 connections with that much each way take what memory the
kernel has for TCP, all windows become 4 segments then, and that is what would be measured."""
LOAD_SECONDS = 60.0
"""For which a client of the load may take: its own seconds, and for what is still under way."""
READY_SECONDS = 30.0
"""For which a contender may take until the first byte has come back."""


@functools.cache
def load_program() -> Path:
    """Compile the load, once a process."""
    made = tempfile.TemporaryDirectory(prefix="zks-load-")
    _kept.append(made)
    program = Path(made.name) / "load"
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread"]
    sources = map(str, sorted(Path(__file__).with_name("load").glob("*.c")))
    argv = [shutil.which("gcc") or "cc", *flags, "-o", str(program), *sources]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise RuntimeError(f"the load cannot be compiled: {done.stderr}")
    return program


_kept: list[tempfile.TemporaryDirectory[str]] = []


def steal_seconds() -> tuple[float, float]:
    """Return for how long the CPUs were taken away by the hypervisor, and for how long there were
    any, in ticks since the start of the machine."""
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    ticks = [int(word) for word in words]
    return float(ticks[7]), float(sum(ticks))


@dataclass(frozen=True, slots=True)
class Certificate:
    """Of the servers, for their address."""

    authority: Path
    chain: Path
    """With the key."""


@dataclass(slots=True)
class Running:
    """A contender that is up."""

    contender: Contender
    host: Namespace
    link: Link | None
    processes: Mapping[str, Sequence[int]]
    """The processes that count, by role: ``client``, ``server``."""

    def cpu(self) -> dict[str, float]:
        """Return the CPU seconds that each role has used so far."""
        return {role: sum(map(cpu_seconds, _all(pids))) for role, pids in self.processes.items()}

    def memory(self) -> dict[str, int]:
        """Return the bytes of private memory that each role has."""
        return {role: sum(map(_private, _all(pids))) for role, pids in self.processes.items()}


def _all(pids: Sequence[int]) -> list[int]:
    return [one for pid in pids for one in descendants(pid)]


def _private(pid: int) -> int:
    """Return the bytes that a process has for itself: none where it has ended, by now or already
    before."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = text.partition("RssAnon:")[
        2
    ].split()  # (one that is not waited for yet has no such line)
    return int(found[0]) * 1024 if found else 0


class Site:
    """A lab, with the load's servers at the far end. Close it by its stack.

    :param echoes: processes that serve echo, for more connections than one may have.
    :param long: hosts have links that are long.
    """

    def __init__(self, stack: ExitStack, echoes: int = 1, *, long: bool = False) -> None:
        self._send_buffer = _LONG_SEND_BUFFER if long else _SEND_BUFFER
        self.net = stack.enter_context(contextlib.closing(Lab()))
        for namespace in (self.net.mid, self.net.far):
            self._tune(namespace)
        authority = trustme.CA()
        self.certificate = Certificate(
            self.net.directory / "authority.pem", self.net.directory / "chain.pem"
        )
        authority.cert_pem.write_to_path(self.certificate.authority)
        made = authority.issue_cert(lab.WORKER4, common_name="bench")
        made.private_key_and_cert_chain_pem.write_to_path(self.certificate.chain)
        program = [str(load_program()), "serve", lab.FAR4, str(echoes)]
        self.net.child("load", self.net.far.command(program)).wait_for("^ready$")
        self._servers: dict[str, list[int]] = {}

    def _tune(self, namespace: Namespace) -> None:
        """Have ports for thousands of connections, one after the other, and buffers that may grow
        to what is on its way."""
        namespace.sysctl(
            "net.ipv4.ip_local_port_range=1025 65535",
            "net.ipv4.tcp_tw_reuse=1",
            f"net.ipv4.tcp_rmem=4096 131072 {_RECEIVE_BUFFER}",
            f"net.ipv4.tcp_wmem=4096 16384 {self._send_buffer}",
        )

    def folder(self, name: str) -> Path:
        """Return a folder for files, that goes with the site."""
        path = self.net.directory / name
        path.mkdir(exist_ok=True)
        return path

    def add_host(self, contender: Contender, **link: float) -> tuple[Namespace, Link | None]:
        """Return a namespace for a contender's client, and its link to the server's.

        :param link: settings of the link, see :class:`~tests.kits.netns.link.Settings`.
        """
        made: Link | None = None
        if link:
            host, made = self.net.add_linked_host(segments=not link.get("loss"), **link)
        else:
            host = self.net.add_host()
        self._tune(host)
        if not contender.direct:
            number = host.name.rpartition("host")[2]
            self.net.mid.ip(f"rule add pref 50 iif h{number} to {NETWORK} prohibit")
        return host, made

    def route_when_there(self, host: Namespace, device: str, child: Child) -> None:
        """Have the far end's network behind a device of a host, as soon as there is one."""
        argv = ["ip", "-n", host.name, "route", "replace", NETWORK, "dev", device]

        def done() -> bool:
            if child.process.poll() is not None:
                raise ChildError(f"it has ended\n{child.output}")
            return subprocess.run(argv, capture_output=True, timeout=60).returncode == 0

        until(done, READY_SECONDS, lambda: f"there is no {device}\n{child.output}")

    def note_server(self, contender: Contender, pids: list[int]) -> None:
        """Count these processes as the server of a contender that starts both at once."""
        self._servers[contender.name] = pids

    @contextlib.contextmanager
    def up(
        self, contender: Contender, host: Namespace, link: Link | None = None
    ) -> Iterator[Running]:
        """Have a contender up; the first byte has come back.

        :raises Exception: it does not come up.
        """
        with ExitStack() as stack:
            server = contender.start_server(self, stack)
            client = contender.start_client(self, host, stack)
            self.wait_through(host)
            processes = {"client": client, "server": self._servers.get(contender.name) or server}
            if contender.direct:
                processes = {}
            yield Running(contender, host, link, processes)

    def wait_through(self, host: Namespace) -> None:
        """Wait until a byte comes back from the far end.

        :raises ChildError: none does.
        """
        until_then = time.monotonic() + READY_SECONDS
        why = "nothing was tried"
        with host.entered():
            while time.monotonic() < until_then:
                try:
                    # What was sent before there was a way is not waited for.
                    with socket.create_connection((lab.FAR4, ECHO_PORT), 0.25) as sock:
                        sock.settimeout(2)
                        sock.sendall(b"x")
                        if sock.recv(1) == b"x":
                            return
                        why = "the connection ended at once"
                except OSError as error:
                    why = str(error)
                time.sleep(0.002)
        raise ChildError(f"nothing comes back through it after {READY_SECONDS:g} s: {why}")

    def load(
        self, host: Namespace, what: str, *words: object, timeout: float = LOAD_SECONDS
    ) -> list[str]:
        """Run one of the load's clients in a host; what it printed.

        :raises ChildError: it failed.
        """
        with self.start_load(host, what, *words) as child:
            return child.succeed(timeout).split("\n")

    def start_load(
        self, host: Namespace, what: str, *words: object, stdin: int = subprocess.DEVNULL
    ) -> Child:
        """Start one of the load's clients in a host."""
        argv = [str(load_program()), what, lab.FAR4, *map(str, words)]
        return Child(f"load {what}", host.command(argv), stdin=stdin)
