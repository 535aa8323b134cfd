"""``run -- CMD``: a program in a namespace of its own, as root and as another user."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import socket
import subprocess
import time

import pytest

from tests.kits.netns import lab, machine, servers
from tests.kits.netns.child import ROOT, Child, until
from tests.kits.netns.lab import PYTHON, USER, ZKS, Lab, Namespace

USERS = pytest.mark.parametrize("user", [None, USER], ids=["root", "user"])

REPORT = """
import json, os, resource, socket
print(json.dumps({
    "uid": os.getuid(), "gid": os.getgid(), "cwd": os.getcwd(), "variable": os.environ.get("MINE"),
    "descriptors": sorted(int(n) for n in os.listdir("/proc/self/fd") if int(n) < 1000),
    "links": sorted(n for _, n in socket.if_nameindex()),
    "resolv": open("/etc/resolv.conf").read(),
    "capabilities": [x.split()[1] for x in open("/proc/self/status") if x.startswith("CapEff")][0],
    "files": resource.getrlimit(resource.RLIMIT_NOFILE),
    "ping": open("/proc/sys/net/ipv4/ping_group_range").read().split(),
}))
"""


@USERS
def test_the_command_is_the_callers(
    net: Lab, worker: Child, run_host: Namespace, user: int | None
) -> None:
    """Its uid, folder, environment; no descriptor of ours; one way out."""
    before = machine.picture(run_host.path)
    child = net.run(run_host, *PYTHON, "-c", REPORT, user=user, env={"MINE": "yes ä"})
    seen = json.loads(child.succeed())
    child.no_traceback()
    assert seen["uid"] == (user or 0)
    assert seen["variable"] == "yes ä"
    assert seen["cwd"] == str(ROOT)
    assert len(seen["descriptors"]) <= 4, "0, 1, 2 and the folder that is being listed"
    assert len(seen["links"]) == 2 and "lo" in seen["links"]
    assert lab.NAMESERVER not in seen["resolv"]
    assert seen["ping"] != ["1", "0"]
    if user:
        assert int(seen["capabilities"], 16) == 0
    assert machine.difference(before, machine.picture(run_host.path)) == ""


@USERS
@pytest.mark.parametrize("code", [0, 1, 77])
def test_exit_codes_pass(
    net: Lab, worker: Child, run_host: Namespace, user: int | None, code: int
) -> None:
    child = net.run(run_host, "sh", "-c", f"exit {code}", user=user)
    assert child.wait() == code, child.output
    child.no_traceback()


@USERS
def test_a_command_that_is_not_there(
    net: Lab, worker: Child, run_host: Namespace, user: int | None
) -> None:
    child = net.run(run_host, "/nonexistent/program", user=user)
    assert child.wait() == 127, child.output
    child.no_traceback()
    assert "/nonexistent/program" in "\n".join(child.stderr)


@USERS
def test_signals_pass(net: Lab, worker: Child, run_host: Namespace, user: int | None) -> None:
    script = "trap 'echo got it; exit 9' TERM; echo started; while :; do sleep 0.1; done"
    child = net.run(run_host, "sh", "-c", script, user=user)
    child.wait_for("started")
    child.signal(signal.SIGTERM)
    assert child.wait() == 9, child.output
    assert "got it" in child.stdout
    child.no_traceback()


def test_a_command_that_dies_of_a_signal(net: Lab, worker: Child, run_host: Namespace) -> None:
    child = net.run(run_host, "sh", "-c", "kill -KILL $$")
    assert child.wait() in (137, -9), child.output
    child.no_traceback()


@USERS
def test_standard_input_passes(
    net: Lab, worker: Child, run_host: Namespace, user: int | None
) -> None:
    child = net.run(run_host, "sha256sum", user=user, stdin=subprocess.PIPE)
    assert child.process.stdin
    with child.process.stdin as pipe:
        pipe.write(b"".join(servers.pattern(1_000_000)))
    assert child.succeed().split()[0] == servers.pattern_digest(1_000_000)


def test_the_terminal_passes(net: Lab, worker: Child, run_host: Namespace) -> None:
    """The command is in the foreground: it reads the terminal, and Ctrl-C reaches it."""
    argv = [
        *ZKS,
        "run",
        *net.tunnel_options(),
        "--",
        "sh",
        "-c",
        "tty; stty size; echo listening; read x; echo got $x; cat",
    ]
    command = run_host.command(argv, resolv=net.resolv)
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            os.chdir(ROOT)
            os.execvp(command[0], command)
        finally:
            os._exit(126)
    seen = bytearray()
    try:
        _read_until(pid, terminal, seen, b"listening")
        os.write(terminal, b"word\n")
        _read_until(pid, terminal, seen, b"got word")
        # A shell that is just starting `cat` would lose it.
        os.write(terminal, b"more\n")
        _read_until(pid, terminal, seen, b"more", 2)  # typed, and told by `cat`
        os.write(terminal, b"\x03")
        code = _exit_code(pid, "Ctrl-C does not reach the command")
    finally:
        os.close(terminal)
    assert b"/dev/pts/" in seen and b"not a tty" not in seen
    assert code in (-2, 130), (code, seen)


@USERS
def test_ping_in_run(net: Lab, worker: Child, run_host: Namespace, user: int | None) -> None:
    text = net.run(run_host, "ping", "-c1", "-W20", lab.FAR4, user=user).succeed()
    assert " 0% packet loss" in text


@USERS
def test_embedded_worker_and_the_hosts_loopback(net: Lab, user: int | None) -> None:
    """What the quickstart does: a page on the host's loopback, by a static name."""
    host = net.add_host()
    with host.entered():
        page = Child(
            "page", host.command([*PYTHON, "-m", "tests.kits.netns.servers", str(net.pages)])
        )
    with page:
        page.wait_for("servers are ready")
        url = f"http://hello.zks.test:{servers.HTTP}/hello"
        static = ["--dns-static", "hello.zks.test=198.18.0.2"]
        child = net.run(host, "curl", "-sS", url, options=static, embedded=True, user=user)
        assert child.succeed() == "hello 127.0.0.1"
        child.no_traceback()
        assert "this machine" in "\n".join(child.stderr)
        closed = [*static, "--host-loopback", "none"]
        argv = ["curl", "-sS", "-m", "50", url]
        child = net.run(host, *argv, options=closed, embedded=True, user=user)
        assert child.wait() == 7, child.output  # of curl: refused, not waited for


