"""``proxy``, as a user without any privilege: curl, a UDP client, passwords, refusals."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kits.netns import lab, machine, servers, socks
from tests.kits.netns.child import Child, until
from tests.kits.netns.commands import workers_of
from tests.kits.netns.lab import PYTHON, USER, ZKS, Lab, Namespace
from tests.kits.plain_websocket import receive_exactly
from tests.kits.proxy import address

PROXY = ("127.0.0.1", 1080)
TOTAL = 20_000_000


@contextmanager
def proxy(
    net: Lab,
    host: Namespace,
    *options: str,
    embedded: bool = False,
    user: int | None = USER,
    url: str | None = None,
) -> Iterator[Child]:
    """``proxy`` in ``host``, ready; stopped in order at the end."""
    more = options if embedded else net.tunnel_options(url, *options)
    with Child("proxy", host.command([*ZKS, "proxy", *more], user=user)) as child:
        child.wait_for("^ready: ")
        yield child
    child.no_traceback()
    assert child.process.returncode == 0, child.output


@pytest.fixture(scope="module")
def host(net: Lab) -> Namespace:
    return net.add_host()


@pytest.fixture(scope="module")
def running(net: Lab, worker: Child, host: Namespace) -> Iterator[Child]:
    before = machine.picture(host.path)
    with proxy(net, host) as child:
        yield child
    assert machine.difference(before, machine.picture(host.path)) == ""


def curl(net: Lab, host: Namespace, *options: str, path: str = "hello", name: str = "") -> Child:
    name = name or "far.zks.test"
    argv = ["curl", "-sS", "--max-time", "60", *options, f"http://{name}:{servers.HTTP}/{path}"]
    return net.application(host, *argv)


WAYS = {
    "socks5h": ["--socks5-hostname", "127.0.0.1:1080"],
    "http": ["-x", "http://127.0.0.1:1080"],
    "connect": ["-p", "-x", "http://127.0.0.1:1080"],
}


@pytest.mark.parametrize("way", WAYS)
def test_curl_by_a_name_that_the_worker_alone_knows(
    net: Lab, running: Child, host: Namespace, way: str
) -> None:
    page = curl(net, host, *WAYS[way]).succeed()
    assert page in (f"hello {lab.MID4}", f"hello {lab.MID6}")
    for name, seen in (("four.zks.test", lab.MID4), ("six.zks.test", lab.MID6)):
        assert curl(net, host, *WAYS[way], name=name).succeed() == f"hello {seen}"


@pytest.mark.parametrize("way", [*WAYS, "socks5"])
@pytest.mark.parametrize("name", [lab.FAR4, f"[{lab.FAR6}]"])
def test_curl_by_an_address(net: Lab, running: Child, host: Namespace, way: str, name: str) -> None:
    options = WAYS.get(way, ["--socks5", "127.0.0.1:1080"])
    assert curl(net, host, *options, name=name).succeed().startswith("hello ")


def test_curl_by_the_environment(net: Lab, running: Child, host: Namespace) -> None:
    child = net.application(
        host,
        "curl",
        "-sS",
        f"http://four.zks.test:{servers.HTTP}/hello",
        env={"ALL_PROXY": "socks5h://127.0.0.1:1080"},
    )
    assert child.succeed() == f"hello {lab.MID4}"


@pytest.mark.parametrize("way", WAYS)
def test_transfers(net: Lab, running: Child, host: Namespace, way: str) -> None:
    down = curl(net, host, *WAYS[way], "-o", "/dev/null", "-w", "%{size_download}",
                path=f"bytes/{TOTAL}")  # fmt: skip
    assert down.succeed() == str(TOTAL)
    data = net.directory / "upload"
    if not data.exists():
        data.write_bytes(b"".join(servers.pattern(TOTAL)))
    up = curl(net, host, *WAYS[way], "--data-binary", f"@{data}", path="post")
    assert up.succeed() == f"{TOTAL} {servers.pattern_digest(TOTAL)}"


def test_half_close_in_both_orders(running: Child, host: Namespace) -> None:
    with host.entered():
        with socks.connect(PROXY, lab.FAR4, servers.SINK) as sock:
            for chunk in servers.pattern(TOTAL):
                sock.sendall(chunk)
            sock.shutdown(1)
            with sock.makefile() as lines:
                assert lines.read().split() == [str(TOTAL), servers.pattern_digest(TOTAL)]
        with socks.connect(PROXY, lab.FAR4, servers.SOURCE) as sock:
            sock.sendall(struct.pack("!Q", TOTAL))
            assert servers.digest_of(sock) == (TOTAL, servers.pattern_digest(TOTAL))
            sock.sendall(b"still heard")
        with socks.connect(PROXY, lab.FAR4, servers.RESET) as sock:
            sock.sendall(b"x")
            with pytest.raises(ConnectionResetError):
                while sock.recv(100):
                    pass


def test_the_reply_is_what_the_far_end_did(running: Child, host: Namespace) -> None:
    expected = {
        (lab.FAR4, servers.CLOSED): 5,
        (lab.FAR6, servers.CLOSED): 5,
        (lab.NO_ROUTE4, 80): 3,
        (lab.NO_ROUTE6, 80): 3,
        (lab.NO_HOST4, 80): 4,
        (lab.PRIVATE4, servers.ECHO): 2,
        (lab.PRIVATE6, servers.ECHO): 2,
        ("127.0.0.1", servers.ECHO): 2,
        ("0x7f000001", servers.ECHO): 2,
        ("loop.zks.test", servers.ECHO): 2,
        ("private.zks.test", servers.ECHO): 2,
        ("unknown.zks.test", 80): 4,
        (lab.SILENT4, 80): 6,
    }
    with host.entered():
        assert {(name, port): socks.code(PROXY, name, port) for name, port in expected} == expected


@pytest.mark.parametrize(
    ("name", "status"), [(f"{lab.FAR4}:{servers.CLOSED}", 502), (f"{lab.PRIVATE4}:80", 403)]
)
def test_http_says_the_same(
    net: Lab, running: Child, host: Namespace, name: str, status: int
) -> None:
    argv = ["curl", "-sS", "-x", "127.0.0.1:1080", "-w", "%{http_code}", f"http://{name}/"]
    text = net.application(host, *argv).succeed()
    assert text.endswith(str(status)) and text.startswith(f"{name}: ")
    argv = ["curl", "-sS", "-x", "127.0.0.1:1080", f"https://{name}/"]
    tunnel = net.application(host, *argv)
    assert tunnel.wait() == 56 and f"response {status}" in tunnel.output


def test_datagrams(running: Child, host: Namespace) -> None:
    with host.entered(), socks.associate(PROXY) as association:
        for name, source in (
            (lab.FAR4, lab.FAR4), (lab.FAR6, lab.FAR6), ("four.zks.test", lab.FAR4),
            ("six.zks.test", lab.FAR6),
        ):  # fmt: skip
            for size in (0, 1000, 9000):
                payload = bytes(range(256)) * (size // 256)
                got = association.exchange(name, servers.ECHO, payload)
                assert got == (address(source, servers.ECHO), payload), name
        _, seen = association.exchange(lab.FAR4, servers.WHO, b"?")
        assert seen.decode().split()[0] == lab.MID4
        got = association.exchange(lab.FAR4, servers.FULL_CONE, b"from another port")
        assert got == (address(lab.FAR4, servers.FULL_CONE + 1), b"from another port")


def test_without_a_worker_one_is_started(net: Lab) -> None:
    host = net.add_host()
    own = net.file("resolv-of-proxy", f"nameserver {lab.NAMES4}\n")
    argv = [*ZKS, "proxy", "--stats"]
    with Child("proxy", host.command(argv, user=USER, resolv=own)) as child:
        child.wait_for("a worker runs here, as a child process")
        child.wait_for("^ready: 127.0.0.1:1080 → ws://127.0.0.1:")
        (worker,) = workers_of(child.pid)
        assert curl(net, host, *WAYS["socks5h"], name="four.zks.test").succeed() == (
            f"hello {_address_of(host)}"
        )
        with host.entered():
            assert socks.code(PROXY, "127.0.0.1", 1080) == 2, "not what listens on loopback"
    child.no_traceback()
    assert child.process.returncode == 0
    assert any("2 connections asked for (1 connected, 1 refused" in x for x in child.stderr)
    until(lambda: not _exists(worker))


def test_for_others_the_worker_that_is_started_is_no_way_past_a_firewall(net: Lab) -> None:
    """What comes to the machine's own addresses from itself passes its firewall."""
    host = net.add_host()
    passwords = net.file("passwords-of-others", "me:secret\n", 0o600)
    os.chown(passwords, USER, USER)
    own = _address_of(host)
    beyond = ["--listen", "0.0.0.0:1080", "--password-file", str(passwords)]
    with host.entered(), socket.create_server((own, 0)) as listener:
        where = f"telnet://{own}:{listener.getsockname()[1]}"
        knock = ["curl", "-v", "--max-time", "20", "--socks5", f"{own}:1080"]
        knock += ["--proxy-user", "me:secret"]
        with proxy(net, host, *beyond, embedded=True):
            refused = net.application(net.mid, *knock, where)
            refused.wait()
            assert "(97)" in refused.output and "(2)" in refused.output
        with proxy(net, host, embedded=True):
            assert socks.code(PROXY, own, listener.getsockname()[1]) == 0, "for its own programs"


