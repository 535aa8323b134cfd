"""Unit tests in trio run by a clock that a busy machine does not hurry."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.kits.clock import PatientClock


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
