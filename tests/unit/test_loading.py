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


@pytest.mark.skipif(sys.platform != "linux", reason="loads what captures a host of Linux")
def test_it_is_not_at_work_at_all_while_the_largest_command_loads() -> None:
    loaded = (
        "zks_lwip.cli.connect zks_lwip.daemon.run zks_lwip.vpn.open zks_lwip.metrics.client "
        "zks_lwip.host.linux.observe zks_lwip.host.linux.host zks_lwip.host.linux.monitor "
        "zks_lwip.device zks_lwip.dns.upstream.doh_connection dns.message"
    )
    code = (
        "import gc, importlib\n"
        "import zks_lwip.__main__\n"
        "before = gc.get_stats()\n"
        f"for name in {loaded!r}.split():\n"
        "    importlib.import_module(name)\n"
        "assert gc.get_stats() == before, gc.get_stats()\n"
        "assert gc.get_count()[0] < gc.get_threshold()[0] / 2"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_program_that_imports_the_package_keeps_its_own() -> None:
    (usual, _), imported = states(
        "gc.set_threshold(900)\nimport zks_lwip.cli, zks_lwip.vpn\ntell()"
    )
    assert imported == [[900, *usual[1:]], False]
