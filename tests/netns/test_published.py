"""``run -p``: ports of the command on the host, as an ordinary user."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kits.netns import client, servers
from tests.kits.netns.child import Child, until
from tests.kits.netns.lab import PYTHON, USER, Lab, Namespace

LIMIT = 1024
"""Connections that one command has at a time."""
OWN_ECHO = 9010
"""Port of the host for the echo of a command of one's own."""
ALL_SERVERS = [*PYTHON, "-m", "tests.kits.netns.servers"]
LOOPBACKS = pytest.mark.parametrize("host", ["127.0.0.1", "::1"])


def address(host: Namespace) -> str:
    """The host's own, by which other machines reach it."""
    done = subprocess.run(
        ["ip", "-n", host.name, "-j", "-4", "addr", "show", "up0"],
        capture_output=True,
        check=True,
    )
    return str(json.loads(done.stdout)[0]["addr_info"][0]["local"])


@pytest.fixture(scope="module")
def published(net: Lab, worker: Child, run_host: Namespace) -> Iterator[Child]:
    """The test servers as the command, published for all hosts and, at other ports, for this host.

    7000 further: for this host alone, where nothing is said.
    """
    options = ["-p", "0.0.0.0:7007-7028", "-p", "[::1]:7007-7028", "-p", "0.0.0.0:8080/tcp"]
    options += ["-p", "14007-14028:7007-7028", "--stats", "-v"]
    with net.run(run_host, *ALL_SERVERS, options=options, user=USER) as child:
        child.wait_for("servers are ready")
        yield child
    child.no_traceback()
    told = re.search(r"published ports: (\d+) connections", child.output)
    assert told and int(told[1]) > 1000


@pytest.fixture
def inside(published: Child, run_host: Namespace) -> Iterator[Namespace]:
    """The host, entered."""
    with run_host.entered():
        yield run_host


def ended_by(sock: socket.socket) -> str:
    """How a connection ends: the error's name, or EOF."""
    try:
        while sock.recv(65536):
            pass
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "EOF"


@contextlib.contextmanager
def run(
    net: Lab, host: Namespace, *command: str, ports: str, user: int | None = USER
) -> Iterator[Child]:
    options = [word for port in ports.split() for word in ("-p", port)]
    with net.run(host, *command, options=options, user=user) as child:
        yield child
        child.stop()
    child.no_traceback()


# What is carried


def test_curl(inside: Namespace) -> None:
    argv = ["curl", "-sS", "-m", "50", "http://127.0.0.1:8080/hello"]
    assert Child("curl", inside.command(argv)).succeed() == "hello 127.0.0.1"


@LOOPBACKS
def test_both_ways_at_once(inside: Namespace, host: str) -> None:
    client.duplex_many(host, servers.DUPLEX, flows=8, total=16_000_000)


@LOOPBACKS
def test_half_close(inside: Namespace, host: str) -> None:
    client.client_closes_first(host, 1_000_000)
    client.server_closes_first(host, 1_000_000)


def test_many_connections(inside: Namespace) -> None:
    # (It lowers its own limit of descriptors.)
    argv = [*PYTHON, "-m", "tests.kits.netns.client", "open-at-once", "127.0.0.1", "200"]
    Child("connections", inside.command(argv)).succeed()


@LOOPBACKS
@pytest.mark.parametrize("size", [0, 1, 1400, 60_000])
def test_datagrams(inside: Namespace, host: str, size: int) -> None:
    payload = os.urandom(size)
    assert client.udp_exchange(host, servers.ECHO, payload) == payload


def test_datagrams_of_several_clients(inside: Namespace) -> None:
    """Each gets its own answers, from the address that it has sent to."""
    with contextlib.ExitStack() as stack:
        senders = [stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(50)]
        for number, sock in enumerate(senders):
            sock.settimeout(client.TIMEOUT)
            # Connected: the kernel takes an answer from this address only.
            sock.connect((f"127.0.0.{1 + number % 2}", servers.ECHO))
            sock.send(b"%d" % number)
        for number, sock in enumerate(senders):
            assert sock.recv(100) == b"%d" % number


# Who it seems to be


@LOOPBACKS
def test_this_machine_is_the_loopback(inside: Namespace, host: str) -> None:
    assert client.who(host) == host
    assert client.udp_exchange(host, servers.WHO, b"?").split()[0] == host.encode()


def test_another_machine_is_not(net: Lab, published: Child, run_host: Namespace) -> None:
    """A program that trusts its loopback must not trust the network with it."""
    host = address(run_host)
    with net.mid.entered():
        assert client.who(host) == "198.18.0.1"
        assert client.udp_exchange(host, servers.WHO, b"?").split()[0] == b"198.18.0.1"
        client.duplex_many(host, servers.DUPLEX, flows=2, total=2_000_000)


