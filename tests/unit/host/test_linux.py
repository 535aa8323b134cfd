"""What a host remembers to take back, and to mend, where nft(8) and others fail as ordered."""

from __future__ import annotations

import errno
import sys
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("hosts are set up on Linux", allow_module_level=True)

from tests.unit.host.test_plan import LAPTOP
from zks_lwip.errors import HostError
from zks_lwip.host import _apply, _observe
from zks_lwip.host.config import HostConfig
from zks_lwip.host.linux import Host, make_plan
from zks_lwip.host.steps import Nftables, Step


class Applier:
    """Stands for the one that changes the host."""

    device = hand = None

    def __init__(self) -> None:
        self.fails = False
        self.undone: list[Step] = []

    def do(self, step: Step) -> None:
        if self.fails:
            raise HostError("as ordered")

    def undo(self, step: Step, *, stays: bool = False) -> None:
        self.undone.append(step)


class Journal:
    record = None

    def append(self, step: Step) -> None:
        pass

    def finish(self) -> None:
        pass


@pytest.mark.parametrize("loaded", [True, False])
async def test_a_firewall_that_cannot_be_replaced_is_still_taken_back(loaded: bool) -> None:
    host: Any = Host(make_plan(HostConfig(mtu=1500), LAPTOP))
    host._applier, host._journal = applier, _ = Applier(), Journal()
    if loaded:
        host._do(0, Nftables("before"))
    applier.fails = True
    with pytest.raises(HostError, match="as ordered"):
        host._do(0, Nftables("after"))
    await host.stop()
    assert applier.undone == ([Nftables("")] if loaded else [])


class Nft:
    """Stands for nft(8) and its table."""

    def __init__(self) -> None:
        self.error: int | None = None
        self.listing = "table"
        self.first: list[str] = []
        """Listings that come before."""
        self.loaded: list[str] = []

    def load(self, arguments: list[str], text: str) -> str:
        error, self.error = self.error, None
        if error is not None:
            raise HostError("nft failed") from OSError(error, "as ordered")
        self.loaded.append(text)
        return ""

    def list(self, path: str) -> str:
        return self.first.pop(0) if self.first else self.listing


@pytest.fixture
def nft(monkeypatch: pytest.MonkeyPatch) -> Nft:
    nft = Nft()
    monkeypatch.setattr(_apply, "_nft", nft.load)
    monkeypatch.setattr(_apply, "list_table", nft.list)
    return nft


def test_a_table_is_not_deleted_where_nft_has_no_descriptor(nft: Nft) -> None:
    """Packets may pass while one is deleted and made anew: only where nothing else helps."""
    applier = _apply.Applier(Any)  # type: ignore[arg-type]
    applier.do(Nftables("rules"))
    nft.error = errno.ENFILE
    with pytest.raises(HostError):
        applier.do(Nftables("rules"))
    nft.listing = "table with a chain of somebody's"
    applier.do(Nftables("rules"))
    assert sum("delete table" in text for text in nft.loaded) == 1
    assert "delete table" not in nft.loaded[0] + nft.loaded[1]


@pytest.mark.parametrize("first", [["changed"], ["table", "changed"]])
def test_what_is_done_to_a_table_before_it_is_listed_is_not_taken_for_ours(
    nft: Nft, first: list[str]
) -> None:
    nft.first = first
    applier = _apply.Applier(Any)  # type: ignore[arg-type]
    applier.do(Nftables("rules"))
    assert applier.loaded == "table"


def test_a_table_that_could_not_be_listed_is_not_remembered_as_none(nft: Nft) -> None:
    """Or it would not be missed when it has gone."""
    nft.listing = ""
    applier = _apply.Applier(Any)  # type: ignore[arg-type]
    applier.do(Nftables("rules"))
    assert applier.loaded is None


@pytest.mark.parametrize("number", [errno.EMFILE, None])
def test_a_table_that_cannot_be_looked_at_now_is_looked_at_again(
    monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    """What was done to it meanwhile would be seen with the next change only."""

    def read_program(argv: list[str], *, patience: float) -> tuple[int, str]:
        cause = None if number is None else OSError(number, "as ordered")
        raise HostError("it cannot be run") from cause

    monkeypatch.setattr(_observe, "read_program", read_program)
    if number is None:
        assert _observe._table("nft", None, "table") == (True, False)
    else:
        with pytest.raises(HostError):
            _observe._table("nft", None, "table")
