"""A command in user, mount and network namespaces: as root and, mostly, as an ordinary user."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kits.netns.child import ROOT, Child, until
from tests.kits.netns.lab import NOBODY, USER, Namespace
from tests.kits.netns.terminal import Terminal
from zks_lwip.errors import CommandError, PrivilegeError
from zks_lwip.host.rootless.spawn import Rootless, spawn

pytestmark = [
    pytest.mark.usefixtures("machine_is_left_as_found"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: changes user, mounts over /etc"),
]

USERS = pytest.mark.parametrize("user", [None, USER], ids=["root", "user"])
Run = Callable[..., Child]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that all users may read, with a TUN node that all may open."""
    path = Path(tempfile.mkdtemp(prefix="zks-rootless-"))
    path.chmod(0o755)
    os.mknod(path / "tun", 0o666 | 0o020000, os.makedev(10, 200))
    (path / "tun").chmod(0o666)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def net() -> Iterator[Namespace]:
    with contextlib.closing(Namespace("rootless")) as namespace:
        yield namespace


@pytest.fixture
def run(net: Namespace, place: Path) -> Run:
    """Start ``CMD`` below ``rootless_command``; ``prelude`` is a script that runs before, as root,
    in a mount namespace of its own."""

    def start(*command: str, user: int | None = USER, prelude: str = "", **options) -> Child:
        argv = [
            sys.executable,
            "-m",
            "tests.kits.netns.rootless_command",
            str(place / "tun"),
            *command,
        ]
        argv = net.command(argv, user=user)
        if prelude:
            argv = ["unshare", "-m", "sh", "-ec", f'{prelude}\nexec "$@"', "prelude", *argv]
        return Child("rootless", argv, **options)

    return start


def output(child: Child, status: int = 0) -> str:
    with child:
        assert child.wait() == status, child.output
        return "\n".join(child.stdout)


@USERS
def test_the_command_is_the_callers_and_has_nothing_of_ours(run: Run, user: int | None) -> None:
    script = "id -u; id -g; echo $FRUIT; pwd; ls /proc/self/fd; grep CapEff /proc/self/status"
    with tempfile.TemporaryFile() as secret:
        # What the caller left open for us is not for the command, either.
        fd = secret.fileno()
        child = run("sh", "-c", script, user=user, env={"FRUIT": "kiwi"}, pass_fds=[fd])
        lines = output(child).split("\n")
    uid = str(user or 0)
    assert lines[:4] == [uid, uid, "kiwi", str(ROOT)]
    assert lines[4:-1] == ["0", "1", "2", "3"], "3 is ls's own"
    if user is not None:
        assert int(lines[-1].split()[1], 16) == 0


def test_the_caller_may_be_the_overflow_id_itself(run: Run) -> None:
    assert output(run("sh", "-c", "id -u; stat -c %u /etc/passwd", user=NOBODY)) == "65534\n65534"
    assert output(run("sh", "-c", "id -u; stat -c %u /etc/passwd")) == f"{USER}\n65534", "control"


@USERS
def test_the_tun_is_the_only_way_out(run: Run, user: int | None) -> None:
    script = "ip -br a; ip r; ip -6 r; cat /proc/sys/net/ipv4/ping_group_range"
    text = output(run("sh", "-c", script, user=user))
    assert re.findall(r"^(\S+) +U", text, re.M) == ["lo", "zks0"]
    assert "198.18.0.1/30 fdb5:7a6b:7301::1/126" in text and "fe80" not in text
    assert re.findall(r"^default.*dev (\S+)", text, re.M) == ["zks0", "zks0"]
    low, high = map(int, text.split("\n")[-1].split())
    assert low <= (user or 0) <= high


CHROOT = """
{before}
for each in /*; do
    if [ -h $each ]; then cp -P $each {root}
    elif [ -d $each ]; then mkdir {root}$each; mount --rbind $each {root}$each
    fi
done
exec chroot {root} env --chdir="$PWD" "$@"
"""


@pytest.mark.parametrize("bound", [False, True], ids=["plain", "mount point"])
def test_in_a_plain_chroot_it_is_said_what_is_missing(place: Path, bound: bool) -> None:
    root = place / f"root-{bound}"
    root.mkdir()
    script = CHROOT.format(root=root, before=f"mount --bind {root} {root}" if bound else "")
    command = [sys.executable, "-m", "tests.kits.netns.rootless_command", str(place / "tun")]
    argv = ["unshare", "-mn", "sh", "-ec", script, "chroot", *command, "true"]
    child = Child("rootless", argv)
    output(child, 0 if bound else 99)
    told = "\n".join(child.stderr)
    assert bound or ("a plain chroot" in told and "`mount --bind DIR DIR`" in told)


