"""The file of names and passwords."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zks_lwip.errors import ConfigError
from zks_lwip.proxy import ProxyConfig
from zks_lwip.proxy.passwords import PasswordFile


def written(path: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return path


def test_who_is_known(tmp_path: Path) -> None:
    text = "# ours\n\nme:secret: with a colon \nyou:zwölf\r\nme:another\n"
    file = PasswordFile(written(tmp_path / "p", text))
    assert file.names == {"me", "you"}
    assert file.check(b"me", b"secret: with a colon ") == "me"
    assert file.check(b"me", b"another") == "me"
    assert file.check(b"you", "zwölf".encode()) == "you"
    for name, password in ((b"me", b"secret"), (b"you", b"another"), (b"", b""), (b"# ours", b"")):
        assert file.check(name, password) is None
    assert file.check(b"me:secret", b" with a colon ") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no line"),
        ("# nothing\n", "has no line"),
        ("me\n", "line 1: write NAME:PASSWORD"),
        ("a:b\n:x\n", "line 2: write NAME:PASSWORD"),
        ("me:\n", "line 1: write NAME:PASSWORD"),
        ("me:" + "x" * 256, "of 1 to 255 bytes"),
        (b"me:\xff\n", "line 1: it is no UTF-8"),
        (b"x" * (1 << 20) + b":y", "larger than 1 MiB"),
        ("a:b\n" * 4097, "more than 4096 lines"),
    ],
)
def test_what_is_wrong_is_said_and_not_repeated(
    tmp_path: Path, text: str | bytes, said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        PasswordFile(written(tmp_path / "p", text))
    assert caught.value.option == "password_file" and "xxx" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        PasswordFile(tmp_path / "p")


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
@pytest.mark.parametrize("mode", [0o604, 0o602, 0o644])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigError, match=f"mode {mode:03o}.*chmod 600"):
        PasswordFile(written(tmp_path / "p", "me:secret", mode))
    assert PasswordFile(written(tmp_path / "p", "me:secret", 0o640)).names == {"me"}


def test_what_is_read_again(tmp_path: Path) -> None:
    file = PasswordFile(written(tmp_path / "p", "me:secret"))
    written(tmp_path / "p", "nothing")
    with pytest.raises(ConfigError):
        file.reload()
    assert file.check(b"me", b"secret") == "me"
    written(tmp_path / "p", "you:secret")
    file.reload()
    assert file.check(b"me", b"secret") is None and file.names == {"you"}


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "2001:db8::1"])
def test_it_does_not_serve_anyone(host: str) -> None:
    with pytest.raises(ConfigError, match="beyond loopback") as caught:
        ProxyConfig(host=host)
    assert caught.value.option == "listen"
    assert ProxyConfig(host=host, password_file=Path("p")).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1"])
def test_loopback_needs_no_password(host: str) -> None:
    assert ProxyConfig(host=host).password_file is None
