"""The command line: help worth reading, one sentence for every error, an exit code for each."""

from __future__ import annotations

import errno
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import zks_lwip
from zks_lwip import errors
from zks_lwip.cli import EXIT_INTERNAL, main


@pytest.fixture(autouse=True)
def _log_level() -> Iterator[None]:
    """Commands set the level of our loggers, for the process that they usually are."""
    logger = logging.getLogger("zks_lwip")
    before = logger.level
    yield
    logger.setLevel(before)


def invoke(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def failing(error: BaseException) -> Iterator[str]:
    """What the group makes of an error in a command: the code, and what it says."""

    @click.command()
    def broken() -> None:
        raise error

    group = type(main)("zks-lwip")
    group.get_command = lambda ctx, name: broken  # type: ignore[method-assign]
    result = CliRunner().invoke(group, ["broken"])
    yield str(result.exit_code)
    yield result.stderr


def test_version_names_ours_and_lwips() -> None:
    code, out, _ = invoke("--version")
    assert code == 0
    assert re.fullmatch(
        rf"zks-lwip {re.escape(zks_lwip.__version__)} \(lwIP \d+\.\d+\.\d+\)\n", out
    )


def test_the_overview_lists_every_command_and_every_exit_code() -> None:
    code, out, _ = invoke("--help")
    assert code == 0
    for name in main.list_commands(click.Context(main)):
        assert re.search(rf"^  {name} ", out, re.M), name
    for group in ("--help", "config --help"):
        assert "..." not in invoke(*group.split())[1].partition("\nCommands:\n")[2], "cut short"
    codes = {
        item.exit_code
        for item in vars(errors).values()
        if isinstance(item, type) and issubclass(item, errors.ZksError)
    }
    for number in codes | {EXIT_INTERNAL}:
        assert re.search(rf"(^|\s){number} +\w", out, re.M), number


@pytest.mark.parametrize("name", main.list_commands(click.Context(main)))
def test_each_help_is_a_page(name: str) -> None:
    code, out, _ = invoke(name, "--help")
    assert code == 0
    long = name in ("connect", "run", "worker")
    assert len(out.splitlines()) > (30 if long else 15) and "python -m zks_lwip" in out
    command = main.get_command(click.Context(main), name)
    assert command is not None
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert parameter.help, parameter.name


_TWO = ["connect", "--worker", "wss://a.example", "--worker", "wss://b.example"]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["connect", "--worker", "worker.example"], "--worker"),
        (["connect", "--worker", "ws://192.0.2.1"], "--plaintext"),
        (["connect", "--token-file", "/nonexistent", "--worker", "wss://w.example"], "No such"),
        (["connect", "--mtu", "99"], "--mtu"),
        (["connect", "--mtu", "many"], "--mtu"),
        (["connect", "--ipv6", "maybe"], "--ipv6"),
        (["connect", "--dns-static", "a"], "--dns-static"),
        (["connect", "--max-flows", "0"], "--max-flows"),
        (["connect", "--channels", "17"], "--channels"),
        (["connect", "--resume", "-1"], "--resume"),
        (["connect", "--host-loopback", "none", "--worker", "wss://w.example"], "--host-loopback"),
        (["connect", "--protocol", "v3"], "--protocol"),
        (["run", "--protocol", "v1", "--dns-via", "worker", "--", "true"], "--dns-via"),
        (
            ["connect", "--worker", "wss://w.example", "--protocol", "v1"]
            + ["--dns", "https://dns.example/q@192.0.2.1"],
            "--protocol v1",
        ),
        (["connect", "--worker-address", "a.example", "--worker", "wss://w.example"], "--worker-a"),
        (["connect", "--worker-address", "192.0.2.1"], "--worker-address"),
        ([*_TWO, "--worker-address", "192.0.2.1"], "--worker-address is given 1 times for 2 w"),
        (
            [*_TWO, *["--token-file", os.devnull] * 3],
            "--token-file is given 3 times for 2 workers",
        ),
        (["connect", "--worker", "wss://a.example", *["--worker", "wss://b.example"] * 2], "twice"),
        (["connect", *[x for n in range(17) for x in ("--worker", f"wss://{n}.e")]], "16 times"),
        (["connect", "--grace", "-1"], "--grace"),
        (["connect", "--bypass", "10.0.0.1/8"], "--bypass"),
        (["connect", "--bypass", "user:no-such-user"], "--bypass"),
        (["connect", "--only", "10.0.0.0/8", "--bypass", "192.0.2.1"], "--only"),
        (["connect", "--allow-inbound", "22", "--kill-switch", "route"], "--allow-inbound"),
        (["connect", "--allow-inbound", "0"], "--allow-inbound"),
        (["connect", "--always-on", "--kill-switch", "off"], "--always-on"),
        (["connect", "--user", "no-such-user"], "--user"),
        (["connect", "--lan", "maybe"], "--lan"),
        (["connect", "--tun-fd", "0", "--dry-run"], "--tun-fd and --dry-run exclude each other"),
        (["connect", "--tun-fd", "0", "--bypass", "192.0.2.1"], "--bypass, --only and such"),
        (["connect", "--tun-fd", "0", "--tun", "given"], "--tun-fd and --tun exclude each other"),
        (["connect", "--tun-fd", "1048575"], "there is no descriptor 1048575"),
        (["run", "--bypass", "192.0.2.1", "--", "true"], "--bypass"),
        (["pause", "--for", "forever"], "--for"),
        (["pause", "--netns", "no-such-namespace"], "no-such-namespace"),
        (["connect", "surplus"], "surplus"),
        (["run"], "CMD"),
        (["run", "--netns", "x", "--", "true"], "--netns"),
        (["run", "--worker", "wss://a:b@w.example", "--", "true"], "--token-file"),
        (["worker", "--allow-origin", "https://[a"], "--allow-origin"),
        (["worker", "--session-prefix", "a.b"], "--session-prefix"),
        (["frobnicate"], "frobnicate"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="these commands are for Linux")