def test_packets_come_out_of_the_descriptor() -> None:
    with spawn(vnet_hdr=True, mtu=1400) as rootless:
        assert rootless.ipv6 and rootless.ping and rootless.device.vnet_header_size == 10
        rootless.start(["getent", "ahosts", "no.zks.test"], env={"PATH": "/usr/bin:/bin"})
        packet = b""
        while packet[:1] != b"\x45":  # IPv6 announces itself whenever it is ready
            assert select.select([rootless.tun_fd], [], [], 30)[0], "nothing comes out"
            packet = os.read(rootless.tun_fd, 2000)[10:]
        assert packet[12:20] == bytes([198, 18, 0, 1, 198, 18, 0, 2])
        assert packet[9] == socket.IPPROTO_UDP and packet[22:24] == (53).to_bytes(2, "big")
        assert b"\x02no\x03zks\x04test\0" in packet


# ip(8)'s names of namespaces stay.
OWN_RUN = """
mkdir -p {place}/run
mount -t tmpfs none {place}/run
mkdir {place}/run/netns
mount --rbind /run/netns {place}/run/netns
mount --rbind {place}/run /run
"""
ETC = """
mkdir -p {place}/etc.{name}
cp -a /etc/passwd /etc/group /etc/hosts /etc/ld.so.cache /etc/nsswitch.conf {place}/etc.{name}/
sed -i '/^[^:]*:[^:]*:{user}:/d' {place}/etc.{name}/passwd
echo 'ordinary:x:{user}:{user}::/:/bin/sh' >>{place}/etc.{name}/passwd
mount --bind {place}/etc.{name} /etc
"""


@USERS
@pytest.mark.parametrize("name", ["regular", "link", "stub", "dangling", "missing"])
def test_resolv_conf_whatever_the_hosts_is(
    run: Run, place: Path, name: str, user: int | None
) -> None:
    make = {
        "regular": "echo nameserver 9.9.9.9 > /etc/resolv.conf",
        "link": "echo nameserver 9.9.9.9 > /etc/real; ln -s real /etc/resolv.conf",
        "stub": OWN_RUN.format(place=place) + "mkdir -p /run/systemd/resolve; "
        "echo nameserver 9.9.9.9 > /run/systemd/resolve/stub-resolv.conf; "
        "ln -s ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf",
        "dangling": "ln -s ../run/systemd/nowhere/resolv.conf /etc/resolv.conf",
        "missing": "",
    }[name]
    name = f"{name}{user or 0}"
    prelude = ETC.format(place=place, name=name, user=USER) + make
    script = "cat /etc/resolv.conf; grep hosts /etc/nsswitch.conf; id -un; echo >> /etc/hosts"
    child = run("sh", "-c", script, user=user, prelude=prelude)
    with child:
        child.wait()
        text = "\n".join(child.stdout)
    assert re.findall("nameserver (.*)", text) == ["198.18.0.2"]
    assert re.findall("hosts: *(.*)", text) in (["files dns"], ["files myhostname dns"])
    assert "ordinary" in text or user is None
    before = Path("/etc/hosts").read_text()
    after = (place / f"etc.{name}/hosts").read_text()
    assert after == before + "\n" * (user is None), "a user still cannot write there, root can"


# As distributions have it: a folder of the package's, a link to another package's, an include in
# what is included. (ssh wants its caller to have a name.)
SSH = """
mkdir -p {place}/d {place}/elsewhere
echo 'Host one\n    User first\n    Include {place}/elsewhere/*.txt' >{place}/d/one.conf
echo 'Host *\n    Port 2345' >{place}/elsewhere/policy.txt
echo 'Host two\n    User second' >{place}/elsewhere/two.conf
ln -s ../elsewhere/two.conf {place}/d/two.conf
echo 'Include {place}/d/*.conf' >{place}/ssh_config
mount --bind {place}/ssh_config /etc/ssh/ssh_config
grep -v '^[^:]*:[^:]*:{user}:' /etc/passwd >{place}/passwd
echo 'caller:x:{user}:{user}::/:/bin/sh' >>{place}/passwd
mount --bind {place}/passwd /etc/passwd
"""


