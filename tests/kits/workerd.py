"""The Cloudflare Worker of ``examples/cloudflare-worker`` under workerd, its own runtime.

``python -m tests.kits.workerd`` brings workerd, TypeScript and prettier by ``npm ci`` from the
example's lock file into ``build/workerd``; nothing is installed in the example's folder.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psutil

from tests.kits import npm

PROJECT = Path(__file__).resolve().parents[2]
EXAMPLE = PROJECT / "examples" / "cloudflare-worker"
ROOT = PROJECT / "build" / "workerd"
TOKEN = "alice-" + "a" * 30
BOB = "bob-" + "b" * 30
CLASS = "Tunnel"
COMPATIBILITY_DATE = "2026-11-01"


@cache
def find_workerd() -> str | None:
    """Return the path of workerd; None if it is not to be had."""
    for path in sorted((ROOT / "node_modules" / "@cloudflare").glob("workerd-*/bin/workerd")):
        if os.access(path, os.X_OK):
            return str(path)
    return None


def find_tool(name: str) -> str | None:
    """Return the path of a program of the example's development packages, such as ``tsc``."""
    path = ROOT / "node_modules" / ".bin" / name
    return str(path) if path.exists() and shutil.which("node") is not None else None


def fetch() -> bool:
    """Install the example's development packages into ``build/workerd``; whether that worked."""

    def is_there() -> bool:
        find_workerd.cache_clear()
        return find_workerd() is not None

    return npm.install(EXAMPLE, ROOT, is_there)


class Workerd:
    """A running workerd that serves the example."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.address = ("127.0.0.1", port)
        self.log = log

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.address[1]}/tunnel"

    @property
    def memory(self) -> int:
        """Bytes of memory that it has now."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    @property
    def cpu(self) -> float:
        """Seconds of CPU that it has used."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()


def _quoted(text: str) -> str:
    return json.dumps(text)  # Cap'n Proto's strings are C's


def _module(name: str) -> str:
    return f"(name = {_quoted(name)}, esModule = embed {_quoted('src/' + name)})"


def write_config(folder: Path, variables: Mapping[str, str], *, main: str, address: str) -> Path:
    """Write the configuration of what is in ``folder/src``; :func:`running_workerd` has the
    parameters.
    """
    modules = sorted(path.name for path in (folder / "src").glob("*.js"))
    modules.remove(main)
    bindings = [f"(name = {_quoted(k)}, text = {_quoted(v)})" for k, v in variables.items()]
    bindings.append(f'(name = "TUNNELS", durableObjectNamespace = "{CLASS}")')
    socket = f'(name = "http", address = "{address}", http = (), service = "main")'
    path = folder / "config.capnp"
    path.write_text(
        f"""using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    (name = "main", worker = (
      modules = [{", ".join(map(_module, [main, *modules]))}],
      compatibilityDate = "{COMPATIBILITY_DATE}",
      durableObjectNamespaces = [(className = "{CLASS}", uniqueKey = "{CLASS}", enableSql = true)],
      durableObjectStorage = (inMemory = void),
      bindings = [{", ".join(bindings)}],
      globalOutbound = "internet")),
    (name = "internet", network = (allow = ["public", "private", "local"])),
  ],
  sockets = [{socket}],
);
"""
    )
    return path


def copy_sources(folder: Path, modules: Mapping[str, str]) -> None:
    """Copy the example's modules into ``folder/src``, with some of them replaced or added."""
    shutil.copytree(EXAMPLE / "src", folder / "src", dirs_exist_ok=True)
    for name, text in modules.items():
        (folder / "src" / name).write_text(text)


@contextmanager
def running_workerd(
    folder: Path,
    *,
    modules: Mapping[str, str] | None = None,
    main: str = "index.js",
    address: str = "127.0.0.1:0",
    **variables: str,
) -> Iterator[Workerd]:
    """Run the worker; it is ended at the end.

    :param folder: for its configuration and its output (``log``), which stay.
    :param modules: text of modules that stand in for the example's, or come to them.
    :param main: the module that is the worker.
    :param address: where it listens.
    :param variables: of the worker. It has a token (``TOKEN``) and may reach loopback without them.
    """
    program = find_workerd()
    assert program is not None, "workerd is missing: python -m tests.kits.workerd"
    folder.mkdir(parents=True, exist_ok=True)
    copy_sources(folder, modules or {})
    both = {"TOKEN": f"alice {TOKEN}\nbob {BOB}", "ALLOW": "127.0.0.0/8 ::1"} | variables
    config = write_config(folder, both, main=main, address=address)
    reader, writer = os.pipe()
    log = folder / "log"
    with log.open("ab") as output, open(reader, "rb") as control:
        process = subprocess.Popen(
            [program, "serve", str(config), f"--control-fd={writer}"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[writer],
        )
        os.close(writer)
        try:
            for line in control:
                told = json.loads(line)
                if told.get("event") == "listen":
                    yield Workerd(process, told["port"], log)
                    break
            else:
                raise RuntimeError(f"workerd has not started: {log.read_text()}")
        finally:
            process.kill()  # told to end, it waits for its WebSockets
            process.wait()


def main() -> int:
    """Bring workerd; if it cannot be had, that is said."""
    if not fetch():
        print("Not to be had, so that some tests are skipped: workerd")
    return 0


if __name__ == "__main__":
    sys.exit(main())