def test_a_wrong_option_is_one_sentence_and_code_2(arguments: list[str], hint: str) -> None:
    code, out, err = invoke(*arguments)
    assert code == 2 and out == ""
    assert hint in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--mtu", "70000"],
            "--mtu 70000 is out of range: give 1280 (which IPv6 needs, RFC 8200 §5) to 65535.",
        ),
        (["--max-memory", "15"], "--max-memory 15 is out of range: give 16 to 65536 (MiB)."),
        (
            ["--worker", "worker.example"],
            "--worker worker.example has no scheme: write wss://worker.example.",
        ),
        (
            ["--worker-address", "192.0.2.1"],
            "--worker-address is given without --worker: name the worker that is there with "
            "--worker URL.",
        ),
        (
            ["--only", "10.0.0.0/8", "--bypass", "192.0.2.1"],
            "--only and --bypass exclude each other: give one of them",
        ),
        (
            ["--bypass", "10.0.0.0/8", "--bypass", "10.1.0.0/16"],
            "--bypass 10.1.0.0/16 overlaps --bypass 10.0.0.0/8: give one of them",
        ),
        (
            ["--always-on", "--kill-switch", "off"],
            "--always-on is of no use with --kill-switch off: nothing is closed.",
        ),
        (
            ["--dns", "https://1.1.1.1/", "--dns-via", "worker", "--worker", "wss://w.example"],
            "--dns names a resolver, but with --dns-via worker the worker chooses; use --dns-via "
            "tunnel, or leave --dns away",
        ),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="these commands are for Linux")
def test_what_is_said_of_an_option_names_its_flag(arguments: list[str], said: str) -> None:
    assert invoke("connect", *arguments) == (2, "", f"zks-lwip: {said}\n")


@pytest.mark.skipif(sys.platform != "linux", reason="these commands are for Linux")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--listen", "0.0.0.0:0"], "without a token"),
        (["--listen", "here"], "--listen here"),
        (["--allow", "10.0.0.1/8"], "--allow 10.0.0.1/8"),
        (["--resolver", "dns.example"], "--resolver dns.example"),
        (["--token-file", "/nonexistent"], "/nonexistent"),
        (["--tls-cert", "/nonexistent"], "/nonexistent"),
        (["--tls-cert", __file__], "PEM files"),
        (["--allow-origin", "example.com"], "--allow-origin example.com"),
        (["--allow-origin", "https://example.com/page"], "https://example.com"),
        (["--max-streams", "0"], "--max-streams"),
        (["--resume", "-1"], "--resume"),
    ],
)
def test_a_wrong_option_of_the_worker(arguments: list[str], message: str) -> None:
    code, out, err = invoke("worker", *arguments)
    assert code == 2 and not out
    assert message in err and "Traceback" not in err


