"""``run``: what it answers for this machine's own name, and for how long it waits."""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

if sys.platform != "linux":
    pytest.skip("namespaces are Linux's", allow_module_level=True)

from zks_lwip.errors import WorkerUnreachable
from zks_lwip.vpn.command import own_names, up_within


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    path = tmp_path / "hosts"
    path.write_text("127.0.0.1 localhost  # this machine is elsewhere\n127.0.1.1 desk Desk2\n")
    return path


@pytest.mark.parametrize(
    ("name", "answered"),
    [
        ("Laptop", ["laptop=198.18.0.1", "laptop="]),
        ("desk2", []),
        ("static", []),
        ("laptop.example", []),
        ("a b", []),
    ],
)
def test_a_name_that_no_other_source_answers(
    monkeypatch: pytest.MonkeyPatch, hosts: Path, name: str, answered: list[str]
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    found = [str(item) for item in own_names({"static"}, hosts=hosts)]
    assert len(found) == len(answered)
    assert all(one.startswith(start) for one, start in zip(found, answered, strict=True))


def test_without_a_hosts_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "laptop")
    assert len(own_names(set(), hosts=tmp_path / "none")) == 2


@asynccontextmanager
async def up_after(seconds: float) -> AsyncIterator[str]:
    with trio.CancelScope(shield=True):  # up already when the end of the time is seen
        await trio.sleep(seconds)
    yield "up"


@pytest.mark.parametrize(("patience", "seconds"), [(None, 1e6), (5.0, 4.9)])
async def test_what_is_up_in_time_may_take_any_time(
    autojump_clock: trio.testing.MockClock, patience: float | None, seconds: float
) -> None:
    async with up_within(patience, up_after(seconds)) as opened:
        assert opened == "up"
        await trio.sleep(1e6)


@pytest.mark.parametrize("seconds", [5.0, 6.0])
async def test_what_is_up_when_the_time_runs_out_is_given_up_before_a_command_starts(
    autojump_clock: trio.testing.MockClock, seconds: float
) -> None:
    started = False
    with pytest.raises(WorkerUnreachable, match="within 5 s"):
        async with up_within(5.0, up_after(seconds)):
            started = True
            await trio.sleep(1)
    assert not started
