"""Where files of settings are, how they are read, and which are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zks_lwip.errors import ConfigError
from zks_lwip.settings.files import home_directory, read_source, user_file

ROOT = os.name == "posix" and os.geteuid() == 0


def written(path: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return path


def refused(path: Path, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        read_source(path, required=True, environ=environ or {}, warn=pytest.fail)
    return str(caught.value)


def test_the_users_file_is_under_xdg_config_home(tmp_path: Path) -> None:
    found = user_file({"XDG_CONFIG_HOME": str(tmp_path), "HOME": "/elsewhere"})
    assert found == tmp_path / "zks_lwip" / "config.toml"


@pytest.mark.skipif(os.name != "posix", reason="HOME")
def test_a_relative_xdg_config_home_is_none() -> None:
    found = user_file({"XDG_CONFIG_HOME": "here", "HOME": "/home/me"})
    home = "/root" if ROOT else "/home/me"
    assert found == Path(home, ".config/zks_lwip/config.toml")


@pytest.mark.skipif(not ROOT, reason="root")
def test_roots_home_is_roots_own() -> None:
    """sudo may keep HOME: it is another user's."""
    assert home_directory({"HOME": "/home/me"}) == Path("/root")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert read_source(tmp_path / "none", required=False, environ={}, warn=pytest.fail) is None
    assert (
        read_source(tmp_path / "none" / "x", required=False, environ={}, warn=pytest.fail) is None
    )
    assert refused(tmp_path / "none").startswith(f"{tmp_path / 'none'}: No such file")
    assert ("Is a directory" if os.name == "posix" else "Permission denied") in refused(tmp_path)


def test_a_file_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "a", b"\xef\xbb\xbfmtu = 1400\r\n[connect]\r\nlan = 'block'\r\n")
    source = read_source(path, required=True, environ={}, warn=pytest.fail)
    assert source is not None and source.path == path
    assert source.table == {"mtu": 1400, "connect": {"lan": "block"}}


@pytest.mark.skipif(os.name != "posix", reason="pipes")
def test_a_pipe_is_read() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"token = 'sesame'")
    os.close(writing)
    try:
        source = read_source(
            Path(f"/dev/fd/{reading}"), required=True, environ={}, warn=pytest.fail
        )
    finally:
        os.close(reading)
    assert source is not None and source.table == {"token": "sesame"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mtu = \n", ", line 1, column 7: no valid TOML: Invalid value."),
        ("a = 1\nb = 2\nmtu 1400\n", ", line 3, column 5: no valid TOML: Expected '='"),
        ("mtu = 1\nmtu = 2\n", "line 2, column 8: no valid TOML: Cannot overwrite a value."),
        ("worker = 'wss://a'\n[worker]\n", "belongs into [connect], [run], [proxy] or a profile"),
        ("[profile.a]\nworker = 'wss://a'\n[profile.a.worker]\n", "belongs into [connect], [run]"),
        ('a = 1\nb = "', ", line 2, column 6 (its end): no valid TOML: Unterminated string"),
        ("a = " + "[" * 100_000, "nested too deep"),
        ("a = " + "9" * 5000, "no valid TOML"),
        (b"a = 1\nb = '\xff'\n", ", line 2: it is no UTF-8 text."),
        ("# " + "x" * (1 << 20), "larger than 1 MiB"),
        ("\0", "line 1, column 1: no valid TOML"),
    ],
)
def test_what_is_no_toml_is_refused_with_its_place(
    tmp_path: Path, text: str | bytes, said: str
) -> None:
    told = refused(written(tmp_path / "a.toml", text))
    assert told.startswith(str(tmp_path / "a.toml")) and said in told


POSIX = pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")


@POSIX
@pytest.mark.parametrize("text", ["token = 'sesame'", "[profile.home.connect]\ntoken='sesame'"])
@pytest.mark.parametrize("mode", [0o604, 0o644])
def test_a_file_with_a_token_that_others_may_read_is_refused(
    tmp_path: Path, text: str, mode: int
) -> None:
    told = refused(written(tmp_path / "a", text, mode))
    assert told.startswith(f"{tmp_path}/a: it holds a token, and others may read")
    assert f"mode {mode:03o}" in told and f"chmod 600 {tmp_path}/a" in told
    assert "sesame" not in told
    written(tmp_path / "a", "token_file = 'x'", mode)
    assert read_source(tmp_path / "a", required=True, environ={}, warn=pytest.fail) is not None


@POSIX
def test_a_file_with_a_token_that_its_group_may_read_is_told(tmp_path: Path) -> None:
    path = written(tmp_path / "a", "token = 'sesame'", 0o640)
    told: list[str] = []
    assert read_source(path, required=True, environ={}, warn=told.append) is not None
    assert told == [
        f"{path} can be read or written by its group (mode 640); type: chmod 600 {path}"
    ]


@pytest.mark.skipif(not ROOT, reason="root")
def test_root_does_not_do_what_others_may_have_written(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    path = written(place / "a", "mtu = 1400")
    sudo = {"SUDO_UID": "1000", "SUDO_GID": "1000"}
    assert read_source(path, required=True, environ={}, warn=pytest.fail) is not None

    os.chown(path, 1000, 1000)
    assert f"{path}: root does not do" in refused(path) and "it is of user 1000" in refused(path)
    assert read_source(path, required=True, environ=sudo, warn=pytest.fail) is not None
    assert "is of user 1000" in refused(path, {"SUDO_UID": "1001"})
    path.chmod(0o660)  # of the private group of the user who is root now
    assert read_source(path, required=True, environ=sudo, warn=pytest.fail) is not None
    os.chown(path, 0, 0)
    path.chmod(0o646)
    assert "it may be written by others (mode 646)" in refused(path)
    path.chmod(0o644)

    os.chown(place, 1000, 0)
    assert f"{place} is of user 1000" in refused(path)
    os.chown(place, 0, 0)
    place.chmod(0o777)
    assert f"{place} may be written by others (mode 777)" in refused(path)
    place.chmod(0o1777)  # as /tmp is: others cannot put another file in its place
    assert read_source(path, required=True, environ={}, warn=pytest.fail) is not None
    place.chmod(0o755)

    elsewhere = tmp_path / "elsewhere"
    elsewhere.symlink_to(path)
    assert read_source(elsewhere, required=True, environ={}, warn=pytest.fail) is not None
    os.chown(path, 1000, 0)
    assert "is of user 1000" in refused(elsewhere)
    os.chown(path, 0, 0)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "link").symlink_to(path)
    assert read_source(theirs / "link", required=True, environ={}, warn=pytest.fail) is not None
    os.chown(theirs, 1000, 0)
    assert f"{theirs} is of user 1000" in refused(theirs / "link")
