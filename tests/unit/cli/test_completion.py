"""Completion: the words that shells are given, and what real shells make of them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from zks_lwip.cli import main

ROOT = Path(__file__).parents[3]
PROMPT = "ready>"
LINES = {
    "zks-lwip conn": "connect",
    "zks-lwip connect --kill": "connect --kill-switch",
    "zks-lwip connect --kill-switch s": "connect --kill-switch strict",
    "zks-lwip connect --kill-switch=s": "connect --kill-switch=strict",
    "zks-lwip connect --worker ws://x:80 --ipv6=auto ho": "connect --worker ws://x:80 "
    "--ipv6=auto home",
    "zks-lwip connect --token-file=./to": "connect --token-file=./token",
    "zks-lwip run -- my-prog": "run -- my-program",
    "zks-lwip exclude -- cat ./to": "exclude -- cat ./token",
}
"""What is typed before the tabulator, and the arguments that it makes."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with our command, another program, a file and two profiles."""
    settings = tmp_path / "xdg/zks_lwip/config.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text("[profile.home]\n[profile.work]\n", encoding="utf-8")
    (tmp_path / "token").touch()
    programs = tmp_path / "bin"
    programs.mkdir()
    code = "from zks_lwip.cli import main\nmain(prog_name='zks-lwip')\n"
    (programs / "zks-lwip").write_text(f"#!{sys.executable}\n{code}", encoding="utf-8")
    (programs / "my-program").touch()
    for program in programs.iterdir():
        program.chmod(0o755)
    return tmp_path


def surroundings(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ZKS_LWIP_")}
    return kept | {
        "HOME": str(folder),
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "TERM": "dumb",
        "XDG_CONFIG_HOME": str(folder / "xdg"),
        "XDG_DATA_HOME": str(folder / "data"),
    }


def line_of_help(shell: str) -> str:
    """Return the line that ``--help`` gives for a shell's file of settings."""
    overview = CliRunner().invoke(main, ["--help"], prog_name="zks-lwip").output
    (line,) = re.findall(rf".*_ZKS_LWIP_COMPLETE={shell}_source .*", overview)
    assert isinstance(line, str)
    return line.strip()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete(shell: str, folder: Path) -> None:
    def complete(words: str, last: str, instruction: str) -> str:
        count = len(words.split()) if not last else len(words.split()) - 1
        environment = {
            **surroundings(folder),
            "_ZKS_LWIP_COMPLETE": f"{shell}_{instruction}",
            "COMP_WORDS": words,
            "COMP_CWORD": last if shell == "fish" else str(count),
        }
        code = "from zks_lwip.cli import main; main(prog_name='zks-lwip')"
        argv = [sys.executable, "-c", code]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60)
        assert done.stderr == "" or instruction == "source", done.stderr
        return done.stdout

    assert "_ZKS_LWIP_COMPLETE" in complete("zks-lwip", "", "source")
    assert "connect" in complete("zks-lwip con", "con", "complete")
    assert "--kill-switch" in complete("zks-lwip connect --ki", "--ki", "complete")
    assert "strict" in complete("zks-lwip connect --kill-switch s", "s", "complete")
    offered = complete("zks-lwip connect ho", "ho", "complete")
    assert "home" in offered and "work" not in offered


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_real_shells_complete(shell: str, folder: Path) -> None:
    """Words are typed; a function of the shell tells what our command would have been given."""
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is missing")
    first = "autoload -Uz compinit && compinit -u -D\n" if shell == "zsh" else ""
    heard = "zks-lwip() { printf 'heard:%s\\n' \"$*\"; }\n"
    script = f"PS1='{PROMPT}'\n{first}{line_of_help(shell)}\n{heard}"
    (folder / (".zshrc" if shell == "zsh" else "rc")).write_text(script, encoding="utf-8")
    argv = [program, "-i"] if shell == "zsh" else [program, "--rcfile", "rc", "-i"]
    environment = surroundings(folder) | {"ZDOTDIR": str(folder)}
    typed = [*(f"{line}\t\r" for line in LINES), "exit\r"]
    shown = in_terminal(argv, environment, folder, typed)
    assert re.findall(r"^heard:(.*?) ?\r*$", shown, re.MULTILINE) == list(LINES.values()), shown


def in_terminal(
    argv: list[str], environment: dict[str, str], folder: Path, typed: list[str]
) -> str:
    """Run a shell in a terminal, type a line when it asks for one, return what it shows."""
    import pty

    child, terminal = pty.fork()
    if child == 0:
        try:
            os.chdir(folder)
            os.execve(argv[0], argv, environment)
        finally:
            os._exit(127)
    shown, lines, seen = b"", [line.encode() for line in typed], 0
    try:
        while True:
            if lines and PROMPT.encode() in shown[seen:]:
                seen = len(shown)
                os.write(terminal, lines.pop(0))
            try:
                part = os.read(terminal, 4096)
            except OSError:  # Linux: the shell has ended
                break
            if not part:
                break
            shown += part
    finally:
        os.close(terminal)
        os.waitpid(child, 0)
    return shown.decode(errors="replace")


@pytest.mark.skipif(not shutil.which("fish"), reason="fish is missing")
def test_fish_completes(folder: Path) -> None:
    asked = "".join(f"complete -C '{line}'\n" for line in LINES)
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"{line_of_help('fish')}\n{asked}"],
        env=surroundings(folder),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    words = [line.rsplit(" ")[-1] for line in LINES.values()]
    assert done.stderr == ""
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == words
    assert "refuse," in done.stdout, "help is cut at its first comma"
