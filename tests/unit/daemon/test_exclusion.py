"""Who may have which process excluded, and what keeps it so."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest
import trio
from trio.testing import MockClock

if sys.platform != "linux":
    pytest.skip("cgroups are Linux's", allow_module_level=True)

from zks_lwip.daemon.access import Access, Peer, parse_allow_exclude
from zks_lwip.daemon.exclusion import exclude_process, keep_excluded
from zks_lwip.errors import ConfigError, HostError, PrivilegeError
from zks_lwip.host.plan.steps import LEASE_SECONDS


class Host:
    """Notes what is asked of it; ``process`` ends when it is moved."""

    def __init__(self, process: subprocess.Popen[bytes] | None = None) -> None:
        self.moved: list[int] = []
        self.renewed: list[float] = []
        self.fails = False
        self._process = process

    async def exclude(self, pid: int) -> None:
        self.moved.append(pid)
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def renew_exclusion(self) -> bool:
        self.renewed.append(trio.current_time())
        if self.fails:
            raise HostError("no nft")
        return True


async def test_a_process_of_its_own() -> None:
    host = Host()
    await exclude_process(host, os.getpid(), os.getuid())
    assert host.moved == [os.getpid()]


async def test_processes_that_may_not() -> None:
    host = Host()
    with pytest.raises(PrivilegeError, match="is not of the user"):
        await exclude_process(host, os.getpid(), os.getuid() + 1)
    for pid in (0, -1):  # of another pid namespace
        with pytest.raises(HostError, match="cannot be seen from here"):
            await exclude_process(host, pid, os.getuid())
    ended = subprocess.Popen(["true"])
    ended.wait()
    with pytest.raises(HostError, match="cannot be seen from here"):
        await exclude_process(host, ended.pid, os.getuid())
    assert host.moved == []
    with subprocess.Popen(["sleep", "60"]) as dying:
        with pytest.raises(HostError, match="has ended while"):
            await exclude_process(Host(dying), dying.pid, os.getuid())


async def test_the_lease_is_renewed_in_time(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    host = Host()
    with caplog.at_level(logging.ERROR), trio.move_on_after(60):
        await keep_excluded(host)
    gaps = [b - a for a, b in zip(host.renewed, host.renewed[1:], strict=False)]
    assert gaps and max(gaps) < LEASE_SECONDS / 3 and not caplog.records
    host.fails = True
    with caplog.at_level(logging.ERROR), trio.move_on_after(60):
        await keep_excluded(host)
    assert len(caplog.records) == 1, "the same failure is told once"


def test_who_may_what() -> None:
    access = Access(frozenset({10}), frozenset({1000}), frozenset({20}))
    root, reader = Peer(1, 0, frozenset({0})), Peer(1, 2000, frozenset({10}))
    user, member = Peer(1, 1000, frozenset({1000})), Peer(1, 2000, frozenset({5, 20}))
    assert access.of(root) is None and access.of(reader) == {"status", "flows"}
    assert access.of(user) == access.of(member) == {"exclude"}
    assert access.of(Peer(1, 2000, frozenset({1000}))) == frozenset()
    access.check(root, "disconnect")
    access.check(user, "exclude")
    with pytest.raises(PrivilegeError, match="`allow_exclude`"):
        access.check(reader, "exclude")
    with pytest.raises(PrivilegeError, match=r"only root \(or a member"):
        access.check(user, "status")
    with pytest.raises(PrivilegeError, match="only root may `disconnect`"):
        access.check(user, "disconnect")


def test_names_of_users_and_groups() -> None:
    assert parse_allow_exclude(["root", "@root", "7", "@8"]) == ({0, 7}, {0, 8})
    assert parse_allow_exclude([]) == (frozenset(), frozenset())
    for text in ("", "@", "no such user", "@no-such-group", "@@root", "-1", "99999999999"):
        with pytest.raises(ConfigError):
            parse_allow_exclude([text])