def test_beyond_loopback_it_wants_a_password(net: Lab, worker: Child) -> None:
    host = net.add_host()
    own = _address_of(host)
    listen = ["--listen", "0.0.0.0:1080"]
    refused = Child("proxy", host.command([*ZKS, "proxy", *net.tunnel_options(None, *listen)]))
    assert refused.wait() == 2
    assert refused.stderr == [
        "zks-lwip: --listen 0.0.0.0 is beyond loopback, where anyone who reaches it could use the "
        "tunnel: give --password-file, or listen on 127.0.0.1."
    ]
    passwords = net.file("passwords", "# ours\nme:se:cret\n", 0o644)
    listen += ["--password-file", str(passwords)]
    refused = Child("proxy", host.command([*ZKS, "proxy", *net.tunnel_options(None, *listen)]))
    assert refused.wait() == 2 and "others may read or write it (mode 644)" in refused.output
    passwords.chmod(0o600)
    os.chown(passwords, USER, USER)
    with proxy(net, host, *listen) as child:
        child.wait_for("can be read on the way")
        neighbour = net.mid
        for way, said in (
            ("--socks5-hostname", "curl: (97) "),
            ("-x", "This proxy wants a name and a password"),
            ("-px", "response 407"),
        ):
            for user in ([], ["--proxy-user", "me:wrong"]):
                page = curl(net, neighbour, way, f"{own}:1080", *user)
                page.wait()
                assert said in page.output and lab.MID4 not in page.output
            right = ["--proxy-user", "me:se:cret"]
            page = curl(net, neighbour, way, f"{own}:1080", *right, name="four.zks.test")
            assert page.succeed() == f"hello {lab.MID4}"
        failed = [line for line in child.stderr if "authentication failed" in line]
        whose = own.rpartition(".")[0] + ".1"
        told = [line.partition(" ")[2] for line in failed]  # behind the time
        assert told == [f"zks-lwip: proxy: authentication failed from {whose}"] * 3
        net.file("passwords", "me:another\n", 0o600)
        child.signal(signal.SIGHUP)
        until(
            lambda: (
                curl(net, neighbour, "-x", f"{own}:1080", "--proxy-user", "me:another")
                .succeed()
                .startswith("hello")
            )
        )


