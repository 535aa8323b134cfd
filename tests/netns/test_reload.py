"""``reconnect`` and ``reload``: other connections to the worker, other tokens, without a gap."""

from __future__ import annotations

import signal
import socket

import pytest

from tests.kits.netns import client, lab, servers
from tests.kits.netns.child import Child, until
from tests.kits.netns.commands import host, run, status, unchanged
from tests.kits.netns.lab import WORKER4, ZKS, Lab, Namespace

__all__ = ["host", "unchanged"]  # the fixtures

LISTEN = f"{WORKER4}:8791"
OLD, NEW = "the-old-token-of-32-characters-0", "the-new-token-of-32-characters-0"


def echoed(sock: socket.socket, text: bytes) -> None:
    sock.sendall(text)
    assert servers.receive_exactly(sock, len(text)) == text


def test_reconnecting_keeps_connections(
    net: Lab, worker: Child, host: Namespace, unchanged: None
) -> None:
    with net.connect(host) as child, host.entered():
        with client.connect(lab.FAR4, servers.ECHO) as sock:
            echoed(sock, b"before")
            said = run(host, "reconnect").stdout[0]
            assert said.startswith("reconnected: to ws://") and "1 connection open" in said
            echoed(sock, b"after")
        told = status(host)
        assert isinstance(told["sessions"], list)
        assert [each["resumes"] for each in told["sessions"]] == [1]
    child.no_traceback()
    assert "nothing runs here" in run(host, "reconnect", code=1).stderr[0]
    assert "nothing runs here" in run(host, "reload", code=1).stderr[0]


@pytest.mark.slow
def test_another_token_without_a_restart(net: Lab, host: Namespace, unchanged: None) -> None:
    known = net.secret("known", f"me {OLD}\n")
    mine = net.secret("mine", f"{OLD}\n")
    argv = [*ZKS, "worker", "--listen", LISTEN, "--token-file", str(known), "--allow", "0.0.0.0/0"]
    options = ["--worker", f"ws://{LISTEN}", "--plaintext", "--token-file", str(mine)]
    with Child("worker", net.mid.command(argv)) as worker:
        worker.wait_for("^listening on ")
        connect = host.command([*ZKS, "connect", "-v", *options], resolv=net.resolv)
        with Child("connect", connect) as child, host.entered():
            child.wait_for("^ready: ")
            with client.connect(lab.FAR4, servers.ECHO) as sock:
                echoed(sock, b"before")
                mine.write_text("two words too many\n")
                said = run(host, "reload", code=2).stderr[-1]
                assert "--token-file" in said and "bare token" in said
                known.write_text(f"me {OLD}\nme {NEW}\n")
                worker.signal(signal.SIGHUP)
                mine.write_text(f"{NEW}\n")
                assert run(host, "reload").stdout[0].startswith("reloaded: token, certificates")
                echoed(sock, b"nothing was interrupted")
                run(host, "reconnect")  # the session is the old token's, which still holds
                echoed(sock, b"nor here")
            assert OLD not in child.output and NEW not in child.output
            known.write_text(f"me {NEW}\n")
            worker.signal(signal.SIGHUP)
            run(host, "reconnect")
            until(lambda: status(host)["state"] == "connected")
            assert client.who(lab.FAR4) == lab.MID4, "with the new token, as the old one is gone"
            run(host, "disconnect")
            assert child.wait() == 0
        child.no_traceback()
