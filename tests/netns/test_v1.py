"""``--protocol v1``: through a worker with the original's traits, and through ours."""

from __future__ import annotations

import contextlib
import itertools
import signal
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.kits.netns import client, lab, servers
from tests.kits.netns.child import Child, until
from tests.kits.netns.lab import PYTHON, WORKER4, Lab, Namespace

HUNDRED_MB = 100_000_000
V1 = ["--protocol", "v1", "--ipv6", "tunnel"]  # auto would refuse it: v1 cannot say it is there

_ports = itertools.count(9400)


@contextlib.contextmanager
def original(net: Lab, *options: str) -> Iterator[tuple[Child, str]]:
    """The original Worker's double, and the URL that it is at."""
    port = next(_ports)
    argv = [*PYTHON, "-m", "tests.kits.netns.original", WORKER4, str(port), lab.NAMES4, *options]
    with Child("original worker", net.mid.command(argv)) as running:
        running.wait_for("original worker listens")
        yield running, f"ws://{WORKER4}:{port}"
    running.no_traceback()


class Tunnel:
    """A host whose traffic goes through a v1 worker."""

    def __init__(self, host: Namespace, url: str, worker: Child, connect: Child) -> None:
        self.host = host
        self.url = url
        self.worker = worker
        self.connect = connect
        self.original = worker.name == "original worker"


@pytest.fixture(scope="module", params=["original", "ours"])
def v1(request: pytest.FixtureRequest, net: Lab) -> Iterator[Tunnel]:
    host = net.add_host()
    with contextlib.ExitStack() as stack:
        if request.param == "original":
            worker, url = stack.enter_context(original(net))
        else:
            url = f"ws://{WORKER4}:{next(_ports)}"
            worker = stack.enter_context(net.worker(listen=url[5:]))
        connect = stack.enter_context(net.connect(host, *V1, url=url))
        yield Tunnel(host, url, worker, connect)
    connect.no_traceback()
    worker.no_traceback()
    assert connect.process.returncode == 0


def test_it_is_never_spoken_unasked(net: Lab) -> None:
    with original(net) as (worker, url), net.connect(net.add_host(), url=url, ready=False) as child:
        assert child.wait() == 14, child.output
        assert "set --protocol to v1" in child.output
        worker.wait_for("offered a subprotocol")


def test_run(net: Lab, v1: Tunnel, run_host: Namespace) -> None:
    page = f"http://far.zks.test:{servers.HTTP}/hello"
    child = net.run(run_host, "curl", "-sS", "-m", "50", page, options=V1, url=v1.url)
    assert child.succeed() in (f"hello {lab.MID4}", f"hello {lab.MID6}")
    child.no_traceback()


def test_ssh(net: Lab, v1: Tunnel, ssh: list[str]) -> None:
    argv = [*ssh, f"root@{lab.FAR4}", "head -c 3000000 /dev/zero | sha256sum; exit 7"]
    session = net.application(v1.host, *argv)
    assert session.wait() == 7, session.output
    zeros = subprocess.run("head -c 3000000 /dev/zero | sha256sum", shell=True, capture_output=True)
    assert session.stdout == [zeros.stdout.decode().strip()]


@pytest.mark.parametrize("way", ["http", "ssh"])
def test_git_clone(
    net: Lab, v1: Tunnel, ssh: list[str], repository: str, tmp_path: Path, way: str
) -> None:
    url = f"http://far.zks.test:{servers.HTTP}/project.git"
    if way == "ssh":
        url = f"ssh://root@far.zks.test/{net.pages}/project.git"
    git = ["git", "clone", "-q", url, str(tmp_path / "clone")]
    net.application(v1.host, *git, env={"GIT_SSH_COMMAND": " ".join(ssh)}).succeed()
    head = ["git", "rev-parse", "HEAD"]
    found = subprocess.run(head, cwd=tmp_path / "clone", capture_output=True, text=True)
    assert found.stdout.strip() == repository