def test_what_ends_it_and_what_it_tells(net: Lab, worker: Child) -> None:
    host = net.add_host()
    with host.entered():
        with proxy(net, host) as child, socks.connect(PROXY, lab.FAR4, servers.ECHO) as sock:
            sock.sendall(b"x")
            assert receive_exactly(sock, 1) == b"x"
            child.signal(signal.SIGUSR1)
            told = json.loads(child.wait_for(r"^\{.*")[0])
            assert told["proxy"]["flows"] == 1 and told["tunnel"]["streams"] == 1
            child.signal(signal.SIGTERM)
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        argv = [*ZKS, "proxy", *net.tunnel_options()]
        with Child("proxy", host.command(argv)) as child:
            child.wait_for("^ready: ")
            with socks.connect(PROXY, lab.FAR4, servers.ECHO) as sock:
                child.process.kill()
                with pytest.raises(ConnectionResetError):  # a download that is cut is no whole one
                    sock.recv(1)
            assert child.wait() == -9


def test_errors_say_what_to_do(net: Lab, worker: Child, running: Child, host: Namespace) -> None:
    def ended(code: int, *options: str, user: int | None = USER) -> str:
        child = Child("proxy", host.command([*ZKS, "proxy", *options], user=user))
        assert child.wait() == code, child.output
        child.no_traceback()
        return child.stderr[-1]

    good = net.tunnel_options()
    assert "Address already in use; end what listens there" in ended(2, *good)
    assert "ports below 1024 need privilege" in ended(3, *good, "--listen", "127.0.0.1:80")
    assert "give --listen an address of this machine" in ended(
        2, *good, "--listen", "25.9.9.9:1080", "--password-file", _passwords(net)
    )
    wrong = str(net.secret("wrong-token", "wrong\n"))
    free = ("--listen", "127.0.0.1:0")
    assert "401" in ended(13, *net.tunnel_options(None, "--token-file", wrong), *free)
    assert "No such file" in ended(2, *good, *free, "--password-file", "/nonexistent")


