"""Which of several files, sections and profiles is in force, and what the library makes of it."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from zks_lwip import read_config
from zks_lwip.errors import ConfigError
from zks_lwip.settings.layers import FileSettings, read_settings


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return path


def settings(tmp_path: Path, system: str, user: str) -> FileSettings:
    written(tmp_path / "system.toml", system)
    written(tmp_path / "zks_lwip" / "config.toml", user)
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    return read_settings(None, environ, system=tmp_path / "system.toml")


def mtu(
    found: FileSettings, command: str = "connect", profile: str | None = None
) -> tuple[int, str]:
    setting = found.select(command, profile, {})["mtu"]
    return setting.value, setting.key


SYSTEM = "mtu = 1301\n[connect]\nmtu = 1302\n[profile.p]\nmtu=1303\n[profile.p.connect]\nmtu=1304"
USER = SYSTEM.replace("13", "14")


@pytest.mark.parametrize(
    ("system", "user", "profile", "wanted"),
    [
        ("mtu = 1301", "", None, (1301, "mtu")),
        ("mtu = 1301", "mtu = 1401", None, (1401, "mtu")),
        ("[connect]\nmtu = 1302", "mtu = 1401", None, (1401, "mtu")),
        (SYSTEM, "", None, (1302, "connect.mtu")),
        (SYSTEM, USER, None, (1402, "connect.mtu")),
        (SYSTEM, USER, "p", (1404, "profile.p.connect.mtu")),
        (SYSTEM, "mtu = 1401", "p", (1304, "profile.p.connect.mtu")),
        ("[profile.p]\nmtu = 1303", "[connect]\nmtu = 1402", "p", (1303, "profile.p.mtu")),
        ("mtu = 1301", "[profile.p]\nmtu = 1403", None, (1301, "mtu")),
    ],
)
def test_which_is_in_force(
    tmp_path: Path, system: str, user: str, profile: str | None, wanted: tuple[int, str]
) -> None:
    assert mtu(settings(tmp_path, system, user), profile=profile) == wanted


def test_a_command_takes_what_it_knows(tmp_path: Path) -> None:
    found = settings(tmp_path, "mtu = 1300\nlan = 'block'\nlisten = '127.0.0.1:1'", "")
    assert found.select("connect", None, {}).keys() == {"mtu", "lan"}
    assert found.select("run", None, {}).keys() == {"mtu"}
    assert found.select("proxy", None, {}).keys() == {"listen"}


def test_what_stands_outside_of_sections_is_not_for_the_worker(tmp_path: Path) -> None:
    """The client's token file would say who may use the worker."""
    found = settings(tmp_path, "token_file = 'a'\nresume = 5", "[worker]\nlisten = '127.0.0.1:1'")
    assert found.select("worker", None, {}).keys() == {"listen"}


def test_a_worker_is_an_address_or_a_section(tmp_path: Path) -> None:
    found = settings(tmp_path, "worker = 'wss://a'", "[worker]\nresume = 5")
    assert found.select("connect", None, {})["worker"].value == ["wss://a"]
    assert found.select("worker", None, {})["resume"].value == 5


def test_a_token_and_its_file_give_way_to_each_other(tmp_path: Path) -> None:
    found = settings(tmp_path, "token = 'a'", "token_file = 'b'\n[profile.p]\ntoken = 'c'")
    assert found.select("run", None, {}).keys() == {"token_file"}
    assert found.select("run", "p", {}).keys() == {"token"}


def test_the_file_that_is_asked_for_is_read_alone(tmp_path: Path) -> None:
    settings(tmp_path, "mtu = 1301", "mtu = 1401")
    path = written(tmp_path / "named.toml", "tun = 'x'")
    found = read_settings(path, {"XDG_CONFIG_HOME": str(tmp_path)}, system=tmp_path / "system.toml")
    assert found.looked_for == (path,)
    assert found.select("run", None, {}).keys() == {"tun"}


def test_a_profile_that_is_not_there(tmp_path: Path) -> None:
    found = settings(tmp_path, "[profile.home]\n[profile.work]", "")
    assert found.profiles == ["home", "work"]
    with pytest.raises(ConfigError, match="no profile 'hoem': did you mean 'home'"):
        found.select("connect", "hoem", {})
    with pytest.raises(ConfigError, match="no profile 'xyz': there are home, work"):
        found.select("connect", "xyz", {})
    with pytest.raises(ConfigError, match=r"\[profile.x\] into .*system.toml or .*config.toml"):
        settings(tmp_path, "", "").select("connect", "x", {})


def test_the_library_reads_a_profile(tmp_path: Path) -> None:
    token = written(tmp_path / "token", "sesame\n")
    path = written(
        tmp_path / "f.toml",
        f"""
        mtu = 1400
        dns_static = "a.example=192.0.2.1"
        bypass = ["10.0.0.0/8"]
        stats = true
        yes = true
        listen = "127.0.0.1:9"
        [connect]
        allow_inbound = 22
        [run]
        mtu = 1300
        [profile.home]
        worker = "wss://home.example"
        token_file = "{token.name}"
        [profile.both]
        worker = ["wss://a.example", "wss://b.example"]
        token = ["one", "two"]
        """,
    )
    plain = read_config(file=path)
    assert plain.embedded and plain.mtu == 1400 and plain.host.inbound == (22,)
    assert plain.host.bypass == (ipaddress.ip_network("10.0.0.0/8"),)
    home = read_config("home", file=str(path))
    assert str(home.worker) == "wss://home.example/tunnel" and home.token == "sesame"
    both = read_config("both", file=path)
    assert [each.token for each in both.workers] == ["one", "two"]


@pytest.mark.parametrize(
    ("text", "said", "option"),
    [
        ("mtu = 99", "f.toml: `mtu` 99 is out of range", "mtu"),
        ("bypass = '10.0.0.1/8'", "`host.bypass` 10.0.0.1/8: .*write 10.0.0.0/8", "host.bypass"),
        ("mtuu = 99", "f.toml: unknown key 'mtuu': did you mean 'mtu'", None),
        ("worker = 'wss://a'\ntoken = 'ses ame'", "`token` has characters", "token"),
        ("worker = 'wss://a'\ntoken = ['a', 'b']", "`token` is given 2 times for 1", "token"),
    ],
)
def test_the_library_names_the_file(
    tmp_path: Path, text: str, said: str, option: str | None
) -> None:
    path = written(tmp_path / "f.toml", text)
    with pytest.raises(ConfigError, match=said) as caught:
        read_config(file=path)
    assert caught.value.option == option and "ses ame" not in str(caught.value)
