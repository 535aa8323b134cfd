"""Peers that lie, end to end: a worker to its client, clients to their worker; and what is logged.

More workers that misbehave are in test_faults.py, and clients in unit/test_hostile_client.py.
"""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.kits.netns import client, lab, servers
from tests.kits.netns.child import Child, until
from tests.kits.netns.lab import WORKER4, Lab

PORT = 9500


def test_lies_about_names_datagrams_and_pings(net: Lab) -> None:
    """A name is answered truly or SERVFAIL; lies from nowhere go nowhere, and harm no query."""
    host = net.add_host()
    with (
        net.hostile_worker("lies", PORT) as (worker, url),
        net.connect(host, "--dns-via", "worker", url=url) as connect,
    ):
        names = [f"{letter}.zks.test" for letter in "abcdefgi"]
        dig = net.application(host, "dig", "+tries=1", "+time=30", *names)
        assert dig.succeed(200).count("status: SERVFAIL") == len(names), dig.output
        true = net.application(host, "dig", "+short", "x.zks.test", "h.zks.test")
        assert set(true.succeed().split()) <= {"192.0.2.7"} and true.stdout
        with host.entered():
            assert client.udp_exchange(lab.FAR4, servers.ECHO, b"the truth") == b"the truth"
            assert client.udp_exchange(lab.FAR6, servers.ECHO, b"the truth") == b"the truth"
        assert " 0% packet loss" in net.application(host, "ping", "-c1", "-W20", lab.FAR4).succeed()
    assert sum("upgrade asked" in line for line in worker.stdout) == 1
    assert connect.process.returncode == 0
    connect.no_traceback()


def test_endless_tiny_frames(net: Lab) -> None:
    """The flood takes time, but no memory; it does not keep the client from ending."""
    host = net.add_host()
    with (
        net.hostile_worker("flood", PORT + 1) as (worker, url),
        net.connect(host, url=url) as connect,
    ):
        before = _memory(connect)
        time.sleep(1.5)
        assert _memory(connect) - before < 32 << 20
        assert connect.stop() == 0
        worker.wait_for("connection ended")
    assert sum("going away" in line for line in connect.stderr) <= 4
    connect.no_traceback()


def test_a_token_that_is_removed(net: Lab) -> None:
    """SIGHUP ends the sessions of that token only, and it may come back."""
    mine, theirs = net.add_host(), net.add_host()
    port, url = PORT + 2, f"ws://{WORKER4}:{PORT + 2}"
    other = net.secret("their-token", "their-token-" + "t" * 20 + "\n")
    both = net.token_file.read_text() + other.read_text()
    tokens = net.secret("tokens", both)
    options = ["-v", "--token-file", str(tokens)]
    with (
        net.worker(*options, listen=f"{WORKER4}:{port}", token=False) as worker,
        net.connect(mine, url=url) as kept,
        net.connect(theirs, "--token-file", str(other), url=url) as removed,
    ):
        with mine.entered():
            own = client.connect(lab.FAR4, servers.ECHO)
        with theirs.entered():
            lost = client.connect(lab.FAR4, servers.ECHO)
        with own, lost:
            for sock in (own, lost):
                sock.sendall(b"x")
                assert sock.recv(1) == b"x"
            tokens.write_text(net.token_file.read_text())
            worker.signal(signal.SIGHUP)
            with pytest.raises(ConnectionResetError):
                lost.recv(1)
            removed.wait_for("(?i)token")
            own.sendall(b"y")
            assert own.recv(1) == b"y"
        tokens.write_text(both)
        worker.signal(signal.SIGHUP)
        with theirs.entered():
            until(lambda: client.connect_error(lab.FAR4, servers.ECHO, 15) == "connected", 120)
    for child in (kept, removed, worker):
        assert child.process.returncode == 0
        child.no_traceback()
        assert lab.TOKEN not in child.output and "t" * 20 not in child.output


@pytest.mark.parametrize(("level", "protocol"), [("-v", "v2"), ("-vv", "v2"), ("-v", "v1")])
def test_what_is_logged(net: Lab, level: str, protocol: str) -> None:
    """Who talked to whom is for -vv alone; a token is never logged."""
    host, url = net.add_host(), f"ws://{WORKER4}:{PORT + 3}"
    with (
        net.worker(level, listen=url[5:]) as worker,
        net.connect(host, level, "--stats", "--protocol", protocol, url=url) as connect,
    ):
        page = f"http://far.zks.test:{servers.HTTP}/hello"
        net.application(host, "curl", "-sS", "-m", "50", page).succeed()
        net.application(host, "dig", "+short", "nothing.zks.test").succeed()
        net.application(host, "ping", "-c1", "-W1", lab.FAR4).wait()
        with host.entered():
            for address in (lab.FAR4, lab.FAR6, lab.PRIVATE4, lab.NO_ROUTE4):
                client.connect_error(address, servers.CLOSED)
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                with socket.socket(family, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
                    sock.settimeout(0.3)
                    sock.connect((address, servers.CLOSED))
                    sock.send(b"x")
                    sock.recv(1)
            with client.connect(lab.FAR4, servers.RESET) as sock:
                sock.sendall(b"x")
                sock.recv(1)
        connect.signal(signal.SIGUSR1)
        connect.wait_for(r"^\{")
    targets = (lab.FAR4, lab.FAR6, lab.PRIVATE4, lab.NO_ROUTE4, "zks.test")
    for child in (connect, worker):
        said = "\n".join([*child.stdout, *child.stderr])
        child.no_traceback()
        assert lab.TOKEN not in said
        shown = [target for target in targets if target in said]
        if level == "-v":
            assert not shown, f"{child.name} names {shown}"
        elif child is connect:
            assert shown, "the control: with -vv they would be seen"
            for line in (
                rf"tcp \S+ -> {lab.FAR4}:{servers.RESET}: asked for",
                rf"tcp \S+ -> {lab.FAR4}:{servers.RESET}: reset by the far end",
                rf"tcp \S+ -> {lab.FAR4}:{servers.CLOSED}: refused by the far end \(111",
                rf"tcp \S+ -> {lab.PRIVATE4}:{servers.CLOSED}: refused by the far end \(403",
                rf"tcp \S+ -> \[{lab.FAR6}\]:{servers.CLOSED}: refused",
                rf"tcp \S+ -> \S+:{servers.HTTP}: closed, after",
                rf"udp \S+ -> {lab.FAR4}:{servers.CLOSED}: association opened",
            ):
                assert re.search(line, said), line


def _memory(child: Child) -> int:
    """Resident bytes."""
    return int(Path(f"/proc/{child.pid}/statm").read_text().split()[1]) * 4096
