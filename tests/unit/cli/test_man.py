"""The manual page: every command and option of the help, and no warning of what shows it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import click
import pytest

from zks_lwip.cli import main
from zks_lwip.cli.man import manual_page


@pytest.fixture(scope="module")
def page() -> str:
    return manual_page(main, click.Context(main, info_name="zks-lwip"))


def test_it_has_every_command_and_option(page: str) -> None:
    for name in main.list_commands(click.Context(main)):
        assert f'.SS "{name}"' in page
    for option in ("kill\\-switch", "allow\\-exclude", "timeout", "log\\-format", "tls\\-cert"):
        assert f"\\-\\-{option}" in page
    assert "python" not in page.split(".SH COMMANDS")[0], "one name in the examples"


def test_nothing_warns_of_it(page: str) -> None:
    if shutil.which("mandoc"):
        argv = ["mandoc", "-T", "lint", "-W", "warning"]
    elif shutil.which("groff"):
        argv = ["groff", "-man", "-ww", "-z", "-K", "utf-8"]
    else:
        pytest.skip("neither mandoc nor groff is installed")
    done = subprocess.run(argv, input=page.encode(), capture_output=True, timeout=60)
    assert done.stdout + done.stderr == b"", (done.stdout + done.stderr).decode()[:2000]


@pytest.mark.parametrize("name", ["zks-lwip", "python -m zks_lwip"])
def test_examples_have_the_name_that_it_was_called_by(name: str) -> None:
    for argv in (["--help"], ["connect", "--help"], ["exclude", "--help"]):
        script = f"from zks_lwip.cli import main; main(prog_name={name!r})"
        said = subprocess.run(
            [sys.executable, "-c", script, *argv], capture_output=True, text=True, timeout=60
        ).stdout
        examples = re.findall(r"^  +(python -m zks_lwip|zks-lwip) ", said, re.MULTILINE)
        assert examples and set(examples) == {name}, said
