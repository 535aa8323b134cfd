"""The worker's token file."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from zks_lwip.errors import ConfigError
from zks_lwip.worker.auth import TokenFile
from zks_lwip.worker.grants import Grant

ALICE = "a" * 32
BOB = "b" * 32


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_names_bare_tokens_and_comments(tmp_path: Path) -> None:
    path = write(tmp_path / "t", f"# people\n\nalice {ALICE}\n  {BOB}  \n")
    tokens = TokenFile(path)
    alice = tokens.check(b"Bearer " + ALICE.encode())
    bob = tokens.check(b"bearer  " + BOB.encode())
    assert alice is not None and alice.name == "alice"
    assert bob is not None and bob.name == "line-4"


def test_a_token_in_base64_is_no_limit(tmp_path: Path) -> None:
    for token in ("cmF0ZQ" + "a" * 20 + "==", "abcdefgh==", "x=", "1rate=" + "a" * 20):
        tokens = TokenFile(write(tmp_path / "t", f"alice {token} rate=2M"))
        found = tokens.check(b"Bearer " + token.encode())
        assert found is not None and found.name == "alice"


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer " + b"a" * 31,
        b"Bearer " + b"a" * 33,
        b"Basic " + b"a" * 32,
        b"a" * 32,
        b"Bearer alice",
    ],
)
def test_wrong(tmp_path: Path, header: bytes | None) -> None:
    assert TokenFile(write(tmp_path / "t", f"alice {ALICE}")).check(header) is None


def test_every_token_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hmac

    calls: list[bytes] = []
    real = hmac.compare_digest

    def counting(a: bytes, b: bytes) -> bool:
        calls.append(a)
        return real(a, b)

    tokens = TokenFile(write(tmp_path / "t", f"{ALICE}\n{BOB}\n{'c' * 32}"))
    monkeypatch.setattr(hmac, "compare_digest", counting)
    for header in (None, b"Bearer " + ALICE.encode(), b"Bearer x"):
        calls.clear()
        tokens.check(header)
        assert len(calls) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no token"),
        ("# only\n", "no token"),
        (f"alice {ALICE} x", "line 1"),
        (f"{ALICE} alice {ALICE}", "line 1: name and token may be followed by rate="),
        (f"alice {ALICE} rate=1", "line 1: rate is bytes a second, 8,000 at least"),
        (f"alice {ALICE} rate=2m", "line 1: rate is"),
        (f"alice {ALICE} streams=0", "line 1: streams is a number"),
        (f"alice {ALICE} streams=٣", "line 1: streams is a number"),
        (f"alice {ALICE} sessions=2 sessions=3", "line 1: sessions is given twice"),
        (f"alice {ALICE} expires=tomorrow", "line 1: expires is a date"),
        (f"{ALICE} rate=2M", "line 1: limits need a name and a token"),
        (f"{ALICE}\nexpires=2027-01-31", "line 2: limits need a name and a token"),
        (f"rate=2M {ALICE}", "line 1: limits need a name and a token"),
        (f"{ALICE} Sessions=2 rate=2M", "line 1: limits need a name and a token"),
        (f"{ALICE} rates=2M", "line 1: there is no such limit: did you mean rate="),
        (f"{ALICE} Stream=20", "line 1: there is no such limit: did you mean streams="),
        (f"{ALICE} bandwidth=2000000000", "line 1: there is no such limit; limits need"),
        (f"expiry=2027-01-31 {ALICE}", "line 1: there is no such limit: did you mean expires="),
        (f"alice {ALICE} rates=2M", "may be followed by .* only: did you mean rate="),
        (f"{ALICE}\nbob {ALICE}", "same token"),
        ("bob tök" + "e" * 20, "line 1"),
        ("x" * 513, "line 1"),
    ],
)
def test_malformed(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as info:
        TokenFile(write(tmp_path / "t", text))
    assert ALICE not in str(info.value)


def test_missing_and_binary(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        TokenFile(tmp_path / "none")
    (tmp_path / "b").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "b").chmod(0o600)
    with pytest.raises(ConfigError, match="UTF-8"):
        TokenFile(tmp_path / "b")


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_refuses_open_permissions_and_warns_of_the_group_and_short_tokens(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for mode in (0o604, 0o602, 0o644):
        with pytest.raises(ConfigError, match=f"mode {mode:03o}.*chmod 600") as caught:
            TokenFile(write(tmp_path / "open", ALICE, mode))
        assert caught.value.option == "token_file" and ALICE not in str(caught.value)
    with caplog.at_level(logging.WARNING):
        TokenFile(write(tmp_path / "ok", ALICE))
        assert not caplog.records
        TokenFile(write(tmp_path / "group", ALICE, 0o640))
        assert "chmod 600" in caplog.text
        caplog.clear()
        TokenFile(write(tmp_path / "short", "alice secret"))
        assert "short" in caplog.text
        assert "secret" not in caplog.text


def test_reload(tmp_path: Path) -> None:
    path = write(tmp_path / "t", f"alice {ALICE}\nbob {BOB}")
    tokens = TokenFile(path)
    bob = tokens.check(b"Bearer " + BOB.encode())
    write(path, f"alicia {ALICE}\n")
    assert tokens.reload() == {bob}
    assert tokens.check(b"Bearer " + BOB.encode()) is None
    write(path, "")
    with pytest.raises(ConfigError):
        tokens.reload()
    assert tokens.check(b"Bearer " + ALICE.encode()) is not None


def test_a_byte_order_mark_makes_no_token_of_a_comment(tmp_path: Path) -> None:
    tokens = TokenFile(write(tmp_path / "t", f"\ufeff# people\nalice {ALICE}\n"))
    assert [each.name for each in tokens.principals] == ["alice"]
    assert tokens.check(b"Bearer people") is None


def test_what_a_line_grants(tmp_path: Path) -> None:
    text = f"alice {ALICE} rate=2M streams=100 sessions=2 expires=2027-01-31\nbob {BOB}\n"
    path = write(tmp_path / "t", text)
    tokens = TokenFile(path)
    alice, bob = (tokens.check(b"Bearer " + each.encode()) for each in (ALICE, BOB))
    assert alice is not None and bob is not None
    grant = tokens.grant(alice)
    assert (grant.rate, grant.streams, grant.sessions) == (2_000_000, 100, 2) and grant.limited
    end = datetime(2027, 1, 31, tzinfo=UTC).timestamp()
    assert not grant.expired(end - 1) and grant.expired(end)
    assert tokens.grant(bob) == Grant() and not Grant().limited and not Grant().expired(1e12)
    write(path, f"alice {ALICE} rate=250k expires=2027-01-31T18:00+01:00\n")
    tokens.reload()
    assert tokens.grant(alice).rate == 250_000
    assert tokens.grant(alice).expires == end + 17 * 3600


@pytest.mark.skipif(os.name != "posix", reason="pipes")
def test_pipe_is_read_once() -> None:
    reader, writer = os.pipe()
    os.write(writer, ALICE.encode())
    os.close(writer)
    tokens = TokenFile(f"/dev/fd/{reader}")
    os.close(reader)
    with pytest.raises(ConfigError, match="pipe"):
        tokens.reload()
    assert tokens.check(b"Bearer " + ALICE.encode()) is not None


def test_token_is_not_shown(tmp_path: Path) -> None:
    tokens = TokenFile(write(tmp_path / "t", f"alice {ALICE}"))
    shown = repr(tokens.principals) + repr(vars(tokens))
    assert ALICE not in shown
    assert tokens.principals[0].digest.hex() not in shown
