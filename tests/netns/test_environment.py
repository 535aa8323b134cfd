"""What commands are started in: a folder that has gone, closed or few descriptors, no names."""

from __future__ import annotations

import os

import pytest

from tests.kits.netns import lab
from tests.kits.netns.child import ROOT, Child
from tests.kits.netns.lab import PYTHON, USER, WORKER4, ZKS, Lab, Namespace

USERS = pytest.mark.parametrize("user", [None, USER], ids=["root", "user"])
COMMANDS = pytest.mark.parametrize("command", ["connect", "worker", "run"])


def start(net: Lab, host: Namespace, command: str, script: str, env: dict[str, str]) -> Child:
    """A command whose shell has first carried out ``script``."""
    arguments = {
        "connect": [*net.tunnel_options(), "--tun", "zks7"],
        "worker": ["--listen", f"{WORKER4}:{lab.WORKER_PORT + 7}"],
        "run": [*net.tunnel_options(), "--", "sh", "-c", "echo it runs; exec sleep 600"],
    }[command]
    if command == "worker":
        arguments += ["--token-file", str(net.token_file)]
    space = net.mid if command == "worker" else host
    # `umask` and the like are the shell's own, and `exec` leaves its process id to the command.
    argv = ["sh", "-c", f'{script}\nexec "$@"', "sh", *ZKS, command, *arguments]
    return Child(command, space.command(argv, resolv=net.resolv), env=env)


READY = r"^ready: |^listening on |^it runs$"


@COMMANDS
@pytest.mark.parametrize(
    "script",
    [
        'd=$(mktemp -d); cd "$d"; rmdir "$d"',
        "umask 077",
        "unset HOME USER LOGNAME TMPDIR; LANG=C; export LANG",
        "trap '' HUP INT QUIT TERM USR1 USR2 PIPE",
        "ulimit -n 64",
        "ulimit -S -n 16",
    ],
    ids=["removed-folder", "umask", "bare", "ignored-signals", "few-descriptors", "few-at-first"],
)
def test_it_starts_and_ends(
    net: Lab, worker: Child, run_host: Namespace, command: str, script: str
) -> None:
    child = start(net, run_host, command, script, {"PYTHONPATH": str(ROOT)})
    with child:
        child.wait_for(READY)
        if command == "run" and "trap" in script:
            child.process.kill()  # its command ignores what the shell ignored, as below nohup
            child.wait()
    child.no_traceback()


@COMMANDS
def test_too_few_descriptors_are_told(
    net: Lab, worker: Child, run_host: Namespace, command: str
) -> None:
    child = start(net, run_host, command, "ulimit -n 16", {})
    assert child.wait() == 4, child.output
    assert "the limit is 16" in child.stderr[-1] and "ulimit -n" in child.stderr[-1]
    child.no_traceback()


@COMMANDS
def test_closed_standard_descriptors_stay_out_of_use(
    net: Lab, worker: Child, run_host: Namespace, command: str
) -> None:
    """What Python or a library writes to descriptor 2 must not go into a socket or the TUN."""
    with start(net, run_host, command, "exec 0<&- 2>&-", {}) as child:
        child.wait_for(READY)
        links = [os.readlink(f"/proc/{child.pid}/fd/{fd}") for fd in (0, 2)]
    assert links == ["/dev/null"] * 2


IGNORING = (
    "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execvp({}, {})"
)


@pytest.mark.parametrize("command", ["connect", "run"])
def test_an_ignored_sigchld_loses_no_exit_code(
    net: Lab, worker: Child, run_host: Namespace, command: str
) -> None:
    """It is inherited from some daemons: nft's refusals, and the command's code, would be lost."""
    under = [*PYTHON, "-c", IGNORING.format("sys.argv[1]", "sys.argv[1:]")]
    if command == "run":
        child = net.run(run_host, "sh", "-c", "exit 7", under=under)
        assert child.wait() == 7, child.output
    else:
        argv = [*under, *ZKS, "connect", *net.tunnel_options()]
        with Child("connect", run_host.command(argv, resolv=net.resolv)) as child:
            child.wait_for("^ready: ")
    child.no_traceback()