def test_a_wrong_proxy_is_one_sentence_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks5://u:secret@p.example")
    code, out, err = invoke("connect", "--worker", "wss://w.example", "--dry-run")
    assert code == 2 and out == "" and "HTTPS_PROXY" in err and "secret" not in err


def test_every_error_of_ours_has_its_sentence_and_code() -> None:
    for item in vars(errors).values():
        if isinstance(item, type) and issubclass(item, errors.ZksError):
            if item is errors.CommandError:  # has the code of a shell, and passes it on
                continue
            code, text = failing(item("it broke. Mend it."))
            assert (int(code), text) == (item.exit_code, "zks-lwip: it broke. Mend it.\n")


def test_output_that_is_not_read_is_no_bug() -> None:
    code, text = failing(BrokenPipeError(errno.EPIPE, "Broken pipe"))
    assert (code, text) == ("1", "")


def test_an_error_in_a_group_is_found() -> None:
    inner = ExceptionGroup("a", [ValueError("x"), errors.AuthError("refused")])
    code, text = failing(ExceptionGroup("b", [inner]))
    assert (code, text) == ("13", "zks-lwip: refused\n")


def test_what_is_not_built_says_how_to(monkeypatch: pytest.MonkeyPatch) -> None:
    code, text = failing(ModuleNotFoundError("No module named x", name="zks_lwip._lwip"))
    assert int(code) == errors.StackError.exit_code and "build_lwip.py build" in text
    monkeypatch.setitem(sys.modules, "zks_lwip._lwip", None)
    code_now, _, err = invoke("--version")
    assert code_now == errors.StackError.exit_code and "build_lwip.py build" in err


NOT_BUILT = """
import sys
sys.modules["zks_lwip._lwip"] = None
from click.testing import CliRunner
from zks_lwip.cli import main
for arguments in sys.argv[1:]:
    result = CliRunner().invoke(main, arguments.split())
    print(result.exit_code, result.stderr.replace("\\n", " "), type(result.exception).__name__)
"""


def test_what_is_not_built_is_said_by_every_command_that_needs_it() -> None:
    asked = ["--version", "worker", *(["run -- true"] if sys.platform == "linux" else [])]
    others = ["--help", "connect --help", "status --help", "recover --help"]
    argv = [sys.executable, "-c", NOT_BUILT, *asked, *others]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    lines = done.stdout.splitlines()
    needed = lines[: len(asked)]
    assert lines[len(asked) :] == ["0  NoneType"] * len(others)
    assert len(needed) == len(asked)
    for line in needed:
        assert line.startswith(f"{errors.StackError.exit_code} zks-lwip: "), line
        assert "build_lwip.py build" in line and line.endswith(" SystemExit")


def test_what_is_not_built_is_known_before_the_host_is_captured() -> None:
    code = "import sys; sys.modules['zks_lwip._lwip'] = None; from zks_lwip.vpn import open_vpn"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "import of zks_lwip._lwip halted" in done.stderr


LOADED_BY_HELP = """
import sys
from zks_lwip.cli import main
try:
    main(sys.argv[1:])
finally:
    print(*sys.modules, file=sys.stderr)
"""
HEAVY = (
    "asyncio cryptography dns h2 prometheus_client pyroute2 rich socket ssl textual tomllib trio "
    "trio_websocket wsproto zks_lwip._lwip zks_lwip.config"
)
"""What takes longer to load than a help text takes to read: a command loads it when it runs."""


