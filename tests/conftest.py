"""What holds for all tests: which of them were skipped is said at the end, and why it matters."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings

from tests.kits.surroundings import make_ordinary

# A busy machine is no defect; what hangs is ended by the time limit of the test.
settings.register_profile("zks", deadline=None)
settings.load_profile("zks")

make_ordinary()

END_TO_END = ("tests/netns/", "tests/workerd/")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of several workers, each is given a file at a time: what takes long comes first.

    At the end there are short ones left, which end together.
    """
    if not hasattr(config, "workerinput"):
        return
    seconds: Counter[Path] = Counter()
    for item in items:
        is_slow = item.get_closest_marker("slow") is not None
        is_end_to_end = item.nodeid.startswith(END_TO_END)
        seconds[item.path] += 200 if is_slow else 20 if is_end_to_end else 1
    items.sort(key=lambda item: (-seconds[item.path], item.path))


def _skipped_end_to_end(config: pytest.Config) -> list[str]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return []
    return [x.nodeid for x in reporter.stats.get("skipped", []) if x.nodeid.startswith(END_TO_END)]


def _must_not_skip() -> bool:
    """As root in CI nothing is missing, so a skipped end-to-end test is a mistake."""
    return os.environ.get("CI") == "true" and hasattr(os, "geteuid") and os.geteuid() == 0


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if (
        _must_not_skip()
        and _skipped_end_to_end(session.config)
        and exitstatus == pytest.ExitCode.OK
    ):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    skipped = _skipped_end_to_end(config)
    if skipped and _must_not_skip():
        terminalreporter.section("end-to-end tests skipped as root in CI: this run fails", red=True)
        for name in skipped:
            terminalreporter.line(name)
