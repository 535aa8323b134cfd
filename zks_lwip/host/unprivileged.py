"""Give away what is not needed once the host is set up (capabilities(7)).

Capabilities belong to threads. A thread that is made later inherits its maker's; of those that are
there, trio's idle ones are reached by giving them work. So this comes after the set-up, and before
any other thread is started.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import threading
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import trio

from zks_lwip.errors import ConfigError, HostError, PrivilegeError
from zks_lwip.host._capabilities import Capability, limit, prepare
from zks_lwip.host.linux import Host

__all__ = ["Capability", "drop_privileges", "find_user", "held_capabilities"]


def find_user(name: str) -> pwd.struct_passwd:
    """The user of that name.

    :raises ConfigError: there is none.
    """
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise ConfigError(
            f"--user {name}: there is no user of that name; give one that `getent passwd` shows"
        ) from None


async def drop_privileges(
    host: Host | None,
    *,
    user: str | None = None,
    keep: Iterable[Capability] = (Capability.NET_ADMIN,),
) -> None:
    """Keep only these capabilities, allow no new ones, and become ``user`` if one is named.

    For this thread and the host's; programs that they start (nft, the worker) have the same.

    :raises ConfigError: there is no such user.
    :raises PrivilegeError: the capabilities are not ours.
    :raises HostError: some other thread still has more; named.
    """
    kept = frozenset(keep)
    entry = None if user is None else find_user(user)
    stages = [prepare] if entry else []
    ours = {threading.get_native_id()}
    if host is not None:
        ours.add(await host.run(threading.get_native_id))
    for stage in [*stages, limit]:
        if stage is prepare and host is not None:
            await host.delegate()
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
    """As many jobs at one time as there are other threads: trio's idle ones get one each."""
    tasks = {int(task.name) for task in Path("/proc/self/task").iterdir()}
    if not (count := len(tasks - ours)):
        return
    together = threading.Barrier(count)

    def job() -> None:
        with contextlib.suppress(threading.BrokenBarrierError):  # some other is none of trio's
            together.wait(5)
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
    """The permitted capabilities of every thread of this process, as bits, by id and name."""
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
