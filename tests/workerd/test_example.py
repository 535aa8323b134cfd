"""The example's files: types, form, and what a user deploys."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.kits.workerd import CLASS, COMPATIBILITY_DATE, EXAMPLE, ROOT, find_tool


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """A copy of the example with its development packages."""
    folder = tmp_path / "example"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("node_modules"))
    (folder / "node_modules").symlink_to(ROOT / "node_modules")
    return folder


def run(tool: str, *arguments: str, folder: Path) -> None:
    program = find_tool(tool)
    if program is None:
        pytest.skip("needs node")
    done = subprocess.run(
        [program, *arguments], cwd=folder, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_types(example: Path) -> None:
    run("tsc", "--project", ".", folder=example)


def test_a_wrong_type_is_found(example: Path) -> None:
    with (example / "src" / "index.js").open("a") as file:
        file.write("\nanswer('200', 404);\n")
    with pytest.raises(AssertionError, match="not assignable"):
        run("tsc", "--project", ".", folder=example)


def test_form(example: Path) -> None:
    run("prettier", "--check", ".", folder=example)


def test_configuration() -> None:
    text = re.sub(r"^\s*//.*$", "", (EXAMPLE / "wrangler.jsonc").read_text(), flags=re.MULTILINE)
    config = json.loads(re.sub(r",(\s*[\]}])", r"\1", text))
    assert (EXAMPLE / config["main"]).is_file()
    assert config["compatibility_date"] == COMPATIBILITY_DATE
    assert config["migrations"] == [{"tag": "v1", "new_sqlite_classes": [CLASS]}]
    assert config["durable_objects"]["bindings"] == [{"name": "TUNNELS", "class_name": CLASS}]
    assert "TOKEN" not in config["vars"]  # a secret


def test_packages_are_pinned() -> None:
    package = json.loads((EXAMPLE / "package.json").read_text())
    lock = json.loads((EXAMPLE / "package-lock.json").read_text())
    for name, version in package["devDependencies"].items():
        entry = lock["packages"][f"node_modules/{name}"]
        assert entry["version"] == version and entry["integrity"].startswith("sha512-")
