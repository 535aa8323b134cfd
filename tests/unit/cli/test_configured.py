"""Options from the command line, the environment and files: which wins, and what errors say."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from zks_lwip.cli import main
from zks_lwip.settings.files import SettingsFile
from zks_lwip.settings.judge import faults


@pytest.fixture(autouse=True)
def _nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No file of the machine's user, and the level of our loggers as it was."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    for name in [name for name in os.environ if name.startswith("ZKS_LWIP_")]:
        monkeypatch.delenv(name)
    logger = logging.getLogger("zks_lwip")
    before = logger.level
    yield
    logger.setLevel(before)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "f.toml"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return path


def invoke(*arguments: str, **environment: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, list(arguments), env=environment)
    return result.exit_code, result.stdout, result.stderr


def in_force(*arguments: str, **environment: str) -> dict[str, dict[str, Any]]:
    code, out, err = invoke("config", "show", "--json", *arguments, **environment)
    assert code == 0, err
    settings = json.loads(out)["settings"]
    assert isinstance(settings, dict)
    return settings


def value_of(key: str, *arguments: str, **environment: str) -> tuple[Any, str]:
    found = in_force(*arguments, **environment)[key]
    return found["value"], found["from"]


def test_the_default_is_in_force_without_anything() -> None:
    assert value_of("mtu", "connect") == (1500, "default")


def test_a_file_beats_the_default(tmp_path: Path) -> None:
    path = write(tmp_path / "xdg/zks_lwip/config.toml", "mtu = 1300")
    assert value_of("mtu", "connect") == (1300, f"{path}: mtu")


def test_the_environment_beats_a_file(file: Path) -> None:
    write(file, "mtu = 1300\n[profile.p]\nmtu = 1301")
    arguments = ("connect", "--config", str(file), "p")
    assert value_of("mtu", *arguments, ZKS_LWIP_MTU="1400") == (1400, "ZKS_LWIP_MTU")


def test_a_commands_own_variable_beats_the_shared_one() -> None:
    both = {"ZKS_LWIP_MTU": "1400", "ZKS_LWIP_RUN_MTU": "1410"}
    assert value_of("mtu", "run", **both) == (1410, "ZKS_LWIP_RUN_MTU")
    assert value_of("mtu", "connect", **both) == (1400, "ZKS_LWIP_MTU")


def test_a_flag_beats_the_environment_and_a_file(file: Path) -> None:
    write(file, "mtu = 1300")
    arguments = ("connect", "--config", str(file), "--mtu", "1450")
    assert value_of("mtu", *arguments, ZKS_LWIP_MTU="1400") == (1450, "command line")
    assert value_of("mtu", *arguments) == (1450, "command line")


def test_a_switch_can_be_put_off_again(file: Path) -> None:
    write(file, "stats = true\nalways_on = true")
    arguments = ("connect", "--config", str(file))
    assert value_of("stats", *arguments)[0] is True
    assert value_of("stats", *arguments, "--no-stats") == (False, "command line")
    assert value_of("stats", *arguments, ZKS_LWIP_STATS="0") == (False, "ZKS_LWIP_STATS")
    assert value_of("always_on", *arguments, "--no-always-on")[0] is False


def test_lists_replace_each_other(file: Path) -> None:
    write(file, "bypass = ['10.0.0.0/8', '192.0.2.1']\ndns_block = 'a'")
    arguments = ("connect", "--config", str(file))
    assert value_of("bypass", *arguments)[0] == ["10.0.0.0/8", "192.0.2.1"]
    assert value_of("dns_block", *arguments)[0] == [str(file.parent / "a")]
    more = {"ZKS_LWIP_BYPASS": "1.1.1.1 2.2.2.2", "ZKS_LWIP_DNS_BLOCK": os.pathsep.join("bc")}
    assert value_of("bypass", *arguments, **more)[0] == ["1.1.1.1", "2.2.2.2"]
    assert value_of("dns_block", *arguments, **more)[0] == ["b", "c"]
    assert value_of("bypass", *arguments, "--bypass", "3.3.3.3", **more)[0] == ["3.3.3.3"]
    ports = value_of("allow_inbound", "connect", ZKS_LWIP_ALLOW_INBOUND="22 80")
    assert ports[0] == [22, 80]


def test_an_empty_variable_is_none(file: Path) -> None:
    write(file, "mtu = 1300")
    arguments = ("connect", "--config", str(file))
    assert value_of("mtu", *arguments, ZKS_LWIP_MTU="")[0] == 1300


def test_file_and_profile_by_environment(file: Path) -> None:
    write(file, "[profile.home]\nmtu = 1301\n[profile.work]\nmtu = 1302")
    both = {"ZKS_LWIP_CONFIG": str(file), "ZKS_LWIP_PROFILE": "home"}
    assert value_of("mtu", "connect", **both)[0] == 1301
    assert value_of("mtu", "run", **both)[0] == 1301
    assert value_of("mtu", "run", "--profile", "work", **both)[0] == 1302
    assert value_of("mtu", "connect", "work", **both)[0] == 1302
    assert value_of("mtu", "connect", "work", "--profile", "work", **both)[0] == 1302
    code, _, err = invoke("connect", "work", "--profile", "home", **both)
    assert code == 2 and "two profiles are named, work and home" in err


def test_the_worker_has_its_own_section(file: Path) -> None:
    write(file, "token_file = 'a'\nresume = 9\n[worker]\nlisten = '127.0.0.1:1'\nmax_streams = 7")
    found = in_force("worker", "--config", str(file), ZKS_LWIP_WORKER_RESUME="8")
    assert found["token_file"] == {"value": None, "from": "default"}
    assert found["listen"] == {"value": ["127.0.0.1:1"], "from": f"{file}: worker.listen"}
    assert found["max_streams"]["value"] == 7 and found["resume"]["value"] == 8


def test_a_token_is_not_shown_and_gives_way_to_a_flag(file: Path) -> None:
    write(file, "worker = 'wss://a.example'\ntoken = 'sesame'")
    arguments = ("connect", "--config", str(file))
    assert in_force(*arguments)["token"] == {"value": "(not shown)", "from": f"{file}: token"}
    _, out, _ = invoke("config", "show", *arguments)
    assert f"# {file}: token" in out and "sesame" not in out
    assert "token" not in in_force(*arguments, "--token-file", "x")
    assert "token" not in in_force(*arguments, ZKS_LWIP_TOKEN_FILE="x")


def test_what_is_shown_is_a_file_of_settings(file: Path) -> None:
    write(file, "worker = ['wss://a.example', 'wss://b.example']\nmtu = 1300\ntun = 'ä\"'")
    _, out, _ = invoke("config", "show", "connect", "--config", str(file))
    assert f"# {file}: read" in out
    again = write(file.with_name("again.toml"), out)
    before = in_force("connect", "--config", str(file))
    after = in_force("connect", "--config", str(again))
    assert {key: x["value"] for key, x in before.items()} == {
        key: x["value"] for key, x in after.items()
    }


@pytest.mark.skipif(sys.platform != "linux", reason="connect")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mtu = 99", "{file}: mtu 99 is out of range: give 1280"),
        ("[connect]\nmtu = 99", "{file}: connect.mtu 99 is out of range"),
        ("only='10.0.0.0/8'\nbypass='a.example'", "{file}: only and bypass ({file}) exclude each"),
        ("allow_inbound = 70000", "Invalid value for {file}: allow_inbound: 70000 is not in the"),
        ("worker = 'wss:a'", "{file}: worker wss:a lacks the // after its scheme"),
        ("worker = 'ws://192.0.2.1'", "insist with --plaintext"),
        ("token = 'sesame'", "{file}: token is given without --worker"),
        ("token = 'ses ame'\nworker = 'wss://a'", "{file}: token has characters that no token"),
        ("token_file = 'no'\nworker = 'wss://a'", "{file}: token_file {folder}/no: No such file"),
        ("mtuu = 99", "{file}: unknown key 'mtuu': did you mean 'mtu'?"),
        ("mtu = '99'", "{file}: mtu has to be an integer, and is a string"),
        ("mtu\n", "{file}, line 1, column 4: no valid TOML"),
    ],
)
def test_an_error_names_file_and_key(file: Path, text: str, said: str) -> None:
    write(file, text)
    code, out, err = invoke("connect", "--config", str(file), "--dry-run")
    assert code == 2 and out == "" and "ses ame" not in err and "sesame" not in err
    assert said.format(file=file, folder=file.parent) in err


@pytest.mark.skipif(sys.platform != "linux", reason="connect")
@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"ZKS_LWIP_MTU": "99"}, "zks-lwip: ZKS_LWIP_MTU 99 is out of range"),
        ({"ZKS_LWIP_CONNECT_MTU": "99"}, "zks-lwip: ZKS_LWIP_CONNECT_MTU 99 is out of range"),
        ({"ZKS_LWIP_MTU": "many"}, "Invalid value for ZKS_LWIP_MTU: 'many'"),
        ({"ZKS_LWIP_STATS": "perhaps"}, "Invalid value for ZKS_LWIP_STATS"),
        ({"ZKS_LWIP_IPV6": "maybe"}, "Invalid value for ZKS_LWIP_IPV6: 'maybe' is not one of"),
        ({"ZKS_LWIP_CONFIG": "/nonexistent"}, "zks-lwip: /nonexistent: No such file"),
        ({"ZKS_LWIP_PROFILE": "home"}, "zks-lwip: there is no profile 'home'"),
    ],
)
def test_an_error_names_the_variable(variables: dict[str, str], said: str) -> None:
    code, out, err = invoke("connect", "--dry-run", **variables)
    assert code == 2 and out == "" and said in err


def test_a_variable_that_is_none_is_told() -> None:
    code, _, err = invoke("worker", "--listen", "x", ZKS_LWIP_MTUU="1", ZKS_LWIP_WORKER_RESUM="1")
    assert code == 2
    assert "ZKS_LWIP_MTUU is none of ours, and not heeded: did you mean ZKS_LWIP_MTU?" in err
    assert "did you mean ZKS_LWIP_WORKER_RESUME?" in err
    known = {"ZKS_LWIP_MTU": "1", "ZKS_LWIP_RUN_MTU": "1", "ZKS_LWIP_STATUS_JSON": "1"}
    known |= {"ZKS_LWIP_WORKER_CONFIG": os.devnull, "ZKS_LWIP_WORKER_ADDRESS": "x"}
    _, _, err = invoke("worker", "--listen", "x", **known)
    assert "none of ours" not in err


def test_other_commands_have_variables_too() -> None:
    code, _, err = invoke("pause", ZKS_LWIP_PAUSE_FOR="forever")
    assert code == 2 and "--for forever" in err


def test_help_needs_no_file_in_order(file: Path) -> None:
    write(file, "mtu")
    for arguments in (("--config", str(file), "--help"), ("--help", "--config", str(file))):
        code, out, _ = invoke("connect", *arguments)
        assert code == 0 and "Settings:" in out


def test_help_reads_no_toml() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from zks_lwip.cli import main\n"
        "CliRunner().invoke(main, ['--help']); print('tomllib' in sys.modules)"
    )
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"


def test_options_are_grouped() -> None:
    for name, titles in {
        "connect": ["The worker:", "What is captured, and its DNS:", "The host:", "Limits:"],
        "proxy": ["Clients:", "The worker:", "Limits:"],
        "worker": ["Clients:", "What they reach:", "Limits:"],
    }.items():
        _, out, _ = invoke(name, "--help")
        lines = out.splitlines()
        ends = ["Settings:", "Output:", "Other options:"]
        assert all(title in lines for title in [*titles, *ends])
        assert [line for line in lines if line in ends] == ends


def test_check_tells_all_that_is_wrong(file: Path) -> None:
    write(file, "mtuu = 1\nmtu = ''\n[profile.home]\ntun = 1")
    code, out, err = invoke("config", "check", str(file))
    assert code == 2 and out == ""
    assert err.count("\n") == 3 and all(f"zks-lwip: {file}: " in x for x in err.splitlines())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[profile.home]\nmtu = 99", "profile.home.mtu 99 is out of range"),
        ("[worker]\nallow = '10.0.0.1/8'", "worker.allow 10.0.0.1/8: "),
        ("[worker]\nlisten = 'x'", "worker.listen x: "),
        ("[worker]\nmax_streams = 0", "worker.max_streams: 0 is not in the range"),
        ("[worker]\ntoken_file = 'no'", "no: No such file"),
        ("[proxy]\nlisten = '0.0.0.0:1'", "proxy.listen 0.0.0.0 is beyond loopback"),
        ("[proxy]\npassword_file = 'no'", "proxy.password_file {folder}/no: No such file"),
        ("bypass = '10.0.0.1/8'", "bypass 10.0.0.1/8: "),
        ("[run]\ndns_static = 'x'", "run.dns_static "),
        ("publish = ['8080:80', 'x']", "publish 'x'"),
        ("mtu", "line 1, column 4"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="connect")
def test_check_judges_values(file: Path, text: str, said: str) -> None:
    write(file, text)
    code, out, err = invoke("config", "check", str(file), ZKS_LWIP_MTU="1400")
    assert code == 2 and out == "" and said.format(folder=file.parent) in err
    assert "Traceback" not in err and os.environ.get("ZKS_LWIP_MTU") is None


def test_check_is_content(file: Path, tmp_path: Path) -> None:
    write(tmp_path / "token", "sesame")
    write(file, "token_file = 'token'\n[profile.a]\nworker = 'wss://a.example'\n[run]\nmtu = 1300")
    assert invoke("config", "check", str(file)) == (0, f"{file}: in order\n", "")
    code, out, err = invoke("config", "check", str(file.with_name("none")))
    assert code == 2 and out == "" and "No such file" in err


def test_show_has_four_commands() -> None:
    code, _, err = invoke("config", "show", "status")
    assert code == 2 and "'status' has no settings" in err


def test_words_that_were_nearly_right() -> None:
    for word, said in {
        "conect": "There is no command 'conect'. Did you mean `connect`?",
        "stauts": "Did you mean `status`?",
        "xyzzy": "There is no command 'xyzzy'. `--help` shows those that there are.",
    }.items():
        code, _, err = invoke(word)
        assert code == 2 and said in err
    code, _, err = invoke("worker", "--listne", "x")
    assert code == 2 and "--listen" in err


def test_the_proxy_listens_once() -> None:
    code, _, err = invoke("proxy", "--listen", "127.0.0.1:1", "--listen", "127.0.0.1:2")
    assert code == 2 and "'--listen': it is given twice" in err


def test_the_example_is_in_order() -> None:
    example = Path(__file__).parents[3] / "examples" / "zks_lwip.toml"
    assert invoke("config", "check", str(example)) == (0, f"{example}: in order\n", "")
    commented = "\n".join(
        line.removeprefix("# ") if re.match(r"# (\[|[a-z_]+ = )", line) else line
        for line in example.read_text(encoding="utf-8").splitlines()
    )
    assert list(faults(SettingsFile(example, tomllib.loads(commented)))) == []
