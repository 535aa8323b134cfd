"""The steps that have been done, in the journal and without one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from zks_lwip.errors import HostError

if sys.platform != "linux":
    pytest.skip("these steps are for Linux", allow_module_level=True)

from zks_lwip.host.done import DoneSteps
from zks_lwip.host.journal import Journal, journal_path, running
from zks_lwip.host.plan.step import Step
from zks_lwip.host.plan.steps import Route, Rule, Sysctl

RULE = Rule(4, 101, None, fwmark=7)
ROUTE = Route(6, 5, 100, "zks0")
SYSCTL = Sysctl("net.ipv4.conf.all.rp_filter", "2", "1")


def opened(directory: Path) -> DoneSteps:
    done = DoneSteps()
    done.open_journal(directory, 42, 0, netns=None, tun="zks0")
    return done


def test_each_is_noted_once_and_written_down_before_it_is_done(tmp_path: Path) -> None:
    done = opened(tmp_path)
    assert [done.add(step) for step in (RULE, ROUTE, RULE)] == [True, True, False]
    assert running(journal_path(tmp_path, 42))
    done.close_journal(keep=True)
    record = Journal(tmp_path, 42).record
    assert record is not None and record.steps == (RULE, ROUTE)


def test_all_are_undone_the_last_one_first_and_then_what_was_left(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.add(SYSCTL)
    first.close_journal(keep=True)
    done = opened(tmp_path)
    for step in (RULE, ROUTE):
        done.add(step)
    done.remove(RULE)  # it was not done after all
    undone: list[Step] = []
    assert done.undo_all(undone.append) == []
    assert undone == [ROUTE, SYSCTL]
    done.close_journal(keep=False)
    assert list(tmp_path.iterdir()) == []


def test_what_could_not_be_undone_is_told(tmp_path: Path) -> None:
    def undo(step: Step) -> None:
        if step == RULE:
            raise HostError("busy")
        undone.append(step)

    done, undone = opened(tmp_path), list[Step]()
    for step in (ROUTE, RULE):
        done.add(step)
    (problem,) = done.undo_all(undo)
    assert "busy" in problem and undone == [ROUTE]


def test_without_a_journal_nothing_is_undone() -> None:
    done = DoneSteps()
    assert not done.remain and not done.journaled
    assert done.add(RULE) and not done.add(RULE)
    undone: list[Step] = []
    assert done.undo_all(undone.append) == [] and undone == []
    assert done.remain
    done.close_journal(keep=False)
