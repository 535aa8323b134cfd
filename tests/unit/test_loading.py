"""What a command loads, and the garbage collector meanwhile; in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
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


@pytest.mark.skipif(sys.platform == "win32", reason="ended by SIGTERM")
def test_a_worker_of_one_process_loads_nothing_for_several() -> None:
    code = (
        "import os, signal, sys\n"
        "from zks_lwip.__main__ import main\n"
        "class Ends:\n"
        "    def write(self, text):\n"
        "        if 'listening' in text:\n"
        "            os.write(1, ' '.join(sys.modules).encode())\n"
        "            signal.raise_signal(signal.SIGTERM)\n"
        "    def flush(self): pass\n"
        "sys.stdout = Ends()\n"
        "main(['worker', '--listen', '127.0.0.1:0'])"
    )
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60)
    loaded = set(done.stdout.split())
    assert "zks_lwip.worker.server" in loaded
    assert not loaded & {"zks_lwip.worker.processes", "pickle"}


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


@pytest.mark.skipif(sys.platform != "linux", reason="what other systems load is not held here")
@pytest.mark.parametrize("answered", [False, True])
def test_what_asks_an_instance_loads_nothing_that_carries_traffic(
    tmp_path: Path, answered: bool
) -> None:
    """Neither to ask it, nor to look for others."""
    code = (
        "import importlib, socket, sys, threading\n"
        "from pathlib import Path\n"
        "from zks_lwip.__main__ import main\n"
        "for name in 'disconnect exclude pause reconnect reload status'.split():\n"
        "    importlib.import_module(f'zks_lwip.cli.{name}')\n"
        "from zks_lwip.daemon import EXIT_CODES, MAX_SECONDS, NotRunning, State, ask_status\n"
        "from zks_lwip.daemon import check_nothing_left, reload_running, stop_running\n"
        "from zks_lwip.daemon.client import ask\n"
        "from zks_lwip.host.platform import current\n"
        "path = Path(sys.argv[1], 'net-1.sock')\n"
        f"if {answered}:\n"
        "    listener = socket.socket(socket.AF_UNIX)\n"
        "    listener.bind(str(path))\n"
        "    listener.listen()\n"
        "    def answer():\n"
        "        connection, _ = listener.accept()\n"
        "        assert connection.recv(100).endswith(b'\\n')\n"
        "        connection.sendall(b'{\"ok\": 1}\\n')\n"
        "        connection.close()\n"
        "    threading.Thread(target=answer).start()\n"
        "try:\n"
        "    assert ask(path, 'status') == 1\n"
        "except NotRunning:\n"
        f"    assert not {answered}\n"
        "current().running_instances(Path(sys.argv[1]))\n"
        "print(*sys.modules)"
    )
    argv = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60)
    loaded = set(done.stdout.split())
    assert "zks_lwip.daemon.client" in loaded
    assert not loaded & {"trio", "ssl", "asyncio", "idna", "pyroute2", "dns", "zks_lwip._lwip"}
    assert not loaded & {"zks_lwip.config", "zks_lwip.host.plan.steps", "zks_lwip.host.plan.state"}


@pytest.mark.parametrize(("via", "loads"), [("auto", True), ("tunnel", True), ("worker", False)])
def test_http2_is_loaded_with_the_service_where_it_may_be_spoken(via: str, loads: bool) -> None:
    code = (
        "import sys\n"
        "from zks_lwip.dns.options import DnsOptions, load_service\n"
        "assert 'h2' not in sys.modules\n"
        f"load_service(DnsOptions.parse(via={via!r}), embedded=False)\n"
        "print('h2' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (f"{loads}\n", "")
