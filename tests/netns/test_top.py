"""``top`` in terminals, against real traffic."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator

import pytest

from tests.kits.netns import lab, servers
from tests.kits.netns.child import Child, until
from tests.kits.netns.commands import host, run, unchanged
from tests.kits.netns.lab import NOBODY, PYTHON, ZKS, Lab, Namespace
from tests.kits.netns.screen import Screen
from zks_lwip.daemon.client import ask
from zks_lwip.daemon.place import control_path
from zks_lwip.errors import ConfigError
from zks_lwip.net.netns import run_in_netns

__all__ = ["host", "unchanged"]  # the fixtures

CLIENT = [*PYTHON, "-m", "tests.kits.netns.client"]
IDLE = f":{servers.IDLE}"
HELD = f"{lab.FAR4}{IDLE}"


@pytest.fixture
def running(net: Lab, worker: Child, host: Namespace, unchanged: None) -> Iterator[Child]:
    with net.connect(host, "--control-group", "nogroup", "--dns-via", "worker") as child:
        yield child
        assert child.stop() == 0
    child.no_traceback()


@contextlib.contextmanager
def screen(host: Namespace, columns: int, lines: int, *argv: str) -> Iterator[Screen]:
    command = host.command([*ZKS, "top", "--interval", "0.3", *argv])
    with contextlib.closing(Screen(command, columns, lines)) as made:
        yield made


def test_a_small_terminal_a_large_one_and_keys(net: Lab, running: Child, host: Namespace) -> None:
    """80×24, resized to 200×60 and to 20×10: flows with their programs and names, and closed."""
    held = net.application(host, *CLIENT, "hold", lab.FAR4)
    named = net.application(
        host, "sh", "-c", f"exec curl -sN telnet://four.zks.test:{servers.HANG} < /dev/zero"
    )
    held.wait_for("open")
    with screen(host, 80, 24) as top, held, named:
        wanted = [IDLE, f"four.zks.test:{servers.HANG}", "TARGET (2 flows)", "DNS ", "q quit"]
        lines = top.see(*wanted)
        assert lines[0].startswith("connected  zks0 → ws://")
        assert any(line.startswith("down ") for line in lines) and len(lines) == 24
        flow = next(line for line in lines if IDLE in line)
        assert flow.split()[0].startswith("python") and str(held.pid) in flow.split()
        assert any(line.startswith("curl") and str(named.pid) in line for line in lines)
        assert "q quit" in lines[-1]
        top.resize(200, 60)
        top.until(
            lambda seen: (
                "quit" in seen[59] and any(IDLE in line and line.endswith("open") for line in seen)
            )
        )
        top.resize(20, 10)
        top.until(lambda seen: any("TARGET" in line for line in seen) and "by" in seen[9])
        top.resize(80, 24)
        top.see("PROGRAM", IDLE, "q quit")
        top.type("/python\r")
        top.see("TARGET (1 flow)", "filter 'python'")
        top.type("xn")
        top.see("filter 'python'")
        assert held.process.poll() is None
        top.type("x")
        top.see("close ", "y: yes")
        top.type("y")
        top.see("closed")
        assert held.wait() != 0 and "reset" in held.output.lower(), held.output
        top.see("TARGET (0 flows)")
        top.type("\x1b")
        top.see("TARGET (1 flow)", f"four.zks.test:{servers.HANG}")
        top.type("sr")
        top.see("by down reversed")
        top.type("q")
        assert top.wait() == 0
        assert top.raw.rstrip().endswith(b"\x1b[?25h") or b"\x1b[?1049l" in top.raw
        named.process.kill()


def test_what_was_asked_of_is_closed(net: Lab, running: Child, host: Namespace) -> None:
    """Also where another flow is in its line by the time of the answer."""
    named = net.application(
        host, "sh", "-c", f"exec curl -sN telnet://four.zks.test:{servers.HANG} < /dev/zero"
    )
    with screen(host, 80, 24, "--sort", "target") as top, named:
        top.see("TARGET (1 flow)", "four.zks.test")
        top.type("x")
        top.see("close four.zks.test")
        with net.application(host, *CLIENT, "hold", lab.FAR4) as held:
            held.wait_for("open")
            top.see("TARGET (2 flows)", "close four.zks.test")
            top.type("y")
            top.see("four.zks.test", ": closed")
            top.see("TARGET (1 flow)", IDLE)
            assert named.wait() != 0 and held.process.poll() is None
            held.process.kill()
        top.type("q")
        assert top.wait() == 0


def test_one_frame_and_who_may_look(net: Lab, running: Child, host: Namespace) -> None:
    with net.application(host, *CLIENT, "hold", lab.FAR4) as held:
        held.wait_for("open")
        child = run(host, "top", "--once", "--sort", "age")
        assert len(child.stdout) <= 24 and max(map(len, child.stdout)) <= 80
        assert any(HELD in line and "python" in line for line in child.stdout), child.output
        child = run(host, "top", "--once", "--filter", "no-such", user=NOBODY)
        assert not any(HELD in line for line in child.stdout)
        child = run(host, "top", "--once", user=NOBODY)
        assert any(HELD in line for line in child.stdout), "the group may look"
        assert "no terminal" in run(host, "top", code=2).stderr[-1]
        held.process.kill()
    assert host.state is not None
    path = run_in_netns(host.path, lambda: control_path(host.state, None))  # type: ignore[arg-type]
    for wrong in ({}, {"source": 7}, {"source": ["a"], "protocol": "tcp"}, {"source": ["a", 1]}):
        with pytest.raises(ConfigError):
            ask(path, "close_flow", **wrong)
    asked = {"protocol": "udp", "source": ["198.18.0.1", 9], "destination": None}
    assert ask(path, "close_flow", **asked) == {"closed": False}
    told = ask(path, "flows")
    assert told.keys() == {"flows", "left_out", "slowest_names"} and json.dumps(told)


def test_an_instance_that_goes_and_comes(net: Lab, worker: Child, host: Namespace) -> None:
    """The screen stays, and says so; without an instance at its start there is none."""
    assert "nothing runs here" in run(host, "top", "--once", code=1).stderr[-1]
    with net.connect(host) as first:
        with screen(host, 80, 24) as top:
            top.see("connected")
            assert first.stop() == 0
            top.see("disconnected")
            with net.connect(host):
                top.see("connected  zks0")
                top.process.send_signal(signal.SIGINT)
                assert top.wait() in (0, -signal.SIGINT, 130)
    until(lambda: run(host, "status", code=30).stdout[0].startswith("disconnected"))
