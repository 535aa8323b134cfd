"""What is done when Windows tells of the end of the console."""

from __future__ import annotations

import signal

import pytest

from zks_lwip.daemon.console import (
    CTRL_BREAK_EVENT,
    CTRL_C_EVENT,
    CTRL_CLOSE_EVENT,
    CTRL_LOGOFF_EVENT,
    CTRL_SHUTDOWN_EVENT,
    ending_console,
    make_handler,
)


@pytest.mark.parametrize(
    ("event", "calls", "handled"),
    [
        (CTRL_C_EVENT, [], False),
        (CTRL_BREAK_EVENT, [], False),
        (CTRL_CLOSE_EVENT, ["stop", "wait"], True),
        (CTRL_LOGOFF_EVENT, [], True),
        (CTRL_SHUTDOWN_EVENT, ["stop", "wait"], True),
    ],
)
def test_what_ends_the_program(event: int, calls: list[str], handled: bool) -> None:
    seen: list[str] = []
    handle = make_handler(lambda: seen.append("stop"), lambda: seen.append("wait"))
    assert handle(event) is handled and seen == calls


def test_signals_stay_as_they_are() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with ending_console():
        assert signal.getsignal(signal.SIGTERM) == before
