"""Where a worker listens: several addresses, unix sockets, and what systemd has opened."""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from tests.kits.worker import running_worker
from zks_lwip.errors import ConfigError
from zks_lwip.worker.addresses import (
    BoundSocket,
    InheritedSocket,
    TcpAddress,
    UnixAddress,
    parse_listen_address,
)
from zks_lwip.worker.listen import open_listeners

UNIX = pytest.mark.skipif(sys.platform == "win32", reason="needs unix sockets")
HEALTH = b"GET /health HTTP/1.1\r\nHost: worker\r\n\r\n"


async def health(stream: trio.SocketStream) -> bytes:
    async with stream:
        await stream.send_all(HEALTH)
        return bytes(await stream.receive_some()).split(b"\r\n")[0]


@contextmanager
def bound(address: UnixAddress) -> Iterator[BoundSocket]:
    one = BoundSocket(address)
    try:
        yield one
    finally:
        one.close()


@UNIX
async def test_several_at_once(short_path: Path) -> None:
    path = short_path / "worker.sock"
    listen = (TcpAddress("127.0.0.1", 0), TcpAddress("::1", 0), UnixAddress(path, 0o600))
    async with running_worker(listen=listen, access_log=short_path / "log") as (worker, address):
        first, second, third = worker.listening
        assert first.address == address and str(third) == f"unix:{path}"
        for each in (first, second):
            assert await health(await trio.open_tcp_stream(*each.address)) == b"HTTP/1.1 200 OK"
        assert await health(await trio.open_unix_socket(path)) == b"HTTP/1.1 200 OK"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


@UNIX
async def test_none_if_one_cannot_be_had(short_path: Path) -> None:
    (short_path / "file").write_text("precious")
    listen = (UnixAddress(short_path / "a"), UnixAddress(short_path / "file"))
    with pytest.RaisesGroup(ConfigError, flatten_subgroups=True):
        async with running_worker(listen=listen):
            pytest.fail("it listens")
    assert not (short_path / "a").exists() and (short_path / "file").read_text() == "precious"


@pytest.mark.parametrize(
    "hosts", [("0.0.0.0", "::"), ("::", "0.0.0.0")], ids=lambda hosts: hosts[0]
)
def test_all_addresses_of_either_kind_at_one_port(hosts: tuple[str, str]) -> None:
    """As examples/systemd has it. Alone, ``::`` takes IPv4, too."""
    (alone,) = open_listeners([TcpAddress("::", 0)], tls=True, tokens=True)
    port = alone.address[1]
    try:
        socket.create_connection(("127.0.0.1", port), 30).close()
    finally:
        alone.close()
    both = open_listeners([TcpAddress(host, port) for host in hosts], tls=True, tokens=True)
    try:
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            (bound,) = (each for each in both if each.socket.family == family)
            with socket.create_connection((host, port), 30):
                bound.socket.settimeout(30)
                accepted, _ = bound.socket.accept()
                accepted.close()
    finally:
        for each in both:
            each.close()


def test_a_kernel_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    class WithoutIPv6(socket.socket):
        def __init__(self, family: int = -1, *args: object, **options: object) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
            super().__init__(family, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "socket", WithoutIPv6)
    with pytest.raises(ConfigError, match=r"cannot listen on \[::\]:443: Address family not"):
        BoundSocket(TcpAddress("::", 443))


@UNIX
def test_a_socket_that_is_left_goes_and_one_in_use_stays(short_path: Path) -> None:
    address = UnixAddress(short_path / "s")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(address.path))
    with bound(address):
        with pytest.raises(ConfigError, match="another program listens there.*`listen`"):
            BoundSocket(address)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(address.path))
    assert not address.path.exists()


@UNIX
def test_it_does_not_clear_away_what_is_anothers_by_now(short_path: Path) -> None:
    address = UnixAddress(short_path / "s")
    one = BoundSocket(address)
    address.path.unlink()
    with bound(address):
        one.close()
        assert address.path.exists()


def test_texts() -> None:
    assert parse_listen_address("unix:/run/x", 0o600) == UnixAddress(Path("/run/x"), 0o600)
    assert parse_listen_address("[::1]:5") == TcpAddress("::1", 5)
    assert str(TcpAddress("::1", 5)) == "[::1]:5"
    for text in ("unix:", "unix:" + "x" * 108, "unix:a\0b", "x"):
        with pytest.raises(ConfigError) as caught:
            parse_listen_address(text)
        assert caught.value.option == "listen"


@UNIX
def test_what_is_no_listening_socket() -> None:
    if sys.platform != "darwin":  # which does not tell
        with socket.socket() as sock, pytest.raises(ConfigError, match="does not listen"):
            BoundSocket(InheritedSocket(sock.fileno(), "web"))
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        with pytest.raises(ConfigError, match="does not listen"):
            BoundSocket(InheritedSocket(sock.fileno(), "web"))
    reader, writer = os.pipe()
    with pytest.raises(ConfigError, match="is no socket"):
        BoundSocket(InheritedSocket(reader))
    os.close(reader)
    os.close(writer)


@UNIX
def test_socket_activation(short_path: Path) -> None:
    """As systemd does it: descriptors from 3 on, LISTEN_PID, names; and the state is told."""
    told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    told.bind(str(short_path / "notify"))
    told.settimeout(60)
    with socket.create_server(("127.0.0.1", 0)) as web, told:
        with socket.create_server(("127.0.0.1", 0)) as numbers:
            start = (
                "import os, sys\n"
                f"os.dup2({web.fileno()}, 100); os.dup2({numbers.fileno()}, 101)\n"
                "os.dup2(100, 3); os.dup2(101, 4)\n"
                "os.environ['LISTEN_PID'] = str(os.getpid())\n"
                "os.execv(sys.executable, [sys.executable, '-m', 'zks_lwip', 'worker'])\n"
            )
            process = subprocess.Popen(
                [sys.executable, "-c", start],
                stdout=subprocess.PIPE,
                pass_fds=(web.fileno(), numbers.fileno()),
                env=os.environ
                | {
                    "LISTEN_FDS": "2",
                    "LISTEN_FDNAMES": "web:metrics",
                    "NOTIFY_SOCKET": str(short_path / "notify"),
                },
            )
            addresses = web.getsockname(), numbers.getsockname()
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"listening on 127.0.0.1:%d\n" % addresses[0][1]
            assert told.recv(4096).startswith(b"READY=1\nSTATUS=listening on 127.0.0.1:")
            for address, path, word in zip(
                addresses, ("health", "ready"), (b"ok", b"ready"), strict=True
            ):
                with socket.create_connection(address, timeout=60) as sock:
                    sock.sendall(HEALTH.replace(b"health", path.encode()))
                    answer = b"".join(iter(lambda: sock.recv(4096), b""))  # noqa: B023
                    assert answer.endswith(b"\r\n\r\n" + word + b"\n")
            process.send_signal(signal.SIGHUP)
            assert told.recv(4096).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            assert told.recv(4096) == b"READY=1"
            process.terminate()
            assert told.recv(4096) == b"STOPPING=1"
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()
            process.stdout.close()  # type: ignore[union-attr]
