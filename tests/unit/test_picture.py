"""README's picture is what its script draws."""

from __future__ import annotations

import runpy
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / ".github" / "picture.py"

pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="the picture's script is not there")


def test_it_is_what_the_script_draws_and_what_readme_shows() -> None:
    drawn = runpy.run_path(str(SCRIPT))["picture"]()
    picture = SCRIPT.with_suffix(".svg")
    assert picture.read_text(encoding="utf-8") == drawn, "python .github/picture.py"
    assert f"]({picture.relative_to(ROOT).as_posix()})" in (ROOT / "README.md").read_text("utf-8")
    words = {element.text for element in ET.fromstring(drawn).iter() if element.text}
    assert {"program", "TUN", "lwIP", "trio", "one WebSocket", "worker", "internet", "DNS"} <= words
