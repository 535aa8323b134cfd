"""The soak (``python -m tests.soak``) works: a few seconds of it."""

from __future__ import annotations

import pytest

from tests.kits.netns.child import Child
from tests.kits.netns.lab import PYTHON, Lab


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_few_seconds_of_soak(net: Lab) -> None:
    options = ["--minutes", "0.1", "--killed", "100", "--flows", "200", "--tolerance", "100"]
    without = ["--without", "never", "--without", "udp"]  # these need minutes to return
    with Child("soak", [*PYTHON, "-m", "tests.soak", *options, *without]) as child:
        told = child.succeed(800)
    assert "are where they began" in told
