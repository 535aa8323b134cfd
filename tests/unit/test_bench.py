"""The benchmarks can be started: those that need namespaces as far as their help."""

from __future__ import annotations

import importlib

import pytest

from tests.bench import session
from tests.bench.__main__ import main, names


@pytest.mark.parametrize("name", names())
def test_each_takes_arguments(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"tests.bench.{name}").main(["--help"])
    assert ended.value.code == 0
    assert f"python -m tests.bench {name}" in capsys.readouterr().out


def test_session(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "SECONDS", session.SECONDS)
    assert main(["session", "--seconds", "0.01"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9 and all(line.split()[-1] for line in lines)


def test_what_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["no-such-thing"]) == 2
    assert "session" in capsys.readouterr().out
