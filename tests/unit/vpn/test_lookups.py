"""Addresses of worker and proxy: let out before they are used, and kept while there are no new."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from zks_lwip.config import VpnConfig, WorkerEndpoint, parse_worker_url
from zks_lwip.errors import HostError
from zks_lwip.tunnel.proxy import Proxy
from zks_lwip.vpn.lookups import LookUps

WORKER = parse_worker_url("wss://worker.example")


class Bench:
    """Look-ups whose resolver says what it is told."""

    def __init__(self, *, mark: int | None = 1, proxy: Proxy | None = None) -> None:
        self.answers: list[list[str]] = []
        self.asked: list[str] = []
        self.found: list[Sequence[str]] = []
        config = VpnConfig(worker=WORKER, proxy=proxy)
        self.lookups = LookUps(config, mark, self.on_found, system=self.ask)

    async def ask(self, name: str) -> list[str]:
        self.asked.append(name)
        if not self.answers:
            raise OSError(-2, "Name or service not known")
        return self.answers.pop(0)

    async def on_found(self, addresses: Sequence[str]) -> None:
        self.found.append(addresses)


async def test_the_last_addresses_are_given_while_there_are_no_new_ones() -> None:
    bench = Bench()
    with pytest.raises(OSError, match="not known"):
        await bench.lookups.resolve("worker.example")
    bench.answers = [["192.0.2.1"], ["192.0.2.2"]]
    assert await bench.lookups.resolve("worker.example") == ["192.0.2.1"]
    assert await bench.lookups.resolve("worker.example") == ["192.0.2.2"]
    assert await bench.lookups.resolve("worker.example") == ["192.0.2.2"], "of before"
    with pytest.raises(OSError):
        await bench.lookups.resolve("other.example")
    assert bench.found == [["192.0.2.1"], ["192.0.2.2"]]


async def test_the_proxy_is_looked_up_while_the_host_is_open() -> None:
    bench = Bench(proxy=Proxy("proxy.lan", 3128))
    with pytest.raises(HostError, match=r"proxy\.lan does not resolve \(Name or service not known"):
        await bench.lookups.find_proxy()
    bench.answers = [["10.0.0.1"]]
    assert await bench.lookups.find_proxy() == ("10.0.0.1",)
    asked = len(bench.asked)
    assert await bench.lookups.resolve("proxy.lan") == ["10.0.0.1"]
    assert len(bench.asked) == asked and bench.found == []


async def test_each_proxy_of_several_workers_is_looked_up_once() -> None:
    bench = Bench()
    workers = tuple(
        WorkerEndpoint(url=parse_worker_url(f"wss://{name}.example"), proxy=Proxy(proxy, 3128))
        for name, proxy in (("a", "one.lan"), ("b", "two.lan"), ("c", "one.lan"), ("d", "10.0.0.9"))
    )
    lookups = LookUps(VpnConfig(workers=workers), 1, bench.on_found, system=bench.ask)
    bench.answers = [["10.0.0.1"], ["10.0.0.2"]]
    assert await lookups.find_proxy() == ("10.0.0.1", "10.0.0.2")
    assert bench.asked == ["one.lan", "two.lan"]
    assert await lookups.resolve("two.lan") == ["10.0.0.2"]


@pytest.mark.parametrize(
    ("mark", "proxy"), [(1, None), (1, Proxy("10.0.0.1", 3128)), (None, Proxy("proxy.lan", 3128))]
)
async def test_no_proxy_has_to_be_looked_up(mark: int | None, proxy: Proxy | None) -> None:
    bench = Bench(mark=mark, proxy=proxy)
    assert await bench.lookups.find_proxy() == () and bench.asked == []


@pytest.mark.skipif(sys.platform != "linux", reason="others do not go by resolv.conf")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "names no server"),
        ("search lan\n", "names no server"),
        ("nameserver 127.0.0.53\n", "names 127.0.0.53"),
    ],
)
async def test_what_the_system_asks_is_said_where_it_finds_nothing(
    tmp_path: Path, text: str | None, words: str
) -> None:
    where, bench = tmp_path / "resolv.conf", Bench()
    if text is not None:
        where.write_text(text)
    config = VpnConfig(worker=WORKER)
    lookups = LookUps(config, None, bench.on_found, system=bench.ask, resolv_conf=where)
    with pytest.raises(OSError, match=rf"Name or service not known; {where} {words}$"):
        await lookups.resolve("worker.example")