def test_a_tunnel_that_is_down_is_said_so(net: Lab) -> None:
    host, listen = net.add_host(), f"{lab.WORKER4}:8797"
    far = net.worker(listen=listen)
    with far, proxy(net, host, "--grace", "1", "--resume", "0", url=f"ws://{listen}") as child:
        assert curl(net, host, *WAYS["http"]).succeed().startswith("hello")
        far.process.kill()
        far.wait()
        child.wait_for("Trying again")
        with host.entered():
            assert socks.code(PROXY, lab.FAR4, servers.ECHO) == 1
        page = curl(net, host, *WAYS["http"], "-w", "%{http_code}").succeed()
        assert page.endswith("503")
        with net.worker(listen=listen):
            until(lambda: "hello" in curl(net, host, *WAYS["http"]).succeed())


def test_a_thousand_connections_at_once(net: Lab, running: Child, host: Namespace) -> None:
    """From one program, through one session of the worker."""
    code = f"""
import trio
from tests.kits.proxy import ask
async def one():
    stream = await trio.open_tcp_stream(*{PROXY!r})
    assert (await ask(stream, 1, {lab.FAR4!r}, {servers.IDLE}))[0] == 0
    await stream.send_all(b"x")
    assert await stream.receive_some(1) == b"x"
    return stream
async def main():
    async with trio.open_nursery() as nursery:
        for _ in range(1000):
            nursery.start_soon(one)
trio.run(main)
"""
    net.application(host, *PYTHON, "-c", code).succeed(120)


def _passwords(net: Lab) -> str:
    path = net.file("passwords-of-user", "me:secret\n", 0o600)
    os.chown(path, USER, USER)
    return str(path)


def _address_of(host: Namespace) -> str:
    shown = Child("ip", host.command(["ip", "-4", "-br", "addr", "show", "dev", "up0"])).succeed()
    return shown.split()[2].split("/")[0]


def _exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
