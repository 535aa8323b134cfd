"""Windows' services: how ours is installed, removed, started and stopped, by ``sc.exe``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from .._util import program
from ..errors import ConfigError, HostError, PrivilegeError
from ..net.windows import system_program

__all__ = ["SERVICE", "RunSc", "ServiceManager", "run_sc"]

SERVICE = "zks_lwip"
"""The name that Windows knows it by."""

ERROR_ACCESS_DENIED, ERROR_SERVICE_ALREADY_RUNNING = 5, 1056
ERROR_SERVICE_DOES_NOT_EXIST, ERROR_SERVICE_NOT_ACTIVE = 1060, 1062
ERROR_SERVICE_MARKED_FOR_DELETE, ERROR_SERVICE_EXISTS = 1072, 1073
_STATE = re.compile(r"^\s*STATE\s*:\s*(\d)", re.M)
_STOPPED = 1
_SECONDS = 20
_LOOK = 0.25
_REMEDIES = {
    ERROR_SERVICE_DOES_NOT_EXIST: "it is not installed: `zks-lwip service install` does that",
    ERROR_SERVICE_EXISTS: "it is installed already: `zks-lwip service remove` comes first",
    ERROR_SERVICE_MARKED_FOR_DELETE: "it is still being removed: close the window of services, or "
    "start the machine again",
}

RunSc = Callable[[Sequence[str]], tuple[int, str]]
"""Runs ``sc.exe`` with arguments; returns its exit code and what it prints."""


def run_sc(arguments: Sequence[str]) -> tuple[int, str]:
    """Run Windows' own ``sc.exe``. Blocks.

    :raises HostError: it cannot be run.
    """
    sc = system_program("sc.exe")
    try:
        done = subprocess.run(
            [sc, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_SECONDS,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise HostError(f"{sc}: {error}") from error
    return done.returncode, done.stdout.decode(errors="replace")


def _program() -> list[str]:
    """Return what runs our command: Python itself, as only the process that Windows has started can
    be the service, and that of a virtual environment starts another one."""
    if getattr(sys, "frozen", False):  # PyInstaller has made a program of us
        return [sys.executable]
    python = getattr(sys, "_base_executable", sys.executable)
    if python == sys.executable:
        return [python, "-I", "-m", "zks_lwip"]
    return program("zks_lwip", executable=python)


class ServiceManager:
    """Our service, as the service control manager knows it.

    Every method raises PrivilegeError where this is not an administrator, and HostError where the
    manager refuses.

    :param run: runs ``sc.exe``.
    """

    def __init__(self, run: RunSc = run_sc) -> None:
        self._run = run

    def install(
        self, arguments: Sequence[str], *, automatic: bool, persistent: bool = False
    ) -> None:
        """Have Windows know it; it is not started.

        :param arguments: of ``connect``.
        :param automatic: it starts with the machine.
        :param persistent: it is started again also where it has ended by an error.
        :raises ConfigError: one is a file by a path that is not whole.
        """
        for argument in arguments:
            if not os.path.isabs(argument) and os.path.isfile(argument):
                raise ConfigError(
                    f"{argument}: give the whole path, {os.path.abspath(argument)}, as a service "
                    "is started in another folder"
                )
        command = [*_program(), "service", "run", "--", *arguments]
        self._call(
            *("create", SERVICE, "binPath=", subprocess.list2cmdline(command)),
            *("start=", "auto" if automatic else "demand"),
            *("depend=", "BFE/nsi", "DisplayName=", "zks-lwip"),
        )
        text = "Carries the traffic of this machine through a worker (zks-lwip connect)."
        self._call("description", SERVICE, text)
        # Killed, it leaves the machine closed: another one takes over.
        after = "restart/1000/restart/10000/restart/60000"
        self._call("failure", SERVICE, "reset=", "86400", "actions=", after)
        if persistent:
            self._call("failureflag", SERVICE, "1")

    def remove(self, *, seconds: float = 60.0) -> None:
        """Stop it, and have Windows forget it."""
        self.stop(seconds=seconds)
        self._call("delete", SERVICE)

    def start(self) -> None:
        """Start it, unless it runs."""
        self._call("start", SERVICE, fine=ERROR_SERVICE_ALREADY_RUNNING)

    def stop(self, *, seconds: float = 60.0) -> None:
        """Stop it, and wait until the machine is as it was.

        :raises HostError: it has not ended after that time.
        """
        self._call("stop", SERVICE, fine=ERROR_SERVICE_NOT_ACTIVE)
        end = time.monotonic() + seconds
        while (state := _STATE.search(self._call("query", SERVICE))) is None or int(
            state[1]
        ) != _STOPPED:
            if time.monotonic() >= end:
                raise HostError(f"the service {SERVICE} has not ended within {seconds:g} s")
            time.sleep(_LOOK)

    def _call(self, *arguments: str, fine: int = 0) -> str:
        code, said = self._run(arguments)
        if code in (0, fine):
            return said
        if code == ERROR_ACCESS_DENIED:
            raise PrivilegeError(
                "services are for administrators: start it from an elevated prompt"
            )
        reason = _REMEDIES.get(code, " ".join(said.split()) or f"error {code}")
        raise HostError(f"`sc {arguments[0]} {SERVICE}` failed: {reason}")