@pytest.mark.skipif(not shutil.which("ssh"), reason="ssh is not installed")
@pytest.mark.parametrize("user", [None, USER, NOBODY], ids=["root", "user", "nobody"])
def test_ssh_takes_the_systems_configuration(run: Run, place: Path, user: int | None) -> None:
    """Root's files belong to no known user in a user namespace, and ssh refuses to include such."""
    place = place / f"ssh{user or 0}"
    place.mkdir()
    prelude = SSH.format(place=place, user=user or 0)
    script = "for h in one two; do ssh -G $h | grep -E '^(user|port) '; done; stat -c %a "
    child = run("sh", "-c", f"{script}{place}/d/one.conf; id -u", user=user, prelude=prelude)
    lines = output(child).split("\n")
    assert lines == ["user first", "port 2345", "user second", "port 22", "644", str(user or 0)]


@pytest.mark.skipif(not shutil.which("ssh"), reason="ssh is not installed")
@pytest.mark.parametrize("change", ["chmod 666", "chown 4242"])
def test_ssh_refuses_what_it_refuses_outside(run: Run, place: Path, change: str) -> None:
    place = place / change.replace(" ", "")
    place.mkdir()
    prelude = SSH.format(place=place, user=USER) + f"{change} {place}/d/one.conf"
    child = run("ssh", "-G", "one", prelude=prelude)
    output(child, 255)
    assert f"Bad owner or permissions on {place}/d/one.conf" in "\n".join(child.stderr)


RUN = """
mkdir -p /run/nscd /run/dbus /run/avahi-daemon /run/systemd/resolve /run/other
for d in nscd dbus avahi-daemon systemd/resolve other; do echo here > /run/$d/socket; done
"""


@USERS
def test_sockets_of_resolvers_are_covered(run: Run, place: Path, user: int | None) -> None:
    script = "cd /run; cat other/socket; find . -name socket -not -path './netns/*'"
    text = output(run("sh", "-c", script, user=user, prelude=OWN_RUN.format(place=place) + RUN))
    assert text == "here\n./other/socket"


def test_a_resolver_that_is_restarted_stays_covered(run: Run, place: Path) -> None:
    """Its directory is removed, and with it what was mounted there; the new one must not show."""
    turns = place / "turns"
    turns.mkdir(mode=0o777)
    turns.chmod(0o777)
    restart = (
        f"mkfifo -m 666 {turns}/begin {turns}/done\n"
        f"(read -r _ <{turns}/begin; rm -r /run/nscd; mkdir -m 755 /run/nscd; "
        f"echo new >/run/nscd/socket; cat /run/nscd/socket >{turns}/done) &"
    )
    script = (
        f"echo >{turns}/begin; cat {turns}/done; "
        "cat /run/other/socket; cat /run/nscd/socket || echo covered"
    )
    child = run("sh", "-c", script, prelude=OWN_RUN.format(place=place) + RUN + restart)
    assert output(child) == "new\nhere\ncovered"


def test_exit_codes(run: Run, place: Path) -> None:
    (place / "plain").write_text("no program")
    output(run("sh", "-c", "exit 7"), 7)
    output(run("sh", "-c", "kill -TERM $$"), 128 + 15)
    missing, plain = run("no-such-program"), run(str(place / "plain"))
    output(missing, 127)
    assert "cannot run no-such-program: No such file or directory" in missing.stderr[-1]
    output(plain, 126)
    assert "Permission denied" in plain.stderr[-1]


@USERS
@pytest.mark.parametrize("how", ["removed", "closed", "covered"])
def test_the_working_directory(run: Run, place: Path, how: str, user: int | None) -> None:
    """One without a path still is one; what is hidden from the command is no place to start in."""
    inside = f"{place}/{how}{user or 0}/inside"
    prelude, command = {
        "removed": (f"mkdir -p {inside}; cd {inside}; rmdir {inside}", "stat -c %h ."),
        "closed": (f"mkdir -p {inside}; cd {inside}; chmod 700 {inside}/..", "pwd; ls -A"),
        "covered": (OWN_RUN.format(place=place) + "mkdir -p /run/nscd/x; cd /run/nscd/x", "pwd"),
    }[how]
    child = run("sh", "-c", command, user=user, prelude=prelude, env={"PYTHONPATH": str(ROOT)})
    if how == "covered":
        output(child, 126)
        assert "cannot enter its directory /run/nscd/x" in child.stderr[-1]
        assert "another directory" in child.stderr[-1]
    else:
        assert output(child) == {"removed": "0", "closed": inside}[how]


def test_a_directory_that_is_not_there() -> None:
    with spawn() as rootless, pytest.raises(CommandError, match="cannot enter its directory /nope"):
        rootless.start(["true"], cwd="/nope")


