"""What is written on stderr, in which form; and what a terminal that is closed does."""

from __future__ import annotations

import json
import re
import signal
import time

from tests.kits.netns.child import Child
from tests.kits.netns.commands import host, run, unchanged
from tests.kits.netns.lab import WORKER4, ZKS, Lab, Namespace
from tests.kits.netns.screen import Screen

__all__ = ["host", "unchanged"]  # the fixtures

NOT_LISTENING = f"ws://{WORKER4}:8799"


def test_run_gives_up(net: Lab, host: Namespace) -> None:
    child = net.run(host, "true", options=["--timeout", "2"], url=NOT_LISTENING)
    assert child.wait() == 11
    assert "not reached within 2 s" in child.stderr[-1], child.output
    child.no_traceback()


def test_a_timeout_is_for_the_start(net: Lab, worker: Child, host: Namespace) -> None:
    for seconds in (4, 60):  # (the first may be too short for a busy machine's start)
        script = f"sleep {seconds + 1}; exit 7"
        child = net.run(host, "sh", "-c", script, options=["--timeout", str(seconds)])
        if child.wait() != 11:
            break
    assert child.wait() == 7, child.output


def test_messages_as_json(net: Lab, host: Namespace, unchanged: None) -> None:
    lines = []
    for seconds in ("2", "60"):  # (the first may be too short for a busy machine's start)
        options = ["-v", "--log-format", "json", "--timeout", seconds]
        child = net.run(host, "true", options=options, url=NOT_LISTENING)
        assert child.wait() == 11
        lines = [json.loads(line) for line in child.stderr]
        if any("refused" in line["message"] for line in lines):
            break
    assert all(line.keys() >= {"time", "level", "logger", "message"} for line in lines)
    assert lines[-1]["level"] == "error" and "not reached" in lines[-1]["message"]
    assert any("refused" in line["message"] for line in lines), lines
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", lines[0]["time"])


def test_messages_have_a_time_where_there_is_no_terminal(
    net: Lab, host: Namespace, unchanged: None
) -> None:
    argv = [*ZKS, "connect", *net.tunnel_options(NOT_LISTENING)]
    with Child("connect", host.command(argv, resolv=net.resolv)) as child:
        child.wait_for("Trying again")
    warning = next(line for line in child.stderr if "Trying again" in line)
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} zks-lwip: ", warning), warning
    terminal = Screen(host.command(argv, resolv=net.resolv), 200, 24)
    shown = terminal.see("Trying again")
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.process.wait(120) == 0
    assert next(line for line in shown if "Trying again" in line).startswith("zks-lwip: ")
    terminal.close()


def test_a_terminal_that_is_closed_ends_it(
    net: Lab, worker: Child, host: Namespace, unchanged: None
) -> None:
    argv = [*ZKS, "connect", *net.tunnel_options()]
    terminal = Screen(host.command(argv, resolv=net.resolv), 80, 24)
    terminal.see("ready: ")
    terminal.process.send_signal(signal.SIGHUP)
    assert terminal.process.wait(60) == 0
    terminal.close()
    run(host, "status", code=30)
    nohup = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *argv]
    with Child("connect", host.command(nohup, resolv=net.resolv)) as child:
        child.wait_for("^ready: ")
        child.signal(signal.SIGHUP)
        time.sleep(0.5)
        run(host, "status")
        assert child.process.poll() is None and child.stop() == 0
    child.no_traceback()