@USERS
def test_the_command_has_the_descriptors_and_the_environment_of_the_caller(
    net: Lab, worker: Child, run_host: Namespace, user: int | None
) -> None:
    """Closed ones stay closed; in the C locale Python would set LC_CTYPE (PEP 538)."""
    under = ["env", "-i", "FRUIT=kiwi", "sh", "-c", 'exec "$@" 0<&-', "sh"]
    # In no pipeline: the shell itself would have the lowest one, of the pipe, for a moment.
    show = "/usr/bin/env; echo; ls /proc/$$/fd"
    child = net.run(run_host, "/bin/sh", "-c", show, user=user, under=under)
    assert child.wait() == 0, child.output
    end = child.stdout.index("")
    descriptors = child.stdout[end + 1 :]
    names = {line.partition("=")[0] for line in child.stdout[:end]}
    if "ZKS_LWIP_SANITIZE" in os.environ:  # sanitizers come in by it
        names.discard("LD_PRELOAD")
    assert "1" in descriptors and "0" not in descriptors, child.output
    assert names <= {"FRUIT", "PWD", "OLDPWD", "SHLVL", "_"}


@USERS
def test_the_machines_own_name(
    net: Lab, worker: Child, run_host: Namespace, user: int | None
) -> None:
    """It is known without nss-myhostname or a line in /etc/hosts, and no server is asked."""
    binds = {
        "/etc/hosts": net.file("hosts", "192.0.2.77 elsewhere\n"),
        "/etc/nsswitch.conf": net.file("nsswitch.conf", "passwd: files\nhosts: files dns\n"),
    }
    script = (
        "import socket\n"
        "for name in 'zksown', 'localhost', 'other.zks.test':\n"
        "    try: print(name, sorted({x[4][0] for x in socket.getaddrinfo(name, 1)}))\n"
        "    except socket.gaierror: print(name, 'unknown')\n"
    )
    before = len(net.names.stdout)
    run = [*ZKS, "run", *net.tunnel_options(), "--dns-via", "worker", "--", *PYTHON, "-c", script]
    tun = None if user is None else net.tun_node()
    argv = run_host.command(run, resolv=net.resolv, user=user, tun=tun, binds=binds)
    rename = ["sh", "-ec", 'echo zksown >/proc/sys/kernel/hostname; exec "$@"', "sh"]
    child = Child("run", ["unshare", "--uts", *rename, *argv])
    lines = child.succeed().split("\n")
    assert lines == [
        "zksown ['198.18.0.1', 'fdb5:7a6b:7301::1']",
        "localhost ['127.0.0.1', '::1']",
        "other.zks.test unknown",
    ]
    asked = "\n".join(net.names.stdout[before:])
    assert "asked other.zks.test. A " in asked, "the control"
    assert "zksown" not in asked and "localhost" not in asked


@USERS
def test_the_hosts_search_domains_hold(
    net: Lab, worker: Child, run_host: Namespace, user: int | None
) -> None:
    text = f"search zks.test\nnameserver {lab.NAMESERVER}\noptions timeout:1 ndots:3 trust-ad\n"
    resolv = net.file("resolv-search", text)
    show = "getent ahostsv4 far; getent ahostsv4 none.far; cat /etc/resolv.conf"
    child = net.run(
        run_host, "sh", "-c", show, options=["--dns-via", "worker"], user=user, resolv=resolv
    )
    seen = child.succeed()
    assert seen.startswith(f"{lab.FAR4} ")
    assert "\nsearch zks.test\noptions edns0 ndots:3 trust-ad" in seen
    assert lab.NAMESERVER not in seen and "timeout" not in seen


@USERS
def test_an_odd_temporary_folder_is_no_matter(
    net: Lab, worker: Child, run_host: Namespace, user: int | None
) -> None:
    child = net.run(run_host, "echo", "it runs", user=user, env={"TMPDIR": "/nonexistent"})
    assert child.succeed() == "it runs"
    child.no_traceback()
