"""How commands end when their output is not read any more, or when interrupted at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and pipes of Unix")

_ZKS = [sys.executable, "-m", "zks_lwip"]

_INTERRUPTED = """
import _signal, os, sys  # and not signal, which may not be there yet
def look(event, arguments):
    if event == "import" and arguments[0] == os.environ["MODULE"]:
        os.kill(os.getpid(), _signal.SIGINT)
sys.addaudithook(look)
"""


def _unread(*argv: str, err: bool = False) -> tuple[int, str]:
    """Run a command whose output is not read: its exit code, and what the other stream got."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        streams = {"stdout": subprocess.PIPE, "stderr": writer} if err else {"stdout": writer}
        done = subprocess.run(
            [*_ZKS, *argv],
            stderr=streams.get("stderr", subprocess.PIPE),
            stdout=streams["stdout"],
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        os.close(writer)
    return done.returncode, done.stdout if err else done.stderr


@pytest.mark.parametrize(
    "argv",
    [
        ("--help",),
        ("--version",),
        *((name, "--help") for name in ("connect", "disconnect", "pause", "proxy", "run")),
        *((name, "--help") for name in ("reconnect", "recover", "reload", "status", "worker")),
    ],
    ids=" ".join,
)
def test_an_output_that_is_not_read_ends_a_command_in_silence(argv: tuple[str, ...]) -> None:
    code, said = _unread(*argv)
    assert (code, said) == (1, "")


@pytest.mark.skipif(sys.platform != "linux", reason="the command")
def test_an_error_that_is_not_read_keeps_its_exit_code() -> None:
    code, said = _unread("connect", "--mtu", "5", err=True)
    assert said == "" and code in (1, 2)


def test_what_works_on_does_so_when_it_is_not_read() -> None:
    """As ``worker | head -1`` would otherwise end with the first line, or the last one."""
    reader, writer = os.pipe()
    os.close(reader)
    argv = [*_ZKS, "worker", "-v", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(argv, stdout=writer, stderr=subprocess.PIPE, text=True) as worker:
        os.close(writer)
        assert worker.stderr is not None
        try:
            lines = []
            while not lines or "standard output cannot be written" not in lines[-1]:
                lines.append(worker.stderr.readline())
                assert lines[-1], lines
            worker.terminate()
            rest = worker.stderr.read()
            assert worker.wait(60) == 0
        finally:
            worker.kill()
    assert "Exception" not in rest and "Traceback" not in rest


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("signal", -signal.SIGINT),
        ("zks_lwip.cli", -signal.SIGINT),
        ("click", -signal.SIGINT),
        ("zks_lwip.cli.flags", -signal.SIGINT),
        ("trio", 130),
        ("zks_lwip.worker.sessions", 130),
    ],
)
def test_a_ctrl_c_while_modules_load_shows_no_traceback(
    tmp_path: Path, module: str, code: int
) -> None:
    """130 is what a shell makes of the other."""
    (tmp_path / "sitecustomize.py").write_text(_INTERRUPTED, encoding="ascii")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "MODULE": module}
    done = subprocess.run(
        [*_ZKS, "worker", "--listen", "127.0.0.1:0", "--parent-fd", "0"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, "")


def test_an_ignored_interrupt_stays_ignored(tmp_path: Path) -> None:
    """As a shell has it for what runs in its background."""
    (tmp_path / "sitecustomize.py").write_text(_INTERRUPTED, encoding="ascii")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "MODULE": "click"}
    argv = [sys.executable, "-m", "zks_lwip", "worker", "--help"]
    done = subprocess.run(
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *argv],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0 and done.stdout.startswith("Usage: ")


_BEGINS = """
import os, signal, sys
from zks_lwip.__main__ import main
begun = []
def look(event, arguments):
    if event == "subprocess.Popen" and "--parent-fd" in arguments[1]:  # (trio runs ldconfig)
        begun.append(arguments[1])
    elif event == "import" and arguments[0] == sys.argv[1]:
        assert begun
        signal.raise_signal(signal.SIGINT)
sys.addaudithook(look)
try:
    main(sys.argv[2:])
except SystemExit as ended:
    print(ended.code)
try:
    print(os.waitpid(-1, os.WNOHANG))
except ChildProcessError:
    print(len(begun), "begun, none left")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the commands")
@pytest.mark.parametrize("command", ["connect", "run"])
@pytest.mark.parametrize(
    ("module", "options", "code", "says"),
    [
        ("none", ["--mtu", "5"], 2, "--mtu"),
        ("none", ["--host-loopback", "none", "--token-file", os.devnull], 2, "--token-file"),
        ("trio", [], 130, ""),
        ("zks_lwip.settings.vpn", [], 130, ""),
    ],
)
def test_what_ends_a_command_at_once_ends_the_worker_that_it_has_begun(
    command: str, module: str, options: list[str], code: int, says: str
) -> None:
    argv = [command, "--config", os.devnull, *options, *(["true"] if command == "run" else [])]
    done = subprocess.run(
        [sys.executable, "-c", _BEGINS, module, *argv],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.splitlines() == [str(code), "1 begun, none left"], done
    assert len(done.stderr.splitlines()) == (1 if says else 0) and says in done.stderr
