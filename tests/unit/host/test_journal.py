"""The journal: written before, locked, replaced in one moment, read whatever it holds."""

from __future__ import annotations

import contextlib
import json
import os
import random
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from zks_lwip.errors import HostError

if sys.platform != "linux":
    pytest.skip("the journal is for Linux", allow_module_level=True)

import resource

from zks_lwip.host.journal import RESERVE, Journal, JournalError, journal_path, parse, running
from zks_lwip.host.plan.steps import Nftables, Route, Rule, Sysctl

STEPS = [
    Rule(4, 101, None, fwmark=7),
    Route(6, 5, 100, "zks0"),
    Sysctl("net.ipv4.conf.all.rp_filter", "2", "1"),
]


def written(directory: Path) -> Path:
    journal = Journal(directory, 42, reserve=0)
    journal.begin("blue", "zks0")
    for step in STEPS:
        journal.append(step)
    journal.close()
    return journal.path


def test_round_trip(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    path = written(directory)
    assert path == journal_path(directory, 42)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    record = Journal(directory, 42).record
    assert record is not None and (record.pid, record.netns) == (os.getpid(), "blue")
    assert record.steps == tuple(STEPS) and record.problems == ()


def test_one_writer(tmp_path: Path) -> None:
    assert not running(journal_path(tmp_path, 42))
    first = Journal(tmp_path, 42)
    first.begin(None, "zks0")
    assert running(first.path)
    with pytest.raises(HostError, match=f"another instance.*process {os.getpid()}, zks0"):
        Journal(tmp_path, 42)
    Journal(tmp_path, 43).finish()
    first.close()
    first.close()
    assert not running(first.path)
    second = Journal(tmp_path, 42)
    second.finish()
    assert list(tmp_path.iterdir()) == []


def test_a_take_over_keeps_the_old_steps(tmp_path: Path) -> None:
    written(tmp_path)
    second = Journal(tmp_path, 42)
    second.begin(None, "zks1")
    second.append(Route(4, 5, 100))
    second.close()
    record = Journal(tmp_path, 42).record
    assert record is not None and record.steps == (*STEPS, Route(4, 5, 100))
    assert (record.tun, record.netns) == ("zks1", None)
    assert [path.name for path in tmp_path.iterdir()] == ["net-42.journal"]


def test_where_an_open_file_cannot_be_replaced(tmp_path: Path) -> None:
    """As on Windows: it is written over."""
    written(tmp_path)
    inode = journal_path(tmp_path, 42).stat().st_ino
    second = Journal(tmp_path, 42, reserve=100, replaces=False)
    second.begin(None, "a")  # shorter than what was there
    second.append(Route(4, 5, 100))
    second.close()
    record = Journal(tmp_path, 42).record
    assert record is not None and record.steps == (*STEPS, Route(4, 5, 100))
    assert (record.tun, record.problems) == ("a", ()) and second.path.stat().st_ino == inode


def test_after_another_boot_nothing_of_it_is_true(tmp_path: Path) -> None:
    path = written(tmp_path)
    lines = path.read_text().split("\n")
    lines[0] = json.dumps({**json.loads(lines[0]), "boot": "another"})
    path.write_text("\n".join(lines))
    assert Journal(tmp_path, 42).record is None


def test_an_inode_number_that_is_used_again(tmp_path: Path) -> None:
    first = Journal(tmp_path, 42, 5)
    first.begin(None, "zks0")
    first.append(STEPS[0])
    first.close()
    second = Journal(tmp_path, 42, 5)
    assert second.record is not None
    second.close()
    other = Journal(tmp_path, 42, 6)
    assert other.record is None
    other.begin(None, "zks0")
    other.close()
    record = Journal(tmp_path, 42).record
    assert record is not None and record.steps == () and record.cookie == 6


def test_a_torn_end_was_not_acted_on(tmp_path: Path) -> None:
    text = written(tmp_path).read_text()
    for cut in range(len(text)):
        record = parse(text[:cut])
        complete = max(0, text[:cut].count("\n") - 1)
        assert len(record.steps) in (complete, complete + 1), cut
        assert record.steps == tuple(STEPS[: len(record.steps)])
        assert record.version == 0 or record.problems == ()


def test_whether_it_may_tell_of_a_firewall(tmp_path: Path) -> None:
    """Where it cannot be read, too: a table of our name is then ours, and can be removed."""
    path = written(tmp_path)
    text = path.read_text()
    assert not parse(text).may_know(Nftables)
    journal = Journal(tmp_path, 42)
    journal.append(Nftables(""))
    journal.close()
    assert parse(path.read_text()).may_know(Nftables)
    lines = text.split("\n")
    for damaged in ("\0" * 40, text.replace("_journal", "_x"), "\n".join([*lines[:2], "x", "y"])):
        assert parse(damaged).may_know(Nftables)


def test_whatever_it_holds(tmp_path: Path) -> None:
    text = written(tmp_path).read_text()
    noise = random.Random(1)
    for _ in range(300):
        changed = list(text)
        for _ in range(noise.randrange(1, 4)):
            changed[noise.randrange(len(changed))] = chr(noise.randrange(256))
        parse("".join(changed))
    assert parse("").problems and parse("[]").problems and parse("null").version == 0
    assert "version 2" in parse('{"zks_lwip_journal": 2, "pid": 1}').problems[0]


def test_what_cannot_be_a_journal(tmp_path: Path) -> None:
    journal_path(tmp_path, 42).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostError, match="is a symbolic link"):
        Journal(tmp_path, 42)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    "line",
    [
        '{"kind": []}',
        '{"kind": {}}',
        "[" * 50_000,
        '{"kind": "Rule", "a": ' + "[" * 900 + "]" * 900 + "}",
    ],
)
def test_lines_of_any_shape_are_unreadable_and_no_more(line: str) -> None:
    head = json.dumps({"zks_lwip_journal": 1, "pid": 1})
    record = parse(f"{head}\n{line}\n{line}")
    assert record.pid == 1 and record.steps == () and record.problems


