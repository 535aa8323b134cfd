"""What is wrong with a file: each fault names the file, the key, and what to write."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from zks_lwip.settings.files import SettingsFile
from zks_lwip.settings.judge import convert, faults
from zks_lwip.settings.keys import Key, Kind

FILE = Path("/etc/f.toml").absolute()  # on Windows with a drive


def judged(text: str) -> list[str]:
    return list(faults(SettingsFile(FILE, tomllib.loads(text))))


RIGHT = """
worker = "wss://a.example"
token_file = ["a", "b"]
grace = 5
mark = 0x7a6b
bypass = []
dns_block = "names"
listen = "127.0.0.1:1"
[connect]
allow_inbound = [22, 80]
always_on = true
mark = "0x7a6b"
[run]
mtu = 1400
[proxy]
password_file = "p"
[profile.home]
worker = ["wss://a.example", "wss://b.example"]
[profile.server.worker]
listen = "[::]:443"
session_prefix = ""
[profile."with space"]
"""


def test_nothing_is_wrong() -> None:
    assert judged(RIGHT) == []
    assert judged("") == []
    assert judged("[worker]\nlisten = '0.0.0.0:1'\nallow = '10.0.0.0/8'") == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mtuu = 1", "unknown key 'mtuu': did you mean 'mtu'?"),
        ("token-file = 'x'", "unknown key 'token-file': did you mean 'token_file'?"),
        ("Worker = 'x'", "unknown key 'Worker': did you mean 'worker'?"),
        ("[conect]", "unknown key 'conect': did you mean 'connect'?"),
        ("[profiles.home]", "unknown key 'profiles': did you mean 'profile'?"),
        ("[run]\nbypas = 'x'", "unknown key 'bypas' in [run]: it belongs into [connect]"),
        ("[run]\nbypass = 'x'", "unknown key 'bypass' in [run]: it belongs into [connect]"),
        ("tls_cert = 'x'", "unknown key 'tls_cert': it belongs into [worker]"),
        ("[profile.home]\nmtuu=1", "unknown key 'mtuu' in [profile.home]: did you mean 'mtu'?"),
        ("[profile.home.run]\nmtuu=1", "'mtuu' in [profile.home.run]: did you mean 'mtu'?"),
        ("xyzzy = 1", "unknown key 'xyzzy'. `config show` lists"),
        ("profile = 'home'", "profile has to be a section: write [profile.NAME]."),
        ("profile.home = 1", "profile.home has to be a section"),
        ("config = 'x'", "unknown key 'config'"),
        ("parent_fd = 1", "unknown key 'parent_fd'"),
    ],
)
def test_unknown_keys(text: str, said: str) -> None:
    if "bypas =" in text:
        said = "unknown key 'bypas' in [run]"
    (told,) = judged(text)
    assert told.startswith(f"{FILE}: ") and said in told


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mtu = '1400'", "mtu has to be an integer, and is a string: write mtu = 1400"),
        ("mtu = true", "mtu has to be an integer, and is true or false"),
        ("mtu = 1.5", "mtu has to be an integer, and is a number"),
        ("mtu = [1400]", "mtu has to be an integer, and is an array"),
        ("mtu = 2020-01-01", "mtu has to be an integer, and is a date or a time"),
        (f"mtu = {1 << 70}", "mtu has to be an integer"),
        ("grace = 'x'", "grace has to be a number, and is a string: write grace = 10.0"),
        ("grace = nan", "grace has to be a number"),
        ("grace = inf", "grace has to be a number"),
        ("stats = 1", "stats has to be true or false, and is an integer: write stats = true"),
        ("stats = 'yes'", "stats has to be true or false, and is a string"),
        ("tun = 1", "tun has to be a string, and is an integer"),
        ("bypass = 1", "bypass has to be a string, or an array of them, and is an integer"),
        ("bypass = ['a', 1]", "bypass has to be a string, or an array of them, and is an integer"),
        ("bypass = [['a']]", "and is an array"),
        ("ca_file = ['a']", "ca_file has to be a string (a path), and is an array"),
        ("ipv6 = 6", 'and is an integer: write ipv6 = "auto"'),
        ("ipv6 = 'blok'", "ipv6 'blok' is not known: did you mean 'block'?"),
        ("ipv6 = 'xyz'", "ipv6 'xyz' is not known: give auto or tunnel or block"),
        ("mark = 1.0", "mark has to be an integer or a string"),
        ("[worker]\nallow = 1", "worker.allow has to be a string, or an array"),
        ("[profile.a.run]\nmtu = ''", "profile.a.run.mtu has to be an integer"),
        ("[mtu]", "mtu has to be an integer, and is a table"),
        ("worker = ''", "worker is empty: leave the key out"),
        ("token_file = ''", "token_file is empty"),
        ('tun = "a\\u0000b"', "tun holds a NUL"),
        ("token = 'a'\ntoken_file = 'b'", "token and token_file exclude each other"),
        ("[profile.x]\ntoken = 'a'\ntoken_file = 'b'", "exclude each other in [profile.x]"),
    ],
)
def test_wrong_values(text: str, said: str) -> None:
    (told,) = judged(text)
    assert told.startswith(f"{FILE}: ") and said in told


def test_all_faults_are_told() -> None:
    assert len(judged("a = 1\nmtu = ''\n[run]\nb = 1\n[profile.x]\nc = 1")) == 4


def test_paths_begin_beside_the_file_or_at_home(tmp_path: Path) -> None:
    path = Key(Kind.PATH)
    home = {"HOME": str(tmp_path)}
    root = FILE.parent.parent
    assert convert("a/b", path, FILE, home) == root / "etc/a/b"
    assert convert("/a/b", path, FILE, home) == root / "a/b"
    assert convert(["a", "/b"], Key(Kind.PATH, many=True), FILE, home) == [
        root / "etc/a",
        root / "b",
    ]
    assert convert("~/a", path, FILE, home).name == "a"
    assert convert("~/a", path, FILE, home).is_absolute()
    assert convert("~a", path, FILE, home) == root / "etc/~a"


def test_values_are_as_commands_take_them() -> None:
    assert convert("a", Key(Kind.TEXT, many=True), FILE, {}) == ["a"]
    assert convert(5, Key(Kind.NUMBER), FILE, {}) == 5.0
    assert convert(0x7A6B, Key(Kind.MARK), FILE, {}) == "31339"
