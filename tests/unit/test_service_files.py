"""The files for other programs under examples/: each is judged by the program that it is for."""

from __future__ import annotations

import importlib.util
import json
import plistlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
import trio

from tests.kits import programs
from tests.kits.until import until
from tests.kits.worker import running_worker
from zks_lwip.cli import main
from zks_lwip.net.windows import IMAGE_FILE_MACHINES
from zks_lwip.worker.access_log import format_entry

EXAMPLES = Path(__file__).parents[2] / "examples"
UNITS = sorted((EXAMPLES / "systemd").iterdir())


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    for unit in UNITS:  # ours is not installed there
        text = unit.read_text().replace("/usr/local/bin/zks-lwip", "/bin/true")
        (tmp_path / unit.name).write_text(text)
    units = [str(tmp_path / unit.name) for unit in UNITS]
    done = subprocess.run(
        ["systemd-analyze", "verify", *units], capture_output=True, text=True, timeout=120
    )
    ours = [line for line in done.stderr.splitlines() if "zks-lwip" in line]
    assert done.returncode == 0 and ours == []


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize(
    "unit", [unit for unit in UNITS if unit.suffix == ".service"], ids=lambda unit: unit.name
)
def test_the_services_are_hardened(unit: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=25", str(unit)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-200:]  # an exposure of 2.5 of 10 at most


def commands_in(text: str) -> list[list[str]]:
    """The arguments of each call of zks-lwip in a unit, a compose file or a Containerfile."""
    text = text.replace("\\\n", " ").replace(">-\n", " ").replace("\n      --", " --")
    found = re.findall(r"^ *(?:Exec\w+=/usr/local/bin/zks-lwip|command:) +(.+)", text, re.MULTILINE)
    listed = re.findall(r'^CMD (\["\w+", "--.+\])$', text, re.MULTILINE)
    return [*map(shlex.split, found), *map(json.loads, listed)]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("docker/Containerfile", 2),
        ("docker/compose.yml", 3),
        ("systemd/zks-lwip.service", 3),
        ("systemd/zks-lwip-always-on.service", 2),
        ("systemd/zks-lwip-worker.service", 1),
    ],
)
def test_the_commands_of_units_and_containers(name: str, count: int) -> None:
    """They are ours, with options that these have; the program in a container is curl."""
    commands = commands_in((EXAMPLES / name).read_text())
    assert len(commands) == count
    for command, *arguments in commands:
        if command == "-sS":
            continue
        found = main.get_command(click.Context(main), command)
        assert found is not None, command
        known = {flag for each in found.params for flag in each.opts} | {"--help"}
        assert {word for word in arguments if word.startswith("--")} <= known


PLISTS = sorted((EXAMPLES / "macos").glob("*.plist"))


@pytest.mark.parametrize("path", PLISTS, ids=lambda path: path.stem)
def test_launchds_files(path: Path) -> None:
    """Label, program and keys that launchd.plist(5) knows, with options that our command has."""
    told = plistlib.loads(path.read_bytes())
    assert told.pop("Label") == path.stem
    program, name, *arguments = told.pop("ProgramArguments")
    assert program == "/usr/local/bin/zks-lwip"
    command = main.get_command(click.Context(main), name)
    assert command is not None
    command.make_context(name, list(arguments), resilient_parsing=True)
    known = {flag for each in command.params for flag in (*each.opts, *each.secondary_opts)}
    assert {word for word in arguments if word.startswith("--")} <= known
    assert told.pop("StandardErrorPath") == f"/var/log/{path.stem}.log"
    assert told.pop("Umask") == 0o077 and told.pop("RunAtLoad") is True
    assert told.pop("SoftResourceLimits") == {"NumberOfFiles": 4096}
    keys = {"ExitTimeOut", "KeepAlive", "ProcessType", "ThrottleInterval", "UserName"}
    assert told.keys() <= keys
    if "--always-on" in arguments:  # stopped as asked it ends, failed or killed it starts again
        assert told["KeepAlive"] == {"SuccessfulExit": False}
    assert ("UserName" in told) == (name == "worker")


def test_launchd_has_a_client_an_always_on_one_and_a_worker() -> None:
    assert [path.stem.rpartition(".")[2] for path in PLISTS] == ["always-on", "client", "worker"]


def test_the_installer_gives_commands_that_there_are() -> None:
    text = (EXAMPLES / "windows" / "zks-lwip.iss").read_text()
    given = re.findall(r'zks-lwip\.exe"; Parameters: "([a-z ]+)"', text)
    given += re.findall(r"zks-lwip\.exe'\), '([a-z ]+)'", text)
    assert {"service install", "service remove", "disconnect", "recover"} <= set(given)
    for words in given:
        group: click.Command | None = main
        for word in words.split():
            assert isinstance(group, click.Group)
            group = group.get_command(click.Context(group), word)
        assert group is not None, words


