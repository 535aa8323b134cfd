"""What a host remembers to take back, and to mend, where nft(8) and others fail as ordered."""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("hosts are set up on Linux", allow_module_level=True)

from tests.kits.host import FakeSystem
from tests.unit.host.test_plan import LAPTOP
from zks_lwip.errors import HostError, PrivilegeError
from zks_lwip.host.apply import Applier, undo_all
from zks_lwip.host.linux.host import Host
from zks_lwip.host.linux.table import Table, table_presence
from zks_lwip.host.plan.config import HostConfig
from zks_lwip.host.plan.make import make_plan
from zks_lwip.host.plan.step import Step
from zks_lwip.host.plan.steps import Nftables, Route


def refuse_tables(call: tuple[Any, ...]) -> None:
    if call[0] == "load_table":
        raise HostError("as ordered")


@pytest.mark.parametrize("loaded", [True, False])
async def test_a_firewall_that_cannot_be_replaced_is_still_taken_back(
    loaded: bool, tmp_path: Path
) -> None:
    system = FakeSystem()
    config = HostConfig(state_dir=tmp_path)
    host = Host(make_plan(config, LAPTOP), open_system=lambda: system)
    if loaded:
        await host.start()
    system.refuse = refuse_tables
    with pytest.raises(HostError, match="as ordered"):
        if loaded:
            await host.update(replace(config, lan=False))
        else:
            await host.start()
    await host.stop()
    assert [call for call in system.calls if call[0] == "delete_table"] == (
        [("delete_table",)] if loaded else []
    )
    assert system.closed and list(tmp_path.iterdir()) == []


async def test_all_that_is_done_is_undone_in_reverse(tmp_path: Path) -> None:
    system = FakeSystem()
    plan = make_plan(HostConfig(state_dir=tmp_path), LAPTOP)
    seen: list[Step] = []
    host = Host(plan, lambda number, step: seen.append(step), open_system=lambda: system)
    await host.start()
    assert tuple(seen) == plan.steps
    done = len(system.calls)
    await host.stop()
    undone = [call[2] if call[0] == "netlink" else call[0] for call in system.calls[done:]]
    routes = 2
    rules = sum(call[:3] == ("netlink", "rule", "add") for call in system.calls)
    assert undone == [
        *["del"] * routes,
        "close_tun",
        *["del"] * (rules + routes),
        "write_sysctl",
        "delete_table",
    ]
    assert system.sysctls == {"net.ipv4.conf.all.src_valid_mark": "0"}


@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [
        (errno.EPERM, PrivilegeError, "CAP_NET_ADMIN"),
        (errno.EOPNOTSUPP, HostError, "CONFIG_IP_MULTIPLE_TABLES"),
        (errno.ENOMEM, HostError, "Cannot allocate memory"),
    ],
)
def test_what_fails_is_named_by_its_command(
    number: int, kind: type[Exception], message: str
) -> None:
    system = FakeSystem()

    def refuse(call: tuple[Any, ...]) -> None:
        raise OSError(number, "as ordered")

    system.refuse = refuse
    step = Route(4, 31339, 20000)
    with pytest.raises(kind, match=f"`ip -4 route replace unreachable .*{message}"):
        Applier(system).do(step)


def test_whatever_fails_the_rest_is_undone() -> None:
    system = FakeSystem()

    def refuse(call: tuple[Any, ...]) -> None:
        if call[0] == "delete_table":
            raise HostError("as ordered")

    system.refuse = refuse
    table, route = Nftables("x"), Route(4, 31339, 20000)
    assert undo_all([route, table, route], Applier(system).undo) == ["as ordered"]
    assert [call[1:3] for call in system.calls] == [("route", "del")]


class Nft:
    """Stands for nft(8) and its table."""

    def __init__(self) -> None:
        self.error: int | None = None
        self.listing = "table"
        self.first: list[str] = []
        """Listings that come before."""
        self.loaded: list[str] = []
        self.table = Table(self.load, self.list)

    def load(self, arguments: Sequence[str], text: str) -> str:
        error, self.error = self.error, None
        if error is not None:
            raise HostError("nft failed") from OSError(error, "as ordered")
        self.loaded.append(text)
        return ""

    def list(self, path: str) -> str:
        return self.first.pop(0) if self.first else self.listing


def test_a_table_is_not_deleted_where_nft_has_no_descriptor() -> None:
    """Packets may pass while one is deleted and made anew: only where nothing else helps."""
    nft = Nft()
    nft.table.load("rules")
    nft.error = errno.ENFILE
    with pytest.raises(HostError):
        nft.table.load("rules")
    nft.listing = "table with a chain of another's"
    nft.table.load("rules")
    assert sum("delete table" in text for text in nft.loaded) == 1
    assert "delete table" not in nft.loaded[0] + nft.loaded[1]


@pytest.mark.parametrize("first", [["changed"], ["table", "changed"]])
def test_what_is_done_to_a_table_before_it_is_listed_is_not_taken_for_ours(
    first: list[str],
) -> None:
    nft = Nft()
    nft.first = first
    nft.table.load("rules")
    assert nft.table.loaded == "table"


def test_a_table_that_could_not_be_listed_is_not_remembered_as_none() -> None:
    """Or it would not be missed when it has gone."""
    nft = Nft()
    nft.listing = ""
    nft.table.load("rules")
    assert nft.table.loaded is None


@pytest.mark.parametrize("number", [errno.EMFILE, None])
def test_a_table_that_cannot_be_looked_at_now_is_looked_at_again(number: int | None) -> None:
    """What was done to it meanwhile would be seen with the next change only."""

    def read(argv: list[str], *, patience: float) -> tuple[int, str]:
        cause = None if number is None else OSError(number, "as ordered")
        raise HostError("it cannot be run") from cause

    if number is None:
        assert table_presence("nft", None, "table", read=read) == (True, False)
    else:
        with pytest.raises(HostError):
            table_presence("nft", None, "table", read=read)