def test_the_tunnel_ends_with_the_command(net: Lab, worker: Child, run_host: Namespace) -> None:
    """Background processes of the command lose their network; they do not keep ``run`` alive."""
    child = net.run(run_host, "sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!")
    assert child.wait() == 0, "run waited for the background process"
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(child.stdout[0]), signal.SIGKILL)


def test_no_tun_device_is_explained(net: Lab, worker: Child, run_host: Namespace) -> None:
    """A node that no user may open: the error names it and ends with the privilege exit code."""
    closed = net.directory / "closed-tun"
    if not closed.exists():
        os.mknod(closed, 0o600 | 0o020000, os.makedev(10, 200))
    argv = [*ZKS, "run", *net.tunnel_options(), "--", "true"]
    child = Child("run", run_host.command(argv, resolv=net.resolv, user=USER, tun=closed))
    assert child.wait() == 3, child.output
    child.no_traceback()
    assert "/dev/net/tun" in "\n".join(child.stderr)


def test_no_user_namespaces_is_explained(net: Lab, worker: Child, run_host: Namespace) -> None:
    """Inside a user namespace that allows no more of them, as in many containers."""
    # Root in there has what it takes to do without one: its capabilities go, too.
    limit = (
        "echo 0 > /proc/sys/user/max_user_namespaces"
        ' && exec setpriv --bounding-set=-all --inh-caps=-all "$@"'
    )
    argv = [
        "unshare",
        "-Ur",
        "sh",
        "-c",
        limit,
        "-",
        *ZKS,
        "run",
        *net.tunnel_options(),
        "--",
        "true",
    ]
    command = run_host.command(argv, resolv=net.resolv, user=USER, tun=net.tun_node())
    child = Child("run", command)
    code = child.wait()
    child.no_traceback()
    assert code == 3, child.output
    assert "max_user_namespaces" in "\n".join(child.stderr)


@pytest.mark.skipif(
    not os.access("/dev/net/tun", os.R_OK | os.W_OK),
    reason="/dev/net/tun is root's on this machine",
)
def test_here_with_the_embedded_worker() -> None:
    """On this very host, by the user who runs the tests; the namespace tests need root."""
    with socket.create_server(("127.0.0.1", 0)) as local:
        port = local.getsockname()[1]
        argv = [*ZKS, "run", "--", "curl", "-sS", "-m", "50", f"http://198.18.0.2:{port}/"]
        with Child("run", argv) as child:
            local.settimeout(50)
            sock, _ = local.accept()
            with sock:
                sock.recv(4096)
                sock.sendall(b"HTTP/1.0 200 OK\r\n\r\nhello")
            assert child.succeed() == "hello"
            child.no_traceback()


def _read_until(pid: int, terminal: int, seen: bytearray, what: bytes, times: int = 1) -> None:
    """Add to ``seen`` what the terminal shows, until ``what`` is there that many times."""
    deadline = time.monotonic() + 60
    while seen.count(what) < times:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([terminal], [], [], left)[0]:
            pytest.fail(f"no {what!r} in {bytes(seen)!r}")
        try:
            seen += os.read(terminal, 4096)
        except OSError:  # EIO: no process has the terminal open any more
            code = _exit_code(pid, f"it goes on without the terminal, after {bytes(seen)!r}")
            pytest.fail(f"it ended with {code}, after {bytes(seen)!r}")


def _exit_code(pid: int, message: str) -> int:
    until(
        lambda: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None,
        message=lambda: message,
    )
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
