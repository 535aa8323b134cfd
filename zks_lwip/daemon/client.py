"""The other end of the control socket: ask a running instance, and say what a dead one has left."""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import struct
import sys
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, HostError, PrivilegeError, ZksError
from ..host.plan.config import STATE_DIR
from ..host.platform import current
from .place import MAX_ANSWER, OVER_LOOPBACK, control_path
from .states import OtherInstance, State, Status, no_status

if TYPE_CHECKING:
    from ..host.reports import Remains, RunningInstance

__all__ = [
    "InstanceStopped",
    "NotRunning",
    "ask",
    "ask_running",
    "ask_status",
    "check_nothing_left",
    "reload_running",
    "stop_running",
]


class NotRunning(HostError):
    """No instance runs in that network namespace."""

    exit_code = 1

    def __init__(self, message: str, state: State = State.DISCONNECTED) -> None:
        super().__init__(message)
        self.state = state
        self.pid: int | None = None
        """Of an instance that died."""


class InstanceStopped(HostError):
    """The instance is a stopped process, as by Ctrl-Z.

    :param pid: its process.
    """

    def __init__(self, pid: int) -> None:
        self.text = (
            f"process {pid}, which has captured it, is stopped (Ctrl-Z, or SIGSTOP), and lets no "
            "traffic pass"
        )
        self.remedy = f"have it go on by `fg` in its shell, or by `kill -CONT {pid}`"
        super().__init__(f"{self.text}: {self.remedy}")


def ask_running(netns: str | None, command: str, *, patience: float = 30.0, **values: Any) -> Any:
    """Have the instance that captures a namespace carry a command out, see :func:`ask`.

    :param netns: a name of ``ip netns``; None: the namespace of this process.
    :param patience: seconds for which it may be silent.
    :param values: what belongs to the command; goes to JSON.
    :returns: what it answers.
    :raises NotRunning: there is none; says what it has left, where one has died.
    """
    try:
        return ask(control_path(STATE_DIR, netns), command, patience=patience, **values)
    except NotRunning as error:
        left = current().remains(netns)
        raise (_nothing(netns) if left is None else _died(left)) from error


def _nothing(netns: str | None) -> NotRunning:
    """Return what is said where nothing runs, and nothing is left."""
    text = "nothing runs here: no `connect` has captured this namespace"
    others = [_where(each) for each in _others(netns)]
    if others:
        text += f"; one runs {' and one '.join(others)}"
    return NotRunning(text)


def _where(other: RunningInstance) -> str:
    """Return where another instance is, and how to ask it."""
    process = "" if other.pid is None else f" (process {other.pid})"
    if other.netns is not None:
        return f"in the namespace {other.netns}{process}: add `netns` {other.netns}"
    if other.pid is None:
        return "in a namespace without a name"
    return (
        f"in the namespace of process {other.pid}: "
        f"`nsenter --net=/proc/{other.pid}/ns/net` before the command asks it"
    )


def _others(netns: str | None) -> list[RunningInstance]:
    """Return the instances that run in other namespaces."""
    return current().running_instances(besides=netns)


def _died(left: Remains) -> NotRunning:
    """Return what is said of what an instance that died has left."""
    who = f"process {left.pid}, which captured it, has died"
    if not left.closed:
        if left.pid is None:
            who = "what captured it has died"
        error = NotRunning(
            f"the machine is OPEN: {who} in a pause, or without a kill switch. Start `connect` "
            "again to close it, or take away the rest of what it had set up with "
            "`zks-lwip recover`.",
            State.DEAD_OPEN,
        )
    else:
        if left.pid is None:
            who = "an instance that could not write its journal has closed it, and ended"
            if not left.readable:
                who = "what captured it has died"
        error = NotRunning(
            f"the machine is closed: {who}. Start `connect` again, or open it with "
            "`zks-lwip recover`.",
            State.DEAD_CLOSED,
        )
    error.pid = left.pid
    return error


def ask_status(netns: str | None) -> Status:
    """Return what is known of the instance that captures a namespace, also where there is none.

    :raises PrivilegeError: this user may not know.
    :raises ConfigError: there is no such namespace.
    :raises HostError: what runs does not answer.
    """
    status = no_status()
    status["netns"] = netns
    try:
        told = ask_running(netns, "status")
        if not isinstance(told, dict) or not isinstance(told.get("state"), str):
            raise HostError("what runs here does not tell its state")
        status.update(told)  # type: ignore[typeddict-item]  # an older one may tell less
    except NotRunning as error:
        status["state"], status["problem"] = error.state.value, str(error)
        status["pid"] = error.pid
    status["others"] = [
        OtherInstance(netns=each.netns, pid=each.pid, interface=each.interface)
        for each in _others(netns)
    ]
    return status


