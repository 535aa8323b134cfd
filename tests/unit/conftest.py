"""Unit tests in trio run by a clock that a busy machine does not hurry."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

import pytest
import trio

_LOOK = 0.05  # seconds: waits are cut to this, so that time is looked at as often
_MOST = _LOOK  # seconds that one look lets pass


class PatientClock(trio.abc.Clock):
    """Real time, but for that in which the machine did not let us run.

    A deadline of a test, or of the code under it, is for what happens in this process: that must
    not miss it because another process had both cores for a second. Never faster than real time.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._looked = 0.0

    def start_clock(self) -> None:
        self._looked = time.perf_counter()

    def current_time(self) -> float:
        looked = time.perf_counter()
        self._now += min(looked - self._looked, _MOST)
        self._looked = looked
        return self._now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return min(deadline - self.current_time(), _LOOK)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder for unix sockets: on macOS a path has 103 bytes, and ``tmp_path`` more than that."""
    parent = "/tmp" if sys.platform == "darwin" else None
    with tempfile.TemporaryDirectory(dir=parent) as path:
        yield Path(path).resolve()


def _run(
    main: Callable[[], Awaitable[Any]], *, clock: trio.abc.Clock | None = None, **options: Any
) -> Any:
    return trio.run(main, clock=clock or PatientClock(), **options)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and iscoroutinefunction(getattr(item, "obj", None)):
            item.add_marker(pytest.mark.trio(run=_run))