@contextlib.contextmanager
def files_limited(size: int) -> Iterator[None]:
    """No file gets longer than that: writing fails as on a full disk, but for the reason."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_room_is_taken_at_the_start(tmp_path: Path) -> None:
    """What is written later fits in, whatever others do with the disk."""
    journal = Journal(tmp_path, 42)
    journal.begin(None, "zks0")
    steps = [Rule(4, 120, 254, to=f"10.{n}.{m}.0/24") for n in range(3) for m in range(100)]
    size = journal.path.stat().st_size
    with files_limited(size):
        for step in steps:
            journal.append(step)
    assert journal.path.stat().st_size == size > RESERVE
    journal.close()
    record = Journal(tmp_path, 42).record
    assert record is not None and record.steps == tuple(steps) and record.problems == ()


@pytest.mark.parametrize("more", [0, 40, 200])
def test_a_step_for_which_there_is_no_room(tmp_path: Path, more: int) -> None:
    """It is refused, and what is written before and after it can be read."""
    journal = Journal(tmp_path, 42, reserve=150)
    journal.begin(None, "zks0")
    steps = [Rule(4, 120, 254, to=f"10.0.{n}.0/24") for n in range(20)]
    written, refused = [], 0
    with files_limited(journal.path.stat().st_size + more):
        for step in steps:
            try:
                journal.append(step)
                written.append(step)
            except JournalError as error:
                refused += 1
                assert f"cannot write the journal {journal.path}, without which" in str(error)
    assert written and refused
    journal.append(steps[-1])
    journal.close()
    record = Journal(tmp_path, 42).record
    assert record is not None and record.steps == (*written, steps[-1]) and not record.problems


def test_a_start_for_which_there_is_no_room(tmp_path: Path) -> None:
    """It is refused, and what an instance that died has written stays as it is."""
    before = written(tmp_path).read_bytes()
    with files_limited(len(before) + 100), pytest.raises(JournalError, match="nothing could be"):
        Journal(tmp_path, 42).begin(None, "zks1")
    assert [path.name for path in tmp_path.iterdir()] == ["net-42.journal"]
    assert journal_path(tmp_path, 42).read_bytes() == before
