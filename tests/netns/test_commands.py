"""``connect`` as a command: ready line, options, signals, and a host that is put back."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest
import trustme

from tests.kits.netns import client, lab, machine, servers
from tests.kits.netns.child import Child, descendants, until
from tests.kits.netns.lab import USER, WORKER4, WORKER_PORT, ZKS, Lab, Namespace

DIG = ["dig", "+tries=1", "+time=30"]
MALFORMED = [
    ["connect", "--worker", "ftp://worker.example"],
    ["connect", "--worker", "ws://"],
    ["connect", "--worker", "wss://worker.example:99999"],
    ["connect", "--worker", f"ws://{WORKER4}"],  # in the clear, without --plaintext
    ["connect", "--mtu", "12"],
    ["connect", "--mtu", "large"],
    ["connect", "--tun", "a/b"],
    ["connect", "--tun", "a-name-that-is-too-long"],
    ["connect", "--ipv6", "maybe"],
    ["connect", "--dns-static", "nonsense"],
    ["connect", "--dns-static", "host.example=1.2.3"],
    ["connect", "--token-file", "/nonexistent/token"],
    ["connect", "--worker", "wss://worker.example", "--ca-file", "/nonexistent/ca.pem"],
    ["connect", "--max-flows", "0"],
    ["connect", "--netns", "zt-there-is-none"],
    ["connect", "--host-loopback", "300.1.1.1"],
    ["connect", "--no-such-option"],
    ["run"],
    ["run", "--mtu", "70000", "--", "true"],
    ["worker", "--listen", "nowhere"],
    ["worker", "--listen", "0.0.0.0:8787"],  # beyond loopback, without a token
    ["worker", "--listen", "127.0.0.1:0", "--allow", "10.0.0.0/99"],
    ["worker", "--listen", "127.0.0.1:0", "--resolver", "a name"],
    ["worker", "--listen", "127.0.0.1:0", "--tls-cert", "/nonexistent/cert.pem"],
    ["no-such-command"],
]


@pytest.fixture(scope="module")
def quiet(net: Lab) -> Namespace:
    """A host in which nothing but short commands are run."""
    return net.add_host()


@pytest.mark.parametrize("arguments", MALFORMED, ids=" ".join)
def test_malformed_options_are_one_clear_error(
    net: Lab, quiet: Namespace, arguments: list[str]
) -> None:
    before = machine.picture(quiet.path)
    child = Child("command", quiet.command([*ZKS, *arguments], resolv=net.resolv))
    code = child.wait()
    child.no_traceback()
    assert code == 2, child.output
    assert child.stderr and child.stderr[-1].strip(), "no message"
    assert len(child.stderr) <= 8, child.output
    assert machine.difference(before, machine.picture(quiet.path)) == ""


@pytest.mark.parametrize("command", [[], ["connect"], ["run"], ["worker"]], ids=" ".join)
def test_help(quiet: Namespace, command: list[str]) -> None:
    text = Child("help", quiet.command([*ZKS, *command, "--help"])).succeed()
    assert "Usage:" in text
    assert len(text.splitlines()) > 8


def test_version_names_lwip_too(quiet: Namespace) -> None:
    text = Child("version", quiet.command([*ZKS, "--version"])).succeed()
    assert "2.2.1" in text and "lwip" in text.lower()


def test_connect_without_privilege(net: Lab, quiet: Namespace) -> None:
    child = net.connect(quiet, ready=False, user=USER)
    assert child.wait() == 3, child.output
    child.no_traceback()
    assert "CAP_NET_ADMIN" in "\n".join(child.stderr)


def test_an_interface_name_that_is_taken(net: Lab, worker: Child) -> None:
    host = net.add_host()
    host.ip("link add zks0 type dummy" if _has_dummy() else "tuntap add dev zks0 mode tap")
    before = machine.picture(host.path)
    child = net.connect(host, ready=False)
    assert child.wait() == 4, child.output
    child.no_traceback()
    assert "zks0" in child.stderr[-1] and "--tun" in "\n".join(child.stderr), child.output
    assert machine.difference(before, machine.picture(host.path)) == ""
    with net.connect(host, "--tun", "zks7"), host.entered():
        assert client.who(lab.FAR4) == lab.MID4


def test_the_tunnels_addresses_give_way(net: Lab, worker: Child) -> None:
    """198.18.0.1/30 is in use here: the TUN takes another network."""
    host = net.add_host()
    host.ip(
        "tuntap add dev other mode tap", "addr add 198.18.0.1/30 dev other", "link set other up"
    )
    with net.connect(host), host.entered():
        assert client.who(lab.FAR4) == lab.MID4
        shown = net.application(host, "ip", "-4", "-br", "addr", "show", "dev", "zks0").succeed()
        assert "198.18.0.1/30" not in shown
        assert "." in shown.split()[2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_a_signal_restores_the_host(
    net: Lab, worker: Child, number: signal.Signals, busy: bool
) -> None:
    host = net.add_host()
    before = machine.picture(host.path)
    child = net.connect(host)
    changed = machine.difference(before, machine.picture(host.path))
    assert "routes" in changed and "rules" in changed
    with host.entered():
        assert client.who(lab.FAR4) == lab.MID4
        sockets = []
        if busy:
            for port in (servers.ECHO, servers.HANG, servers.SOURCE):
                sockets.append(client.connect(lab.FAR4, port))
                sockets[-1].sendall(bytes([0, 0, 0, 0, 9, 0, 0, 0]))
            client.udp_exchange(lab.FAR4, servers.ECHO, b"x")
    child.signal(number)
    assert child.wait() == 0, child.output
    child.no_traceback()
    for sock in sockets:
        sock.close()
    assert machine.difference(before, machine.picture(host.path)) == ""
    with host.entered():
        assert client.who(lab.FAR4) not in (lab.MID4, lab.MID6)


def test_the_ready_line_and_systemd(net: Lab, worker: Child) -> None:
    host = net.add_host()
    path = net.directory / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(path))
        notify.settimeout(60)
        argv = [*ZKS, "connect", *net.tunnel_options()]
        child = Child(
            "connect", host.command(argv, resolv=net.resolv), env={"NOTIFY_SOCKET": str(path)}
        )
        with child:
            child.wait_for(rf"^ready: zks0 → ws://{WORKER4}:{WORKER_PORT}/tunnel$")
            assert b"READY=1" in notify.recv(4096)
            child.signal(signal.SIGTERM)
            assert b"STOPPING=1" in notify.recv(4096)
            child.wait()
        assert child.process.returncode == 0
    assert lab.TOKEN not in child.output


def test_netns_captures_that_namespace_alone(net: Lab, worker: Child) -> None:
    inside, host = net.namespace("inside"), net.add_host()
    before_inside, before = machine.picture(inside.path), machine.picture(host.path)
    with net.connect(host, "--netns", inside.name) as child:
        assert machine.difference(before, machine.picture(host.path)) == ""
        with inside.entered():
            assert client.who(lab.FAR6) == lab.MID6
        with host.entered():
            assert client.who(lab.FAR4) != lab.MID4
    assert child.process.returncode == 0
    assert machine.difference(before_inside, machine.picture(inside.path)) == ""


def test_dns_static_and_the_hosts_file(net: Lab, worker: Child) -> None:
    host = net.add_host()
    static = [
        "--dns-static",
        f"fixed.zks.test={lab.FAR4}",
        "--dns-static",
        f"fixed.zks.test={lab.FAR6}",
    ]
    with net.connect(host, *static):
        for kind, address in (("A", lab.FAR4), ("AAAA", lab.FAR6)):
            found = net.application(host, *DIG, "fixed.zks.test", kind, "+short").succeed()
            assert found == address
        page = net.application(host, "curl", "-sS", f"http://fixed.zks.test:{servers.HTTP}/hello")
        assert page.succeed().startswith("hello ")
        net.application(host, *DIG, "after-fixed.zks.test").succeed()
        net.names.wait_for(r"^asked after-fixed\.zks\.test")
        asked = [line for line in net.names.stdout if line.startswith("asked fixed.zks.test")]
        assert not asked, "a static name was asked for at the name server"


def test_ipv6_blocked(net: Lab, worker: Child) -> None:
    host = net.add_host()
    with net.connect(host, "--ipv6", "block"), host.entered():
        before = client.callers(lab.FAR4)
        assert client.connect_error(lab.FAR6, servers.WHO) != "connected"
        assert client.callers(lab.FAR4) == before + 1
        assert client.who(lab.FAR4) == lab.MID4


def test_fast_connect_accepts_first(net: Lab, worker: Child) -> None:
    host = net.add_host()
    with net.connect(host, "--fast-connect"), host.entered():
        client.duplex_many(lab.FAR4, servers.DUPLEX, 3, 3_000_000)
        # Not refused; and the reset may be there before connect() has returned.
        with (
            pytest.raises(ConnectionResetError),
            client.connect(lab.FAR4, servers.CLOSED) as sock,
        ):
            sock.recv(1) or _ended()


def test_max_flows_refuses_what_is_over(net: Lab, worker: Child) -> None:
    host = net.add_host()
    with net.connect(host, "--max-flows", "8"), host.entered():
        held = [client.connect(lab.FAR4, servers.HANG) for _ in range(8)]
        # Silence: their kernel sends the SYN again, after a second first.
        for _ in range(2):
            with pytest.raises(TimeoutError):
                client.connect(lab.FAR4, servers.HANG, timeout=2)
        for sock in held:
            client.reset(sock)
        assert client.who(lab.FAR4) == lab.MID4


def test_tls_with_a_private_authority(net: Lab) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert(WORKER4)
    folder: Path = net.directory / "tls"
    folder.mkdir()
    cert, key, ca = folder / "cert.pem", folder / "key.pem", folder / "ca.pem"
    issued.private_key_pem.write_to_path(key)
    for blob in issued.cert_chain_pems:
        blob.write_to_path(cert, append=True)
    authority.cert_pem.write_to_path(ca)
    port, host = WORKER_PORT + 2, net.add_host()
    options = ["--worker", f"wss://{WORKER4}:{port}", "--token-file", str(net.token_file)]
    tls = ["--tls-cert", str(cert), "--tls-key", str(key)]
    before = machine.picture(host.path)
    with net.worker(*tls, listen=f"{WORKER4}:{port}") as running:
        with net.connect(host, *options, "--ca-file", str(ca), embedded=True), host.entered():
            client.duplex_many(lab.FAR4, servers.DUPLEX, 4, 20_000_000)
        refused = net.connect(host, *options, embedded=True, ready=False)
        assert refused.wait() == 12, refused.output
        refused.no_traceback()
        assert len(refused.stderr) <= 3, refused.output
    running.no_traceback()
    assert machine.difference(before, machine.picture(host.path)) == ""


def test_embedded_worker(net: Lab) -> None:
    """Without --worker: traffic leaves from this host; its own loopback is 198.18.0.2."""
    host = net.add_host()
    before = machine.picture(host.path)
    own = net.file("own-resolv.conf", f"nameserver {lab.NAMES4}\n")
    # By default it asks resolvers on the internet, over HTTPS and not through the worker.
    argv = [*ZKS, "connect", "--dns-forward", f"zks.test={lab.NAMES4}"]
    with host.entered():
        local = socket.create_server(("127.0.0.1", 0))
    port = local.getsockname()[1]
    with local, Child("connect", host.command(argv, resolv=own)) as child:
        child.wait_for("^ready: ")
        child.wait_for("this machine")
        with host.entered():
            assert client.who(lab.FAR4).startswith("25.1.")
            assert client.who(lab.FAR6).startswith("2a0e:1:")
            client.duplex_many(lab.FAR4, servers.DUPLEX, 2, 10_000_000)
            with client.connect("198.18.0.2", port):
                accepted, _ = local.accept()
                accepted.close()
        for name in ("far.zks.test", "four.zks.test"):
            assert net.application(host, *DIG, name, "+short").succeed() == lab.FAR4
    child.no_traceback()
    assert child.process.returncode == 0
    assert machine.difference(before, machine.picture(host.path)) == ""


def test_the_embedded_worker_dies_with_connect(net: Lab) -> None:
    """Also when ``connect`` is killed; the session's fixture finds what is left behind."""
    host = net.add_host()
    child = net.connect(host, embedded=True)
    below = descendants(child.pid)[1:]
    assert below, "the worker is a child process"
    child.process.kill()
    child.wait()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in below))


def _has_dummy() -> bool:
    return Path("/sys/module/dummy").exists()


def _ended() -> bytes:
    raise ConnectionResetError("the end of the stream")