def test_without_an_address_it_is_for_this_machine(
    net: Lab, published: Child, run_host: Namespace
) -> None:
    with run_host.entered():
        assert client.who("127.0.0.1", 7000 + servers.WHO) == "127.0.0.1"
    with net.mid.entered():
        assert client.connect_error(address(run_host), 7000 + servers.WHO) == "ECONNREFUSED"


# How it ends


def test_the_program_resets(inside: Namespace) -> None:
    with client.connect("127.0.0.1", servers.RESET) as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        assert ended_by(sock) == "ECONNRESET"


@pytest.mark.parametrize("state", ["idle", "half-closed"])
def test_the_client_resets(inside: Namespace, state: str) -> None:
    name = f"reset {servers.ECHO if state == 'idle' else servers.SOURCE}"
    before = client.counters("127.0.0.1").get(name, 0)
    if state == "idle":
        sock = client.connect("127.0.0.1", servers.ECHO)
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
    else:  # the program's EOF has come, and it still listens
        sock = client.connect("127.0.0.1", servers.SOURCE)
        sock.sendall(struct.pack("!Q", 10))
        assert servers.digest_of(sock)[0] == 10
    client.reset(sock)
    until(lambda: client.counters("127.0.0.1").get(name, 0) > before)


def test_the_client_resets_what_is_not_read(inside: Namespace) -> None:
    """Backpressure reaches the client, and its reset the program, past what waits."""
    before = client.counters("127.0.0.1").get("hang reset", 0)
    sock = client.connect("127.0.0.1", servers.HANG)
    sock.settimeout(1)
    sent = 0
    with pytest.raises(TimeoutError):
        while sent < 100_000_000:
            sent += sock.send(bytes(65536))
    client.reset(sock)
    until(lambda: client.counters("127.0.0.1").get("hang reset", 0) > before)


def test_nothing_listens(inside: Namespace) -> None:
    """The connection is the host's before it is asked for inside: all that is left is a reset."""
    with contextlib.suppress(ConnectionResetError):  # within the connect already, if it is quick
        with client.connect("127.0.0.1", servers.CLOSED) as sock:
            assert ended_by(sock) == "ECONNRESET"
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.sendto(b"lost", ("127.0.0.1", servers.CLOSED))
    assert client.who("127.0.0.1") == "127.0.0.1", "it goes on"


TOO_MANY = f"""
import resource, socket
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
held = []
while True:
    try:
        sock = socket.create_connection(("127.0.0.1", {servers.IDLE}), timeout={client.TIMEOUT})
        sock.sendall(b"x")
        if sock.recv(1) != b"x":
            break
    except ConnectionResetError:
        print(len(held))
        break
    held.append(sock)
"""


def test_more_connections_than_there_may_be(inside: Namespace) -> None:

    def as_many_as_may_be() -> bool:
        text = Child("connections", inside.command([*PYTHON, "-c", TOO_MANY])).succeed()
        assert int(text) <= LIMIT
        return int(text) >= LIMIT - 20  # those of other tests may still be ending

    until(as_many_as_may_be)

    def room_again() -> bool:
        with client.connect("127.0.0.1", servers.WHO) as sock:
            return ended_by(sock) == "EOF"

    until(room_again)


ANSWERS = {
    "read": """sock.sendall(b"0123456789" * 1000000)""",
    "not read": """sock.setblocking(False)
with contextlib.suppress(BlockingIOError):
    while True:
        sock.send(bytes(65536))""",
}
ONE_ANSWER = """
import contextlib, socket
listener = socket.create_server(("127.0.0.1", 80))
print("listening", flush=True)
sock, _ = listener.accept()
"""


@pytest.mark.parametrize("what", ["read", "not read"])
def test_what_was_sent_last_arrives(
    net: Lab, worker: Child, run_host: Namespace, what: str
) -> None:
    """A program that answers and ends has answered; no client is waited for that does not read."""
    command = [*PYTHON, "-c", ONE_ANSWER + ANSWERS[what]]
    child = net.run(run_host, *command, options=["-p", "9000:80/tcp"], user=USER)
    with child, run_host.entered():
        child.wait_for("listening")
        with client.connect("127.0.0.1", 9000) as sock:
            if what == "read":
                expected = hashlib.sha256(b"0123456789" * 1000000).hexdigest()
                assert servers.digest_of(sock) == (10_000_000, expected)
            else:
                until(lambda: child.process.poll() is not None)
                assert ended_by(sock) == "ECONNRESET"
        assert child.wait() == 0, child.output
    child.no_traceback()


