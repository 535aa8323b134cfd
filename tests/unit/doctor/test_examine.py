"""What ``doctor`` says where there is no Linux."""

from __future__ import annotations

import sys
from contextlib import aclosing

import pytest

from zks_lwip.cli.flags import name_flags
from zks_lwip.config import VpnConfig
from zks_lwip.doctor import examine


async def test_elsewhere_it_says_which_commands_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """By names that the command line does not take for options."""
    monkeypatch.setattr(sys, "platform", "plan9")
    async with aclosing(examine(VpnConfig(worker=None))) as findings:
        kernel = [found.text async for found in findings if found.name == "kernel"]
    (text,) = kernel
    assert "worker and proxy work" in text and name_flags(text) == text
