"""The garbage collector while a command loads; in processes of their own, since each has one."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

TELL = """
import gc, json, sys
def tell():
    told.append([gc.get_threshold(), gc.get_freeze_count() > 0])
told = []
tell()
"""


def states(program: str) -> Any:
    """Run a program that tells of the collector; its first telling is that of a fresh Python."""
    code = f"{TELL}{program}\nprint(json.dumps(told))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(sys.platform == "win32", reason="ended by SIGTERM")
def test_it_is_seldom_at_work_while_a_command_loads_and_as_usual_when_it_is_ready() -> None:
    (usual, _), loading, ready = states(
        "from zks_lwip.__main__ import main\n"
        "tell()\n"
        "class Ends:\n"
        "    def write(self, text):\n"
        "        if 'listening' in text:\n"
        "            tell()\n"
        "            signal.raise_signal(signal.SIGTERM)\n"
        "    def flush(self): pass\n"
        "import signal\n"
        "stdout, sys.stdout = sys.stdout, Ends()\n"
        "try: main(['worker', '--listen', '127.0.0.1:0'])\n"
        "except SystemExit as ended: assert not ended.code\n"
        "sys.stdout = stdout"
    )
    assert loading[0][0] >= 50 * usual[0] and not loading[1]
    assert ready == [usual, True]


def test_a_program_that_imports_the_package_keeps_its_own() -> None:
    (usual, _), imported = states(
        "gc.set_threshold(900)\nimport zks_lwip.cli, zks_lwip.vpn\ntell()"
    )
    assert imported == [[900, *usual[1:]], False]