def test_the_command_is_killed(net: Lab, worker: Child, run_host: Namespace) -> None:
    script = 'echo pid $$; exec "$0" -m tests.kits.netns.servers'
    child = net.run(
        run_host,
        "sh",
        "-c",
        script,
        *PYTHON,
        options=["-p", f"{OWN_ECHO}:{servers.ECHO}"],
        user=USER,
    )
    with child, run_host.entered():
        child.wait_for("servers are ready")
        with client.connect("127.0.0.1", OWN_ECHO) as sock:
            sock.sendall(b"x")
            os.kill(int(child.wait_for(r"^pid (\d+)")[1]), signal.SIGKILL)
            assert ended_by(sock) in ("ECONNRESET", "EOF"), "as its kernel ends it"
        assert child.wait() in (137, -9), child.output
        assert client.connect_error("127.0.0.1", OWN_ECHO) == "ECONNREFUSED"
    child.no_traceback()


def test_run_is_killed(net: Lab, worker: Child, run_host: Namespace) -> None:
    """What was cut is not taken for a whole, and nothing is left."""
    child = net.run(run_host, *ALL_SERVERS, options=["-p", f"{OWN_ECHO}:{servers.ECHO}"], user=USER)
    with child, run_host.entered():
        child.wait_for("servers are ready")
        (maker,) = makers(child)
        with client.connect("127.0.0.1", OWN_ECHO) as sock:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
            child.process.kill()
            assert ended_by(sock) == "ECONNRESET"
        child.wait()
        until(lambda: not Path(f"/proc/{maker}").exists())


# Where programs listen


def test_one_family_or_the_loopback_alone(net: Lab, worker: Child, run_host: Namespace) -> None:
    """A program on ``::1`` is found from 127.0.0.1, by the first datagram too; not from afar."""
    script = """
import socket, threading
tcp = socket.create_server(("::1", 80), family=socket.AF_INET6)
udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
udp.bind(("::1", 80))
print("listening", flush=True)
def answer():
    while True:
        data, peer = udp.recvfrom(100)
        udp.sendto(data + peer[0].encode(), peer)
threading.Thread(target=answer, daemon=True).start()
while True:
    sock, peer = tcp.accept()
    with sock:
        sock.sendall(peer[0].encode())
"""
    with run(net, run_host, *PYTHON, "-c", script, ports="0.0.0.0:9001:80") as child:
        child.wait_for("listening")
        with run_host.entered():
            with client.connect("127.0.0.1", 9001) as sock:
                assert sock.recv(100) == b"::1"
            assert client.udp_exchange("127.0.0.1", 9001, b"first ", tries=1) == b"first ::1"
        with net.mid.entered(), client.connect(address(run_host), 9001) as sock:
            assert ended_by(sock) == "ECONNRESET"


def test_datagrams_before_the_program_listens(net: Lab, worker: Child, run_host: Namespace) -> None:
    """They are lost, and the same client's next ones are not."""
    script = """
import socket, sys
sys.stdin.readline()
sock = socket.socket(type=socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", 80))
print("listening", flush=True)
while True:
    data, peer = sock.recvfrom(100)
    sock.sendto(data, peer)
"""
    command = [*PYTHON, "-c", script]
    options = ["-p", "9002:80/udp", "-v"]
    child = net.run(run_host, *command, options=options, user=USER, stdin=subprocess.PIPE)
    with child, run_host.entered():
        child.wait_for("published: 127.0.0.1:9002:80/udp")
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", 9002))
            for _ in range(3):
                sock.send(b"early")
            assert child.process.stdin
            with child.process.stdin as pipe:
                pipe.write(b"go\n")
            child.wait_for("listening")
            sock.settimeout(0.5)
            answer = b""
            for _ in range(120):  # the first ones may still be on their way to be refused
                sock.send(b"late")
                with contextlib.suppress(TimeoutError):
                    answer = sock.recv(100)
                    break
            assert answer in (b"late", b"early")
        child.stop()
    child.no_traceback()


# Errors before anything has begun


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
def test_a_port_that_is_taken(net: Lab, worker: Child, run_host: Namespace, kind: int) -> None:
    with run_host.entered(), socket.socket(type=kind) as other:
        other.bind(("127.0.0.1", 9003))
        if kind == socket.SOCK_STREAM:
            other.listen()
        child = net.run(run_host, "echo", "started", options=["-p", "9003:80"], user=USER)
        assert child.wait() == 2, child.output
    assert "started" not in child.stdout
    assert (
        "--publish 127.0.0.1:9003:80" in child.stderr[-1] and "--publish 0:80" in child.stderr[-1]
    )
    child.no_traceback()


