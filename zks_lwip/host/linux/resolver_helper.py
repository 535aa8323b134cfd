"""A helper process that does as root what CAP_NET_ADMIN is not enough for: resolver and cgroup.

systemd-resolved and resolvconf take orders from user id 0 alone, and cgroups are removed from a
directory that even root may not write to without CAP_DAC_OVERRIDE. So before this process gives its
privileges away it starts :class:`ResolverHelper`: this module as a program. The helper has that
capability if there is a cgroup, else none, and does and undoes just the steps that it was given at
its start.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from ..._util import program
from ...errors import HostError, ZksError
from ..plan.steps import Cgroup, ResolverStep, Step, from_json, to_json
from ..programs import run_program
from .capabilities import Capability, limit
from .cgroup import make_cgroup, remove_cgroup

__all__ = ["ResolverHelper"]

_MAX_WAIT = 5.0  # seconds that it may take to end; it has nothing left to do then


class ResolverHelper:
    """A process of root's that does and undoes these steps; root starts it, any user may tell it.

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
            raise HostError(f"cannot start a helper process of root's: {error}") from error
        self._ask([to_json(step) for step in steps])

    def __contains__(self, step: Step) -> bool:
        return step in self._steps

    def do(self, step: Step) -> None:
        """Have a step done.

        :raises HostError: it cannot be done, or the helper has gone.
        """
        self._ask(["do", self._steps.index(step)])

    def undo(self, step: Step) -> None:
        """Have a step undone.

        :raises HostError: it cannot be undone, or the helper has gone.
        """
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
            raise HostError("a helper process of root's, for the resolver and cgroups, has ended")
        if problem := json.loads(answer):
            raise HostError(str(problem))

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(_MAX_WAIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


class _LocalSystem:
    """The machine, and the programs of the network namespace that this process is in."""

    def run(self, argv: Sequence[str], text: str = "") -> str:
        return run_program(argv, text)

    def make_cgroup(self, path: str) -> None:
        os.close(make_cgroup(path))

    def remove_cgroup(self, path: str) -> None:
        remove_cgroup(path)


def main() -> None:
    """Carry out what is asked on standard input; ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    steps = [from_json(item) for item in json.loads(sys.stdin.readline() or "[]")]
    groups = any(isinstance(step, Cgroup) for step in steps)
    limit(frozenset({Capability.DAC_OVERRIDE}) if groups else frozenset())
    system = _LocalSystem()
    print(json.dumps(""), flush=True)
    for line in sys.stdin:
        what, number = json.loads(line)
        step = steps[number]
        assert isinstance(step, (ResolverStep, Cgroup))
        try:
            if what == "undo":
                step.undo(system)
            elif isinstance(step, ResolverStep):  # a cgroup has been made before
                step.do(system)
        except ZksError as error:
            print(json.dumps(str(error)), flush=True)
        else:
            print(json.dumps(""), flush=True)


if __name__ == "__main__":
    main()
