"""The Cloudflare Worker of the examples, under workerd on loopback. No root is needed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kits.workerd import Workerd, find_workerd, running_workerd


@pytest.fixture(autouse=True, scope="session")
def _workerd_is_here() -> None:
    if find_workerd() is None:
        pytest.skip("needs workerd: python -m tests.kits.workerd")


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workerd]:
    """The worker, for the tests of a file."""
    with running_workerd(tmp_path_factory.mktemp("workerd")) as running:
        yield running
