"""``status``: what is in force."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from .._loading import end_loading
from ..errors import ConfigError, HostError, ZksError
from .flags import describe, name_flags
from .fold import folded
from .show import status_lines

if TYPE_CHECKING:
    from ..daemon import Status

__all__ = ["status"]

_POLL = 0.2
"""Seconds between two questions while a state is waited for."""
_MIN_INTERVAL, _MAX_INTERVAL = 0.2, 3600.0
_REDRAW = "\x1b[H\x1b[J"  # to the upper left, and erase what is below (ECMA-48)

Ask = Callable[[], tuple["Status", int]]
"""Returns the status, and the exit code that goes with it."""


@click.command()
@click.option("--netns", metavar="NAME", help="The instance that captures this namespace.")
@click.option("--json", "as_json", is_flag=True, help="All of it, as one line of JSON.")
@click.option(
    "--wait",
    metavar="STATE[=SECONDS]",
    help="Wait until it is in this state, for so long at most; then exit with 0, or with 37.",
)
@click.option(
    "--watch",
    metavar="[SECONDS]",
    is_flag=False,
    flag_value="1",
    help="Say it again and again, until Ctrl-C: on a terminal every second, or as often as is "
    "given; else when the state has changed, and with --json each time.",
)
@click.option("-v", "--verbose", is_flag=True, help="Also the commands that are in force.")
@click.pass_context
def status(
    ctx: click.Context,
    /,
    *,
    netns: str | None,
    as_json: bool,
    wait: str | None,
    watch: str | None,
    verbose: bool,
) -> None:
    """Say what a running `connect` does, and what is in force on this machine.

    Needs root, or the group that `connect --control-group` names. The first line is the state;
    then the reason, a pause, what has gone through, what the firewall has refused, what stays out
    of the tunnel, and where our own sockets may go.

    \b
    The states, and the exit codes:
      connected     0   the tunnel is up
      disconnected  30  nothing runs here (an instance in another namespace is named)
      connecting    31  the machine is closed, the tunnel was not up yet
      lost          32  the tunnel is down, and traffic waits or is refused
      paused        33  traffic goes out beside the tunnel, as was asked for
      stopping      34  it has been told to stop
      dead-closed   35  an instance has died, traffic is refused: `recover` opens the machine
      dead-open     36  an instance has died, in a pause say, and traffic leaves freely
      unknown           it cannot be found out: the code is that of the error, 2, 3 or 4

    \b
    The machine:
      python -m zks_lwip status
    A namespace that `connect --netns blue` has captured, with every rule:
      python -m zks_lwip status --netns blue -v
    For scripts, which get every key in every state:
      python -m zks_lwip status --json
      python -m zks_lwip status --wait connected=30
    """
    from ..daemon import EXIT_CODES, State, ask_status, no_status

    end_loading()
    if wait is not None and watch is not None:
        raise click.UsageError("--wait and --watch exclude each other")

    def ask() -> tuple[Status, int]:
        try:
            told = ask_status(netns)
        except ZksError as error:
            if not as_json:
                raise
            told = no_status()
            told["netns"], told["problem"] = netns, describe(error)
            return told, error.exit_code
        _name_flags(told)
        return told, EXIT_CODES.get(State(told["state"]), 1)

    def show(told: Status) -> list[str]:
        return [json.dumps(told)] if as_json else status_lines(told, verbose=verbose)

    if watch is not None:
        _watch(ask, show, _interval(watch), as_json)
        return
    code = None
    if wait is None:
        told, code = ask()
    else:
        told, code = _wait(ask, *_awaited(wait))
    for line in show(told):
        click.echo(line)
    ctx.exit(code)


def _name_flags(told: Status) -> None:
    """Put flags where an instance names options."""
    told["problem"] = name_flags(told["problem"])
    told["notes"] = [name_flags(note) for note in told["notes"]]
    for worker in told["workers"]:
        worker["problem"] = name_flags(worker["problem"])


def _awaited(text: str) -> tuple[str, float | None]:
    """Read ``STATE[=SECONDS]``.

    :raises ConfigError: it is none.
    """
    from ..daemon import State

    name, equals, rest = text.partition("=")
    known = [each.value for each in State if each is not State.UNKNOWN]
    if name not in known:
        raise ConfigError(f"--wait {text}: there is no such state; give one of {', '.join(known)}")
    if not equals:
        return name, None
    seconds = _seconds(rest)
    if seconds is None or not 0 <= seconds <= 86400:
        raise ConfigError(f"--wait {text}: give 0 to 86400 seconds, as in --wait {name}=30")
    return name, seconds


def _interval(text: str) -> float:
    seconds = _seconds(text)
    if seconds is None or not _MIN_INTERVAL <= seconds <= _MAX_INTERVAL:
        raise ConfigError(
            f"--watch {text}: give {_MIN_INTERVAL:g} to {_MAX_INTERVAL:g} seconds, as in --watch 5"
        )
    return seconds


def _seconds(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _wait(ask: Ask, state: str, seconds: float | None) -> tuple[Status, int]:
    """Ask until it is in ``state``, or the time is over; return the last status, and 0 or 37."""
    from ..daemon import TIME_OVER

    end = None if seconds is None else time.monotonic() + seconds
    while True:
        told = None
        try:
            told, _ = ask()
        except HostError:  # it hung up because it ends, say
            if end is not None and time.monotonic() >= end:
                raise
        if told is not None and told["state"] == state:
            return told, 0
        left = _POLL if end is None else min(_POLL, end - time.monotonic())
        if left <= 0 and told is not None:
            return told, TIME_OVER
        time.sleep(max(0.0, left))


def _watch(ask: Ask, show: Callable[[Status], list[str]], interval: float, as_json: bool) -> None:
    """Show it again and again, until Ctrl-C."""
    terminal = sys.stdout.isatty() and not as_json
    before: tuple[str, str] | None = None
    try:
        while True:
            try:
                told, _ = ask()
                lines, now = show(told), (told["state"], told["problem"])
            except HostError as error:
                lines, now = [f"unknown: {describe(error)}"], ("unknown", str(error))
            if terminal:
                width, height = shutil.get_terminal_size()
                lines = [part for line in lines for part in folded(line, width)]
                click.echo(_REDRAW + "\n".join(lines[: height - 1]))
            elif as_json or now != before:
                for line in lines:
                    click.echo(line)
            before = now
            time.sleep(interval)
    except KeyboardInterrupt:
        return  # how it is ended