def test_the_installer_puts_settings_where_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    spec = importlib.util.find_spec("zks_lwip.settings.files")
    assert spec is not None and spec.loader is not None
    there = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "zks_lwip.settings.files", there)  # dataclasses look there
    spec.loader.exec_module(there)
    folder, _, name = str(there.SYSTEM_FILE).rpartition("\\")
    assert folder == "C:\\Program Files\\zks-lwip"
    text = (EXAMPLES / "windows" / "zks-lwip.iss").read_text()
    assert "DefaultDirName={autopf}\\zks-lwip\n" in text and f"{{app}}\\{name}'" in text


def test_there_is_an_installer_for_each_processor() -> None:
    """Of the program, of Wintun, and of the machine that may install it, the same."""
    folder = EXAMPLES / "windows"
    installer = (folder / "zks-lwip.iss").read_text()
    named = re.findall(r'if Architecture == "(\w+)"\n  #define System "(\w+)"', installer)
    assert named == [("amd64", "x64os"), ("arm64", "arm64")]
    for line in ("ArchitecturesAllowed={#System}\n", "ArchitecturesInstallIn64BitMode={#System}\n"):
        assert line in installer
    assert r"wintun\bin\{#Architecture}\wintun.dll" in installer
    script = (folder / "build.ps1").read_text()
    known = dict(re.findall(r"'(win-\w+)' = '(\w+)'", script))
    assert list(known.values()) == [architecture for architecture, _ in named]
    assert known.keys() <= set(IMAGE_FILE_MACHINES.values())
    assert '"/DArchitecture=$architecture"' in script


@pytest.fixture(scope="module")
def fail2ban(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], dict[str, str]]:
    """fail2ban-regex with our filter among its own, and its environment."""
    root = programs.unpacked("fail2ban")
    if root is None:
        pytest.skip("fail2ban is not to be had")
    config = tmp_path_factory.mktemp("fail2ban") / "etc"
    shutil.copytree(root / "etc" / "fail2ban", config)
    shutil.copy(EXAMPLES / "fail2ban" / "zks-lwip.conf", config / "filter.d")
    command = ["/usr/bin/python3", str(root / "usr/bin/fail2ban-regex"), "-c", str(config)]
    return command, {"PYTHONPATH": str(root / "usr/lib/python3/dist-packages"), "PATH": "/usr/bin"}


def banned(fail2ban: tuple[list[str], dict[str, str]], tmp_path: Path, lines: list[str]) -> str:
    """The lines that the filter takes for failed attempts."""
    command, environment = fail2ban
    (tmp_path / "lines").write_text("".join(f"{line}\n" for line in lines))
    done = subprocess.run(
        [*command, "-o", "row", str(tmp_path / "lines"), "zks-lwip"],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_fail2ban_reads_what_a_worker_writes(
    fail2ban: tuple[list[str], dict[str, str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tokens").write_text(
        "alice " + "a" * 32 + "\nbob " + "b" * 32 + " expires=2020-01-01"
    )
    (tmp_path / "tokens").chmod(0o600)
    log = tmp_path / "log"
    async with running_worker(token_file=tmp_path / "tokens", access_log=log) as (_, address):
        for credentials in (
            "",
            "Authorization: Bearer x\r\n",
            f"Authorization: Bearer {'b' * 32}\r\n",
        ):
            async with await trio.open_tcp_stream(*address) as stream:
                request = f"GET /tunnel HTTP/1.1\r\nHost: x\r\n{credentials}\r\n"
                await stream.send_all(request.encode())
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 401")
        await until(lambda: log.read_text().count("\n") == 3)
    rows = banned(fail2ban, tmp_path, log.read_text().splitlines())
    assert rows.count("['127.0.0.1'") == 2  # a token that has expired was once right
    written = [r.getMessage() for r in caplog.records if "authentication" in r.getMessage()]
    assert len(written) == 2
    stamp = "2026-11-29T11:10:12.664123+00:00 host zks-lwip[77]: zks-lwip: "
    assert banned(fail2ban, tmp_path, [stamp + line for line in written]).count("['127.0.0.1'") == 2


def test_what_a_client_says_bans_no_address(
    fail2ban: tuple[list[str], dict[str, str]], tmp_path: Path
) -> None:
    forged = 'refused client=198.51.100.1 status=401 reason="wrong token"'
    told = "authentication failed from 198.51.100.1: wrong token"
    lines = [
        format_entry("session", {"token": "alice", "reason": f"1000 {forged}"}),
        format_entry("session", {"token": "alice", "reason": f"1000 \n{forged}"}),
        f"2026-11-29T11:10:12+00:00 host zks-lwip[7]: zks-lwip: a session of x ended: 1000 {told}",
    ]
    assert banned(fail2ban, tmp_path, lines).strip() == ""