@pytest.mark.parametrize("command", ["", *main.list_commands(click.Context(main))])
def test_help_loads_nothing_that_only_commands_need(command: str) -> None:
    argv = [sys.executable, "-c", LOADED_BY_HELP, *command.split(), "--help"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("Usage: ")
    loaded = set(done.stderr.split())
    assert "click" in loaded
    assert loaded & set(HEAVY.split()) == set()
    assert len({name for name in loaded if name.startswith("zks_lwip.")}) < 60


@pytest.mark.skipif(sys.platform == "win32", reason="SIGHUP")
def test_what_is_logged_of_an_option_names_its_flag(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("me " + "x" * 30, encoding="ascii")
    tokens.chmod(0o600)
    argv = [sys.executable, "-m", "zks_lwip", "worker"]
    argv += ["--listen", "127.0.0.1:0", "--token-file", str(tokens)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as one:
        assert one.stdout is not None and one.stderr is not None
        try:
            assert one.stdout.readline().startswith("listening on ")
            tokens.unlink()
            one.send_signal(signal.SIGHUP)
            said = one.stderr.readline()
        finally:
            one.kill()
    assert f"zks-lwip: the tokens were not reloaded: token file {tokens}: No such file" in said
    assert "; give --token-file a file" in said


@pytest.mark.parametrize("how", ["text", "json"])
def test_a_message_whose_arguments_do_not_fit_does_not_stop_the_caller(how: str) -> None:
    code = (
        "import contextlib, logging, sys\n"
        "from zks_lwip.cli import main\n"
        "with contextlib.suppress(SystemExit): main()\n"  # sets logging up, and ends
        "logging.getLogger('zks_lwip').warning('%d bytes', 'many')\n"
        "print('goes on')\n"
    )
    argv = [sys.executable, "-c", code, "worker", "--listen", "0.0.0.0:0", "--log-format", how]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.stdout == "goes on\n", done.stderr
    assert "--- Logging error ---" in done.stderr


def test_a_bug_is_a_sentence_too() -> None:
    code, text = failing(ExceptionGroup("a", [ZeroDivisionError("division by zero")]))
    assert int(code) == EXIT_INTERNAL
    assert "ZeroDivisionError: division by zero" in text and "Traceback" not in text
    code, text = failing(KeyboardInterrupt())
    assert code == "130" and text == ""


@pytest.mark.parametrize("system", ["darwin", "win32", "plan9"])
def test_other_systems_have_less(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for command_name in ("worker", "proxy"):
        invoke(command_name, "--listen", "nowhere")  # libraries load for the system that there is
    monkeypatch.setattr(sys, "platform", system)
    commands = [["run", "--", "true"], ["exclude", "--", "true"]]
    if system == "plan9":
        commands += [["connect", "--mtu", "1500"], ["status"], ["recover"]]
    for command in commands:
        code, out, err = invoke(*command)
        assert code == 4 and out == ""
        assert err.startswith(f"zks-lwip: `{command[0]}` works on Linux only")
        assert err.count("\n") == 1
    if system != "win32":
        code, out, err = invoke("service", "start")
        assert code == 4 and out == ""
        assert err.startswith(f"zks-lwip: `service` works on Windows only, and this is {system}")
    for command_name in ("worker", "proxy"):
        code, _, err = invoke(command_name, "--listen", "nowhere")
        assert code == 2 and err.startswith("zks-lwip: --listen nowhere: ")
    assert invoke("connect", "--help")[0] == 0


@pytest.mark.parametrize("system", ["android", "ios"])
def test_a_tun_that_is_handed_over_needs_no_host(
    system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    code, _, err = invoke("connect", "--tun-fd", "1048575")
    assert code == 2 and err.startswith("zks-lwip: there is no descriptor 1048575")
    code, _, err = invoke("connect")
    assert code == 4 and err.startswith("zks-lwip: `connect` works on Linux only")
    monkeypatch.setattr(sys, "platform", "win32")
    code, _, err = invoke("connect", "--tun-fd", "0")
    assert code == 2 and "--tun-fd: on Windows a TUN is no descriptor" in err


def test_the_module_can_be_run() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "zks_lwip", "worker", "--listen", "1"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("zks-lwip: --listen 1: ")


@pytest.mark.parametrize(
    ("number", "hint"), [(errno.EMFILE, "ulimit -n"), (errno.ENFILE, "fs.file-max")]
)
def test_a_want_of_descriptors_is_no_bug_of_ours(number: int, hint: str) -> None:
    code, said = failing(OSError(number, "Too many open files", "/a/file"))
    assert code == str(errors.HostError.exit_code)
    assert hint in said and "internal error" not in said
