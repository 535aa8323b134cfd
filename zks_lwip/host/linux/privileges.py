"""Check the privileges of this process, and give them away once the host is set up.

Capabilities (capabilities(7)) belong to threads. A thread that is made later inherits its maker's;
of those that are there, trio's idle ones are reached by giving them work. So
:func:`drop_privileges` comes after the set-up, and before any other thread is started.

Importing this is cheap, and works on every system.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import trio

from ...errors import HostError, PrivilegeError
from ..accounts import find_user
from .capabilities import Capability, limit, prepare

if TYPE_CHECKING:
    import pwd

__all__ = [
    "Capability",
    "check_net_admin",
    "drop_privileges",
    "held_capabilities",
]

T = TypeVar("T")

# Seconds that trio's idle threads may take to come together.
_MAX_WAIT = 5


class CapturedHost(Protocol):
    """A host that is set up: see :class:`~zks_lwip.host.linux.host.Host`."""

    async def run(self, function: Callable[..., T], *args: Any) -> T: ...
    async def delegate(self, *, other_user: bool) -> None: ...


def check_net_admin(command: str = "connect") -> None:
    """Check that this process may change the network (on Linux; elsewhere nothing is checked).

    :param command: the subcommand to name in the error.
    :raises PrivilegeError: it does not have CAP_NET_ADMIN.
    """
    if sys.platform != "linux":
        return
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").split("\n"):
        if line.startswith("CapEff:") and not int(line.split()[1], 16) >> Capability.NET_ADMIN & 1:
            other = "" if command != "connect" else " `zks-lwip run -- COMMAND` needs neither."
            raise PrivilegeError(
                f"{command} needs root or CAP_NET_ADMIN, to change devices and routes: run it "
                f"with sudo.{other}"
            )


async def drop_privileges(
    host: CapturedHost | None,
    *,
    user: str | None = None,
    keep: Iterable[Capability] = (Capability.NET_ADMIN,),
) -> None:
    """Keep only some capabilities, allow no new ones, and become another user if one is named.

    Holds for this thread and the host's; programs that they start (nft, the worker) have the same.

    :param host: the host that is set up, if any.
    :param user: name of the user to become; None: stay who this is.
    :param keep: the capabilities to keep.
    :raises ConfigError: there is no such user.
    :raises PrivilegeError: this process does not have the capabilities.
    :raises HostError: another thread still has more; named.
    """
    kept = frozenset(keep)
    entry = None if user is None else find_user(user)
    stages = [prepare] if entry else []
    ours = {threading.get_native_id()}
    if host is not None:
        ours.add(await host.run(threading.get_native_id))
    if host is not None:
        await host.delegate(other_user=entry is not None)
    for stage in [*stages, limit]:
        stage(kept)
        if host is not None:
            await host.run(stage, kept)
        await _in_idle(partial(stage, kept), ours)
        if stage is prepare and entry is not None:
            _become(entry)
    if more := _holders(kept):
        raise HostError(
            f"threads that were there before still have more privileges: {', '.join(more)}"
        )


async def _in_idle(stage: Callable[[], None], ours: set[int]) -> None:
    """Run ``stage`` in trio's idle threads: as many jobs at one time as there are other threads."""
    tasks = {int(task.name) for task in Path("/proc/self/task").iterdir()}
    if not (count := len(tasks - ours)):
        return
    together = threading.Barrier(count)

    def job() -> None:
        with contextlib.suppress(threading.BrokenBarrierError):  # some other is none of trio's
            together.wait(_MAX_WAIT)
        stage()

    limiter = trio.CapacityLimiter(count)
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(partial(trio.to_thread.run_sync, job, limiter=limiter))


def _become(entry: pwd.struct_passwd) -> None:
    try:
        os.initgroups(entry.pw_name, entry.pw_gid)
        os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
        os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    except PermissionError as error:
        raise PrivilegeError(f"cannot become the user {entry.pw_name}: {error.strerror}") from error


def held_capabilities() -> dict[str, int]:
    """Return the permitted capabilities of every thread of this process, by its id and name.

    :returns: sets of bits, as in /proc.
    """
    found = {}
    for directory in Path("/proc/self/task").iterdir():
        try:
            status = (directory / "status").read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            continue  # ended in the meantime
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        found[f"{directory.name} ({fields['Name']})"] = int(fields["CapPrm"], 16)
    return found


def _holders(kept: frozenset[Capability]) -> list[str]:
    allowed = sum(1 << capability for capability in kept)
    return [name for name, bits in held_capabilities().items() if bits & ~allowed]
