"""``status`` in every state: what it says to root and to the group, its schema and exit codes."""

from __future__ import annotations

import json
import signal
import time

import pytest

from tests.kits.netns import client, lab
from tests.kits.netns.child import Child, until
from tests.kits.netns.commands import host, run, status, unchanged, wait_for_no_tun
from tests.kits.netns.lab import NOBODY, USER, WORKER4, ZKS, Lab, Namespace
from tests.kits.netns.terminal import Terminal
from tests.kits.status_schema import check_status

__all__ = ["host", "unchanged"]  # the fixtures

GROUP = ["--control-group", "nogroup"]
"""That of the user NOBODY."""
LISTEN = f"{WORKER4}:8790"


def told(host: Namespace, code: int, user: int | None = None) -> dict[str, object]:
    """What ``status --json`` says, which follows the schema, and ends with this code."""
    child = run(host, "status", "--json", code=code, user=user)
    assert child.stderr == [] and len(child.stdout) == 1
    found = json.loads(child.stdout[0])
    check_status(found)
    return dict(found)


def test_connected_and_disconnected(
    net: Lab, worker: Child, host: Namespace, unchanged: None
) -> None:
    nothing = told(host, 30)
    assert nothing["state"] == "disconnected" and nothing["pid"] is None
    assert run(host, "status", code=30).stdout[0].startswith("disconnected: nothing runs here")
    with net.connect(host, *GROUP) as child, host.entered():
        assert client.who(lab.FAR4) == lab.MID4
        for user in (None, NOBODY):
            found = told(host, 0, user)
            assert (found["state"], found["tunnel"]) == ("connected", "connected")
            assert found["pid"] == child.pid and found["problem"] == ""
            traffic = found["traffic"]
            assert isinstance(traffic, dict)
            assert traffic["connections_opened"] >= 1 and traffic["bytes_down"] > 0
        lines = run(host, "status", user=NOBODY).stdout
        assert any(line.startswith("TCP: ") and "connections" in line for line in lines), lines
        for command in ("disconnect", "pause"):
            said = run(host, command, code=3, user=NOBODY).stderr[-1]
            assert f"only root may `{command}`" in said
        stranger = told(host, 3, USER)
        assert stranger["state"] == "unknown" and "--control-group" in str(stranger["problem"])
        said = run(host, "disconnect").stdout[0]
        assert said.startswith(f"disconnected: process {child.pid} has ended, zks0 is gone, and ")
        assert child.wait() == 0
    child.no_traceback()
    assert told(host, 30, NOBODY)["state"] == "disconnected"


def test_there_must_be_such_a_group(net: Lab, host: Namespace, unchanged: None) -> None:
    with net.connect(host, "--control-group", "no-such-group", ready=False) as child:
        assert child.wait() == 2 and "--control-group no-such-group: there is no" in child.output


@pytest.mark.slow
def test_connecting_and_waiting_for_more(net: Lab, host: Namespace, unchanged: None) -> None:
    """A time that is over has an exit code of its own; what has come in time is 0."""
    waiting = Child("wait", host.command([*ZKS, "status", "--wait", "connected=120"]))
    with net.connect(host, *GROUP, url=f"ws://{LISTEN}", ready=False) as child:
        child.wait_for("Trying again")
        for user in (None, NOBODY):
            found = told(host, 31, user)
            assert found["state"] == "connecting" and "refused" in str(found["problem"])
        late = run(host, "status", "--wait", "connected=0.5", "--json", code=37)
        assert json.loads(late.stdout[0])["state"] == "connecting"
        assert "zks0" in run(host, "status", "--wait", "connecting").stdout[0]
        with net.worker(listen=LISTEN) as worker:
            assert waiting.wait() == 0, waiting.output
            assert waiting.stdout[0].startswith("connected: zks0")
            worker.process.kill()
            run(host, "status", "--wait", "lost=60")
            found = told(host, 32, NOBODY)
            assert (found["state"], found["tunnel"]) == ("lost", "lost") and found["problem"]
        with net.worker(listen=LISTEN):
            run(host, "status", "--wait", "connected=60")
            child.wait_for("is up again")  # as loud as the loss, which is told without -v
        ended = Child("wait", host.command([*ZKS, "status", "--wait", "disconnected=60"]))
        assert child.stop() == 0
        assert ended.wait() == 0, ended.output


@pytest.mark.parametrize("text", ["fine", "connected=", "connected=x", "connected=-1", ""])
def test_what_cannot_be_waited_for(host: Namespace, text: str) -> None:
    assert "--wait" in run(host, "status", "--wait", text, code=2).stderr[-1]