def test_a_port_that_needs_privilege(net: Lab, worker: Child, run_host: Namespace) -> None:
    child = net.run(run_host, "echo", "started", options=["-p", "80"], user=USER)
    assert child.wait() == 3, child.output
    assert "started" not in child.stdout
    assert (
        "--publish 8080:80" in child.stderr[-1]
        and "ip_unprivileged_port_start=80" in child.stderr[-1]
    )
    child.no_traceback()


def test_any_free_port_is_told(net: Lab, worker: Child, run_host: Namespace) -> None:
    command = [*PYTHON, "-u", "-m", "http.server", "80"]
    with run(net, run_host, *command, ports="0:80/tcp", user=None) as child, run_host.entered():
        port = int(child.wait_for(r"published: 127\.0\.0\.1:(\d+):80/tcp$")[1])
        child.wait_for("Serving HTTP")
        with client.connect("127.0.0.1", port) as sock:
            sock.sendall(b"GET /README.md HTTP/1.0\r\n\r\n")
            assert sock.recv(100).startswith(b"HTTP/1.0 200 OK")


# The process that makes the sockets


def makers(child: Child) -> list[int]:
    """The process in question, when it is ready, among the children of ``run``."""
    children = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    return [int(p) for p in children if Path(f"/proc/{p}/comm").read_text() == "zks-sockets\n"]


INTRUDER = """
import ctypes, os, signal, socket, sys
maker, run = map(int, sys.stdin.readline().split())
os.kill(maker, signal.SIGINT)
os.kill(maker, signal.SIGTERM)
for pid in (maker, run):
    for name in ("mem", "maps", "environ", "fd/3", "root", "cwd", "ns/net"):
        try:
            path = f"/proc/{pid}/{name}"
            os.readlink(path) if "/" in name or name in ("root", "cwd") else open(path).close()
            print("open", pid == run, name)
        except PermissionError:
            pass
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    if ptrace(0x4206, pid, 0, 0) == 0:  # PTRACE_SEIZE
        print("open", pid == run, "ptrace")
for port in (9004, 9005):  # of the host: the published one, and another
    for target in ("127.0.0.1", "198.18.0.1"):
        try:
            socket.create_connection((target, port), timeout=5)
            print("open", target, port)
        except OSError:
            pass
listener = socket.create_server(("127.0.0.1", 80))
print("listening", flush=True)
while True:
    listener.accept()[0].close()
"""


# Root without capabilities has all of them in its user namespace.
POOR_ROOT = ["setpriv", "--bounding-set=-all,+setfcap", "--inh-caps=-all"]


@pytest.mark.parametrize(
    ("user", "killed"), [(USER, False), (USER, True), (None, False)], ids=["user", "killed", "root"]
)
def test_it_is_no_way_out(net: Lab, run_host: Namespace, user: int | None, killed: bool) -> None:
    """The command can neither use it nor look into it, and has nothing of the host's.

    Signals that do not kill it do not end it: those of a terminal reach it, too.
    """
    child = net.run(
        run_host,
        *PYTHON,
        "-c",
        INTRUDER,
        options=["-p", "9004:80/tcp"],
        user=user,
        under=() if user else POOR_ROOT,
        embedded=True,  # whose token every one of them may read
        stdin=subprocess.PIPE,
    )
    with child, run_host.entered(), socket.create_server(("127.0.0.1", 9005)):
        until(lambda: len(makers(child)) == 1, message=lambda: child.output)
        (maker,) = makers(child)
        assert os.listdir(f"/proc/{maker}/fd") == ["3"], "nothing but its socket"
        assert child.process.stdin
        with child.process.stdin as pipe:
            pipe.write(f"{maker} {child.pid}\n".encode())
        child.wait_for("listening")
        assert not [line for line in child.stdout if line.startswith("open")]
        with client.connect("127.0.0.1", 9004) as sock:
            assert ended_by(sock) == "EOF"
        if killed:  # the user may, and is told
            os.kill(maker, signal.SIGKILL)
            try:
                with client.connect("127.0.0.1", 9004) as sock:
                    assert ended_by(sock) == "ECONNRESET"
            except ConnectionResetError:
                pass  # before connect() had looked
            child.wait_for("has ended: they are closed now, the command runs on")
            assert client.connect_error("127.0.0.1", 9004) == "ECONNREFUSED"
            assert child.process.poll() is None
        child.stop()
    child.no_traceback()