def stop_running(netns: str | None) -> dict[str, Any]:
    """Stop the instance that captures a namespace, and wait until it has ended.

    :returns: its ``pid`` and ``interface``.
    :raises NotRunning: there is none.
    """
    told = ask(control_path(STATE_DIR, netns), "disconnect", wait=True)
    return told if isinstance(told, dict) else {}


def reload_running(netns: str | None) -> int:
    """Have the instance that captures a namespace read its files again.

    Token files are read here, by root: the instance has given its privileges away.

    :returns: how many tokens were read.
    :raises ConfigError: a file cannot be used; nothing is changed.
    :raises NotRunning: there is none.
    """
    from ..tunnel.endpoint import read_token_file  # here: no other command needs it

    files = ask_running(netns, "token_files")
    tokens = [read_token_file(Path(path)) for path in files]
    return int(ask_running(netns, "reload", tokens=tokens)["tokens"])


def check_nothing_left(netns: str | None) -> None:
    """Check that no instance that has ended left anything in a namespace.

    :raises HostError: one did.
    """
    left = current().remains(netns)
    if left is None:
        return
    if left.closed:
        raise HostError(
            "the machine is closed by an instance that has ended; open it with `zks-lwip recover`"
        )
    raise HostError(
        "the machine is open, but not as it was: an instance died in a pause, or without a kill "
        "switch; take away what it has left with `zks-lwip recover`"
    )


def ask(
    path: Path,
    command: str,
    *,
    wait: bool = False,
    patience: float = 30.0,
    over_loopback: bool = OVER_LOOPBACK,
    **values: Any,
) -> Any:
    """Have the instance at ``path`` carry a command out. Blocks.

    :param wait: block until the instance has ended.
    :param patience: seconds for which it may be silent.
    :param over_loopback: it listens as :mod:`.loopback` says.
    :param values: what belongs to the command; goes to JSON.
    :returns: what it answers.
    :raises NotRunning: there is none.
    :raises PrivilegeError: this is neither root nor, for what only reads, a member of the group.
    :raises ConfigError, HostError: what it answers.
    """
    request = json.dumps({"command": command, **values}).encode() + b"\n"
    try:
        with (_connect_loopback if over_loopback else _connect)(path, patience) as connection:
            connection.sendall(request)
            with connection.makefile("rb") as lines:
                line = lines.readline(MAX_ANSWER)
                if wait and line:
                    _wait_for_end(lines)
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        raise NotRunning("nothing runs here: no `connect` has captured this namespace") from None
    except PermissionError as error:
        # The folder stays closed when none runs any more, and a socket may stay in it.
        raise PrivilegeError(
            f"this user may not see whether a `connect` runs here ({path}: {error.strerror}): "
            f"{_allow(command)}"
        ) from None
    except OSError as error:
        if isinstance(error, TimeoutError):
            raise HostError(
                f"{path}: no answer within {patience:g} s: what runs there hangs, or the machine "
                "is very busy. End the process, and `zks-lwip recover` opens the machine."
            ) from error
        raise HostError(f"{path}: {error.strerror}") from error
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict) or not answer.keys() & {"ok", "error"}:
        raise HostError(f"{path}: what runs there hung up without an answer")
    if "error" in answer:
        kinds: tuple[type[ZksError], ...] = (ConfigError, PrivilegeError)
        matching = (kind for kind in kinds if kind.exit_code == answer.get("code"))
        raise next(matching, HostError)(str(answer["error"]))
    return answer["ok"]


def _connect(path: Path, patience: float) -> socket.socket:
    if sys.platform == "win32":
        raise OSError(errno.EAFNOSUPPORT, "there are no unix sockets")
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(patience)
        connection.connect(str(path))
        _check_not_stopped(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_not_stopped(connection: socket.socket) -> None:
    """Check that what listens is no stopped process, to which the kernel connects all the same.

    :raises InstanceStopped: it is.
    """
    if sys.platform != "linux":
        return
    size = struct.calcsize("3i")
    pid, _, _ = struct.unpack(
        "3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    )
    try:
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(") ")[2][:1]
    except OSError:  # of another pid namespace, or hidden: its answer tells
        return
    if state == "T":
        raise InstanceStopped(pid)


def _connect_loopback(path: Path, patience: float) -> socket.socket:
    from .loopback import connect_to  # here: what it loads is needed on Windows only

    return connect_to(path, patience)


def _wait_for_end(lines: BufferedReader) -> None:
    """Read until the process at the other end has gone; Windows resets what one had open."""
    with contextlib.suppress(ConnectionResetError):
        lines.read()


def _allow(command: str) -> str:
    """Return what would let this user give a command."""
    if sys.platform == "win32":
        return "start it from an elevated prompt, as an administrator"
    if command == "exclude":
        return "start `connect` with `allow_exclude` USER, or @GROUP"
    return (
        "run it as root (`status` also as a member of the group that `control_group` of `connect` "
        "names)"
    )