@pytest.mark.slow
def test_paused_and_dead(net: Lab, worker: Child, host: Namespace, unchanged: None) -> None:
    with net.connect(host, *GROUP) as child:
        run(host, "pause", "--for", "1h")
        for user in (None, NOBODY):
            found = told(host, 33, user)
            assert (found["state"], found["tunnel"]) == ("paused", "connected")
        assert run(host, "status", code=33).stdout[0].startswith("paused: traffic goes out beside")
        child.signal(signal.SIGKILL)
        child.wait()
    wait_for_no_tun(host)
    found = told(host, 36)
    assert found["state"] == "dead-open" and found["pid"] == child.pid
    assert "the machine is OPEN" in str(found["problem"])
    member = told(host, 36, NOBODY)
    assert member["state"] == "dead-open" and member["pid"] is None
    assert run(host, "status", code=36).stdout[0].startswith("dead-open: the machine is OPEN")
    with net.connect(host, *GROUP) as child:
        child.signal(signal.SIGKILL)
        child.wait()
    found = told(host, 35)
    assert found["state"] == "dead-closed" and found["pid"] == child.pid
    assert told(host, 35, NOBODY)["state"] == "dead-closed"
    assert run(host, "status", code=35).stdout[0].startswith("dead-closed: the machine is closed")
    run(host, "recover")
    assert told(host, 30, NOBODY)["state"] == "disconnected"


def test_an_instance_elsewhere_is_named(
    net: Lab, worker: Child, host: Namespace, unchanged: None
) -> None:
    inside = net.namespace("elsewhere")
    with net.connect(host, *GROUP, "--netns", inside.name) as child:
        for user, pid in ((None, child.pid), (NOBODY, None)):
            found = told(host, 30, user)
            others = found["others"]
            assert isinstance(others, list)
            (other,) = (each for each in others if each["netns"] == inside.name)
            assert other["pid"] == pid
            assert f"add --netns {inside.name}" in str(found["problem"])
        named = told_of(host, inside.name, 0)
        assert (named["state"], named["netns"]) == ("connected", inside.name)
    assert told_of(host, "no-such-namespace", 2)["state"] == "unknown"


def told_of(host: Namespace, netns: str, code: int) -> dict[str, object]:
    child = run(host, "status", "--json", "--netns", netns, code=code)
    found = json.loads(child.stdout[0])
    check_status(found)
    return dict(found)


def test_watching(net: Lab, worker: Child, host: Namespace, unchanged: None) -> None:
    """JSON each time; without a terminal each change; on a terminal the whole, drawn anew."""
    each = Child("watch", host.command([*ZKS, "status", "--watch", "0.2", "--json"]))
    changes = Child("watch", host.command([*ZKS, "status", "--watch", "0.2"]))
    changes.wait_for("^disconnected: ")
    with net.connect(host):
        changes.wait_for("^connected: zks0")
        terminal = Terminal(host.command([*ZKS, "status", "--watch"]))
        try:
            for _ in range(2):
                terminal.expect(r"\x1b\[H\x1b\[Jconnected: zks0")
            assert "DNS: 0 queries" in terminal.all, "lines are folded, not cut"
            terminal.type("\x03")
            assert terminal.process.wait(60) == 0
            assert "Traceback" not in terminal.all
        finally:
            terminal.close()
        until(lambda: any('"connected"' in line for line in each.stdout))
    changes.wait_for("^disconnected: ", after=2)
    for child in (each, changes):
        child.signal(signal.SIGINT)
        assert child.wait() == 0, child.output
        child.no_traceback()
    assert sum(line.startswith("connected: ") for line in changes.stdout) == 1
    assert len(each.stdout) > 2
    for line in each.stdout:
        check_status(json.loads(line))


def test_a_client_that_says_nothing_or_nonsense_holds_up_no_other(
    net: Lab, worker: Child, host: Namespace, unchanged: None
) -> None:
    """More of them than are served at a time, by a member of the group."""
    script = net.file(
        "flood.py",
        "import glob, socket, time\n"
        "(path,) = glob.glob('/run/zks_lwip/net-%d.sock' % "
        "__import__('os').stat('/proc/self/ns/net').st_ino) or ['?']\n"
        "kept = []\n"
        "for data in (b'', b'garbage\\n', b'{', b'{\"command\": \"status\"}\\n') * 30:\n"
        "    kept.append(socket.socket(socket.AF_UNIX))\n"
        "    kept[-1].connect(path)\n"
        "    try:\n"
        "        kept[-1].sendall(data)\n"
        "    except OSError:\n"
        "        pass\n"
        "print('flooded', flush=True)\n"
        "time.sleep(600)\n",
        0o644,
    )
    with net.connect(host, *GROUP) as child:
        argv = [*ZKS[:1], str(script)]
        with Child("flood", host.command(argv, user=NOBODY)) as flood:
            flood.wait_for("flooded")
            began = time.monotonic()
            assert status(host)["state"] == "connected"
            assert told(host, 0, NOBODY)["state"] == "connected"
            run(host, "pause", "--for", "5m")
            run(host, "pause", "--end")
            print(f"{time.monotonic() - began:.1f} s for four commands")
            run(host, "disconnect")
            assert child.wait() == 0
    child.no_traceback()