@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "TERM", "USR1", "USR2"])
def test_signals_are_forwarded(run: Run, name: str) -> None:
    script = f"trap 'echo got {name}; exit 5' {name}; echo ready; while :; do sleep 0.02; done"
    with run("bash", "-c", script) as child:
        child.wait_for("ready")
        child.process.send_signal(getattr(signal, f"SIG{name}"))
        assert child.wait() == 5, child.output
        assert child.stdout.count(f"got {name}") == 1


def test_the_command_dies_with_its_parent(run: Run) -> None:
    with run("sh", "-c", "echo $$; exec sleep 100") as child:
        child.wait_for(r"^\d+$")
        pid = int(child.stdout[0])
        child.process.kill()
        until(lambda: not Path(f"/proc/{pid}/exe").exists())


def test_an_interactive_shell_has_its_terminal_and_jobs(net: Namespace, place: Path) -> None:
    argv = [sys.executable, "-m", "tests.kits.netns.rootless_command", str(place / "tun"),
            "bash", "--norc", "-i"]  # fmt: skip
    with contextlib.closing(Terminal(net.command(argv, user=USER))) as terminal:
        terminal.expect(r"\$ ")
        terminal.type("tty; sleep 100\n")
        terminal.expect("/dev/pts/")
        until(lambda: terminal.in_front() == "sleep")
        terminal.type("\x1a")
        terminal.expect(r"\[1\]\+ +Stopped +sleep 100")
        terminal.type("fg\n")
        terminal.expect("sleep 100")
        until(lambda: terminal.in_front() == "sleep")
        terminal.type("\x03")
        terminal.expect(r"\$ ")
        terminal.type("echo alive $?\n")
        terminal.expect("\nalive 130")
        assert "job control" not in terminal.all
        terminal.type("exit 3\n")
        assert terminal.process.wait(timeout=60) == 3


def test_ctrl_c_reaches_the_command_once(net: Namespace, place: Path) -> None:
    wait = "while [ $n = 0 ]; do sleep 0.1; done; sleep 0.5"  # that is for a second one
    script = f"n=0; trap 'n=$((n+1))' INT; echo ready; {wait}; echo got $n; exit 4"
    argv = [sys.executable, "-m", "tests.kits.netns.rootless_command", str(place / "tun"),
            "bash", "-c", script]  # fmt: skip
    with contextlib.closing(Terminal(net.command(argv, user=USER))) as terminal:
        terminal.expect("ready")
        terminal.type("\x03")
        terminal.expect("got 1")
        assert terminal.process.wait(timeout=60) == 4


def refusal(child: Child) -> str:
    output(child, 99)
    return child.stderr[-1]


def test_why_there_is_no_tun(run: Run, place: Path) -> None:
    text = refusal(run("true", prelude=f"mount --bind /dev/null {place}/tun"))
    assert text.startswith("DeviceError: cannot make the interface zks0") and "10:200" in text
    closed = "mknod $D/t c 10 200; chmod 0600 $D/t; mount --bind $D/t $D/tun; rm $D/t"
    text = refusal(run("true", prelude=closed.replace("$D", str(place))))
    assert text.startswith("PrivilegeError") and f"sudo chmod 0666 {place}/tun" in text


@pytest.mark.parametrize("kind", ["user", "net"])
def test_why_there_are_no_namespaces(place: Path, kind: str) -> None:
    """A limit of 0 in a user namespace around us, as an administrator sets it for all users."""
    limit = f"echo 0 > /proc/sys/user/max_{kind}_namespaces"
    inner = [sys.executable, "-m", "tests.kits.netns.rootless_command", str(place / "tun"), "true"]
    script = f'{limit} && exec setpriv --bounding-set=-all,+setfcap --inh-caps=-all -- "$@"'
    argv = ["unshare", "-U", "-r", "sh", "-c", script, "x", *inner]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 99
    assert f"user.max_{kind}_namespaces is 0" in done.stderr, done.stderr


def test_it_must_be_the_main_thread() -> None:
    import threading

    seen: list[BaseException] = []

    def inside() -> None:
        try:
            spawn()
        except RuntimeError as error:
            seen.append(error)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert "main thread" in str(seen[0])


def test_nothing_is_left_when_it_is_given_up() -> None:
    before = set(os.listdir("/proc/self/fd"))
    with spawn() as rootless:
        pid = rootless.pid
        assert isinstance(rootless, Rootless) and rootless.tun_fd >= 0
    rootless.close()
    assert not Path(f"/proc/{pid}").exists()
    assert set(os.listdir("/proc/self/fd")) <= before


def test_what_is_missing_is_named() -> None:
    with pytest.raises(Exception, match="modprobe tun") as caught:
        spawn(node="/dev/net/none")
    assert not isinstance(caught.value, PrivilegeError)
