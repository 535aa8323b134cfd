"""The screen itself: ask the instance, read keys, draw, until ``q`` or Ctrl-C."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.live import Live

from ..daemon.client import NotRunning, ask_running, ask_status
from ..errors import ConfigError, HostError, PrivilegeError, ZksError
from ..host.linux.socket_owners import Source, socket_owners
from ..net.netns import run_in_netns
from .keys import ESCAPE, keys
from .model import Model, Row
from .view import frame, next_sort, plain_only

__all__ = ["run_top"]

_LOOK = 0.2
"""Seconds after which a new size of the terminal is seen."""
_PATIENCE = 10.0
_CLOSE_QUESTION = "close {}? y: yes, any other key: no"
_MAX_FILTER = 100


class _Instance:
    """What answers for the screen.

    :param netns: whose namespace is captured, as for ``status``.
    :param name_options: puts what the user calls options into a text that names them.
    """

    def __init__(self, netns: str | None, name_options: Callable[[str], str]) -> None:
        self.netns = netns
        self._name_options = name_options

    def ask(self, model: Model) -> None:
        """Put what an instance says into the model.

        :raises ZksError: it cannot be asked.
        """
        status = ask_status(self.netns)
        status["problem"] = self._name_options(status["problem"])
        if status["tunnel"] is None:
            model.gone(status)
            return
        flows = ask_running(self.netns, "flows", patience=_PATIENCE)
        owners = run_in_netns(self.netns, socket_owners, _sources(flows))
        model.told(status, flows, owners, time.monotonic())

    def close(self, row: Row) -> str:
        """Have a flow closed; return what to say of it."""
        told = ask_running(
            self.netns,
            "close_flow",
            patience=_PATIENCE,
            protocol=row.protocol,
            source=row.source,
            destination=row.destination,
        )
        return f"{row.target}: {'closed' if told['closed'] else 'it had ended already'}"


def _sources(flows: Mapping[str, Any]) -> list[Source]:
    return [
        (flow["protocol"], flow["source"][0], flow["source"][1])
        for flow in flows["flows"]
        if flow["source"] is not None
    ]


def run_top(
    netns: str | None,
    *,
    interval: float,
    once: bool,
    sort: str,
    filter_text: str,
    name_options: Callable[[str], str],
) -> None:
    """Show what an instance does.

    :param interval: seconds between two answers.
    :param once: print one frame, with the rates of a second, and return.
    :param name_options: puts what the user calls options into a text that names them.
    :raises NotRunning: nothing runs there.
    :raises ZksError: it cannot be asked.
    """
    model = Model(sort=sort, filter=filter_text)
    instance = _Instance(netns, name_options)
    instance.ask(model)
    if model.status["tunnel"] is None:
        raise NotRunning(str(model.status["problem"]))
    console = Console(highlight=False)
    plain = plain_only(sys.stdout.encoding)
    if once:
        time.sleep(min(interval, 1.0))
        instance.ask(model)
        width, height = console.size
        model.selected = -1
        console.print(frame(model, width, height - 1, plain=plain, still=True), end="")
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError("this is no terminal: `once` prints one frame, `status` has more")
    _run(model, instance, console, interval, plain)


def _run(model: Model, instance: _Instance, console: Console, interval: float, plain: bool) -> None:
    """Draw, and obey keys."""
    held = False
    asked: Row | None = None  # whether to close it; what is selected may be another by the answer
    due = time.monotonic() + interval
    size = None
    with (
        keys() as read_key,
        Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live,
        contextlib.suppress(KeyboardInterrupt),
    ):
        changed = True
        while True:
            if time.monotonic() >= due:
                if not held:
                    _refresh(model, instance)
                    changed = True
                due = time.monotonic() + interval
            if changed or console.size != size:
                size = console.size
                live.update(frame(model, *size, plain=plain), refresh=True)
                changed = False
            key = read_key(min(_LOOK, max(0.0, due - time.monotonic())))
            if not key:
                continue
            changed = True
            model.message = ""
            if model.typing:
                _type(model, key)
            elif asked is not None:
                row, asked = asked, None
                if key == "y":
                    _close(model, instance, row)
            elif key == "q":
                return
            elif key == "x":
                asked = model.current()
                model.message = "" if asked is None else _CLOSE_QUESTION.format(asked.target)
            elif key == " ":
                held = not held
                model.message = "held: space goes on" if held else ""
            else:
                _steer(model, key)


def _steer(model: Model, key: str) -> None:
    if key == "s":
        model.sort = next_sort(model.sort)
    elif key == "r":
        model.reverse = not model.reverse
    elif key == "/":
        model.typing, model.filter = True, ""
    elif key == "j":
        model.selected += 1
    elif key == "k":
        model.selected = max(0, model.selected - 1)
    elif key == ESCAPE:
        model.filter = ""


def _type(model: Model, key: str) -> None:
    """Change the filter."""
    if key in ("\r", "\n"):
        model.typing = False
    elif key == ESCAPE:
        model.typing, model.filter = False, ""
    elif key in ("\x7f", "\b"):
        model.filter = model.filter[:-1]
    elif key.isprintable() and len(model.filter) < _MAX_FILTER:
        model.filter += key


def _refresh(model: Model, instance: _Instance) -> None:
    try:
        instance.ask(model)
    except ZksError as error:
        model.message = str(error)


def _close(model: Model, instance: _Instance, row: Row) -> None:
    try:
        model.message = instance.close(row)
    except (HostError, PrivilegeError, ConfigError) as error:
        model.message = str(error)
