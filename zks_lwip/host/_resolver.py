"""Tell the system's resolver, and tell it no more: systemd-resolved and resolvconf.

Both take orders from user id 0 alone, whatever capabilities others have. So before we become
another user (``--user``) a helper of root's is started, :class:`Hand`: this module as a program. It
has no capability, and does and undoes just the steps that it was given at its start.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from zks_lwip._interpreter import program
from zks_lwip.errors import HostError, ZksError
from zks_lwip.host._capabilities import limit
from zks_lwip.host._programs import run_program
from zks_lwip.host.steps import LinkDns, Resolvconf, Step, from_json, to_json

__all__ = ["DO", "UNDO", "Hand", "is_resolver"]

_PATIENCE = 5.0  # seconds that it may take to end; it has nothing left to do then


def _link_dns(step: LinkDns) -> None:
    run_program(["resolvectl", "dns", step.device, step.server])
    run_program(["resolvectl", "domain", step.device, "~."])
    run_program(["resolvectl", "default-route", step.device, "true"])


def _resolvconf(step: Resolvconf) -> None:
    run_program(["resolvconf", "-a", step.record, "-m", "0", "-x"], step.text)


DO: dict[type[Step], Callable[[Any], object]] = {LinkDns: _link_dns, Resolvconf: _resolvconf}
UNDO: dict[type[Step], Callable[[Any], object]] = {
    LinkDns: lambda step: run_program(["resolvectl", "revert", step.device]),
    Resolvconf: lambda step: run_program(["resolvconf", "-d", step.record, "-f"]),
}


def is_resolver(step: Step) -> bool:
    """It is one that tells the system's resolver."""
    return type(step) in DO


class Hand:
    """A process of root's that does and undoes these steps; started by root, told by anybody.

    :raises HostError: it cannot be started.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = list(steps)
        try:
            self._process = subprocess.Popen(
                program(__name__),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                process_group=0,  # Ctrl-C is for us: it must outlive what is being taken down
            )
        except OSError as error:
            raise HostError(f"cannot start what tells the resolver: {error}") from error
        self._ask([to_json(step) for step in steps])

    def __contains__(self, step: Step) -> bool:
        return step in self._steps

    def do(self, step: Step) -> None:
        """Raises HostError."""
        self._ask(["do", self._steps.index(step)])

    def undo(self, step: Step) -> None:
        """Raises HostError."""
        self._ask(["undo", self._steps.index(step)])

    def _ask(self, request: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except OSError:
            answer = b""
        if not answer.endswith(b"\n"):
            raise HostError("what tells the resolver, a helper process of root's, has ended")
        if problem := json.loads(answer):
            raise HostError(str(problem))

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def main() -> None:
    """Carry out what is asked on standard input; ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limit(frozenset())
    steps = [from_json(item) for item in json.loads(sys.stdin.readline() or "[]")]
    print(json.dumps(""), flush=True)
    for line in sys.stdin:
        what, number = json.loads(line)
        step = steps[number]
        try:
            (DO if what == "do" else UNDO)[type(step)](step)
        except ZksError as error:
            print(json.dumps(str(error)), flush=True)
        else:
            print(json.dumps(""), flush=True)


if __name__ == "__main__":
    main()