def test_100_mb(v1: Tunnel) -> None:
    """Both ways at once: each digest is right, and nothing was dropped on the way."""
    with v1.host.entered():
        if v1.original:  # 6 s: what leaves is paced
            client.duplex(lab.FAR4, servers.DUPLEX, HUNDRED_MB, HUNDRED_MB)
        client.duplex_many(lab.FAR6, servers.DUPLEX, 20, HUNDRED_MB // 4)
    for flaw in ("DATA before CONNECTED", "offered a subprotocol"):
        assert not any(flaw in line for line in v1.worker.stdout)


def test_a_stalled_reader_holds_up_its_own_websocket_only(net: Lab, v1: Tunnel) -> None:
    """The client stops reading; ours then stops, too, the original holds what it has to."""
    total = HUNDRED_MB
    with v1.host.entered(), client.connect(lab.FAR4, servers.SOURCE) as lazy:
        before = _memory(v1.connect), _memory(v1.worker)
        lazy.sendall(struct.pack("!Q", total))
        client.download(lab.FAR6, servers.SOURCE, 20_000_000)
        client.duplex_many(lab.FAR4, servers.DUPLEX, 4, 20_000_000)
        until(lambda: _memory(v1.connect) - before[0] < 24 << 20)
        if v1.original:
            v1.worker.wait_for(r"holding \d{8,} bytes for a client")
        else:
            until(lambda: _memory(v1.worker) - before[1] < 24 << 20)
        assert servers.digest_of(lazy) == (total, servers.pattern_digest(total))
    until(lambda: _sockets(v1.connect) < 6, message=lambda: f"{_sockets(v1.connect)} are open")


def test_the_far_end_closes(v1: Tunnel) -> None:
    """All data, then EOF; what is sent after that is a reset, as a kernel's would be."""
    with v1.host.entered(), client.connect(lab.FAR4, servers.SOURCE) as sock:
        sock.sendall(struct.pack("!Q", 3_000_000))
        assert servers.digest_of(sock) == (3_000_000, servers.pattern_digest(3_000_000))


def test_a_reset_is_no_good_end(v1: Tunnel) -> None:
    """Ours says so; of the original's CLOSE it cannot be known. A worker that dies is a reset."""
    with v1.host.entered(), client.connect(lab.FAR4, servers.RESET) as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        if v1.original:
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""
        else:
            with pytest.raises(ConnectionResetError):
                sock.recv(1)


@pytest.mark.parametrize("kind", ["original", "ours"])
def test_a_worker_that_dies_is_a_reset(net: Lab, kind: str) -> None:
    """In the midst of a download: its WebSockets end without a CLOSE."""
    host = net.add_host()
    with contextlib.ExitStack() as stack:
        if kind == "original":
            worker, url = stack.enter_context(original(net))
        else:
            url = f"ws://{WORKER4}:{next(_ports)}"
            worker = stack.enter_context(net.worker(listen=url[5:]))
        stack.enter_context(net.connect(host, *V1, url=url))
        with host.entered(), client.connect(lab.FAR4, servers.SOURCE) as sock:
            sock.sendall(struct.pack("!Q", 1 << 40))
            assert servers.receive_exactly(sock, 100_000)
            worker.signal(signal.SIGKILL)
            with pytest.raises(ConnectionResetError):
                servers.digest_of(sock)


@pytest.mark.parametrize(
    ("host", "port", "original", "ours"),
    [
        (lab.FAR4, servers.CLOSED, "EHOSTUNREACH", "ECONNREFUSED"),  # all is 502 there
        (lab.NO_ROUTE6, 80, "connected", "ENETUNREACH"),  # and port 80 always there
        (lab.PRIVATE4, servers.WHO, "EHOSTUNREACH", "EHOSTUNREACH"),
    ],
)
def test_errors(v1: Tunnel, host: str, port: int, original: str, ours: str) -> None:
    expected = original if v1.original else ours
    with v1.host.entered():
        assert client.connect_error(host, port) == expected


def test_dns(net: Lab, v1: Tunnel) -> None:
    """More queries than a 16-bit id or one at a time would bear, and both transports."""

    def dig(*argv: str) -> str:
        return net.application(v1.host, "dig", *argv).succeed()

    assert dig("far.zks.test", "+short") == lab.FAR4
    assert dig("far.zks.test", "AAAA", "+tcp", "+short", "@2a0e:ffff::53") == lab.FAR6
    assert "NXDOMAIN" in dig("nothing.zks.test")
    names = [f"n{number}.zks.test" for number in range(40)]
    assert dig(*names).count("NXDOMAIN") == 40
    if v1.original:
        _fail_and_say_so(net, v1.host)


def _fail_and_say_so(net: Lab, host: Namespace) -> None:
    """The original is silent when its name server is: SERVFAIL after 5 s."""
    net.names.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        dig = ["dig", "+time=60", "+tries=1", "never.zks.test"]
        assert "SERVFAIL" in net.application(host, *dig).succeed()
        assert 4 < time.monotonic() - began < 50
    finally:
        net.names.signal(signal.SIGCONT)


@pytest.mark.parametrize("far", [lab.FAR4, lab.FAR6])
def test_udp_is_refused_at_once(v1: Tunnel, far: str) -> None:
    family = socket.AF_INET6 if ":" in far else socket.AF_INET
    with v1.host.entered(), socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(9)  # what waits for the worker, waits longer
        sock.connect((far, servers.ECHO))
        sock.send(b"anyone?")
        with pytest.raises(ConnectionRefusedError):
            sock.recv(100)


def test_ping_gets_no_answer(net: Lab, v1: Tunnel) -> None:
    ping = net.application(v1.host, "ping", "-c1", "-W1", lab.FAR4)
    assert ping.wait() == 1 and "100% packet loss" in ping.output


def test_https_through_the_original(net: Lab) -> None:
    """Port 80 works by a fetch; TLS works but on 443, and there the log says why it does not."""
    host, ca_file = net.add_host(), net.directory / "ca.pem"
    with (
        _https(net, ca_file),
        original(net) as (_, url),
        net.connect(host, *V1, url=url) as connect,
    ):

        def curl(page: str) -> Child:
            argv = ["curl", "-sS", "-m", "50", "--cacert", str(ca_file), page]
            return net.application(host, *argv)

        assert "hello" in curl("http://far.zks.test/hello").succeed()
        assert curl("https://far.zks.test:8443/").succeed() == "over TLS"
        assert not any("v2 worker" in line for line in connect.stderr)
        for _ in range(2):
            assert curl("https://far.zks.test/").wait() == 35  # the handshake failed
        connect.wait_for("v2 worker")
    lines = [line for line in connect.stderr if "443" in line]
    assert len(lines) == 1 and lab.FAR4 not in lines[0]
    connect.no_traceback()


@contextlib.contextmanager
def _https(net: Lab, ca_file: Path) -> Iterator[None]:
    """A web server with TLS at the far end, on port 8443, for one request."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(ca_file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("far.zks.test").configure_cert(context)
    with net.far.entered():
        listener = socket.create_server(("::", 8443), family=socket.AF_INET6, dualstack_ipv6=True)

    def serve() -> None:
        with listener.accept()[0] as sock, context.wrap_socket(sock, server_side=True) as tls:
            tls.recv(4096)
            tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nover TLS")

    with listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        thread.join(5)


def _memory(child: Child) -> int:
    """Resident bytes."""
    return int(Path(f"/proc/{child.pid}/statm").read_text().split()[1]) * 4096


def _sockets(child: Child) -> int:
    """Connected TCP sockets of a process, the worker's WebSockets among them."""
    shown = subprocess.run(
        ["nsenter", f"--net=/proc/{child.pid}/ns/net", "ss", "-Htnp", "state", "established"],
        capture_output=True,
        text=True,
        check=True,
    )
    return shown.stdout.count(f"pid={child.pid},")
