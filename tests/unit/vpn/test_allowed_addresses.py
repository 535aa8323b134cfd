"""What the firewall lets out follows the names that are looked up."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_network
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from zks_lwip.config import (
    HostOptions,
    Proxy,
    VpnConfig,
    WorkerEndpoint,
    parse_worker_address,
    parse_worker_url,
)
from zks_lwip.errors import HostError
from zks_lwip.host.plan.config import HostConfig, Network
from zks_lwip.vpn.allowed_addresses import MAX_PEERS, AllowedAddresses, known_peers, to_network

WORKER = parse_worker_url("wss://worker.example")
ADDRESS = parse_worker_address("192.0.2.3")


class Host:
    """Has in force what it was told last."""

    def __init__(self) -> None:
        self.config = HostConfig()
        self.updates = 0
        self.broken = False

    @property
    def plan(self) -> Any:
        return SimpleNamespace(config=self.config)

    async def update(self, config: HostConfig) -> None:
        await trio.lowlevel.checkpoint()
        if self.broken:
            raise HostError("nft failed")
        self.config = config
        self.updates += 1


def make(mark: int | None = 1, **settings: Any) -> tuple[Host, AllowedAddresses]:
    host = Host()
    return host, AllowedAddresses(VpnConfig(worker=WORKER, **settings), mark, lambda: host)


def networks(*texts: str) -> tuple[Network, ...]:
    return tuple(map(ip_network, texts))


async def test_of_very_many_addresses_those_that_are_tried_are_let_out() -> None:
    workers = (
        WorkerEndpoint(url=WORKER),
        WorkerEndpoint(url=parse_worker_url("wss://another.example")),
    )
    host = Host()
    allowed = AllowedAddresses(VpnConfig(workers=workers), 1, lambda: host)
    await allowed.add_peers(["192.0.2.9"])
    six, four = ([f"2001:db8::{n}" for n in range(99)], [f"198.51.100.{n}" for n in range(99)])
    await allowed.add_peers(six + four)
    assert host.config.peers is not None
    for first in (six[:8], four[:8], ["192.0.2.9"]):
        assert set(networks(*first)) <= set(host.config.peers)


async def test_peers_join_those_that_are_known_and_the_latest_stay() -> None:
    host, allowed = make()
    await allowed.add_peers(["192.0.2.1", "fe80::1%eth0"])
    known = known_peers(VpnConfig(worker=WORKER))
    assert known and host.config.peers == (*known, *networks("192.0.2.1", "fe80::1"))
    await allowed.add_peers(["192.0.2.1"])
    assert host.updates == 1, "the same, in another order"
    for number in range(100):
        await allowed.add_peers([f"198.51.100.{number}"])
    peers = host.config.peers
    assert peers is not None and len(peers) == len(known) + MAX_PEERS
    assert peers[-1] == ip_network("198.51.100.99") and ip_network("192.0.2.1") not in peers


async def test_of_several_workers_the_addresses_of_all_are_let_out_and_no_more() -> None:
    workers = (
        WorkerEndpoint(url=parse_worker_url("wss://one.example")),
        WorkerEndpoint(url=parse_worker_url("wss://[2001:db8::2]")),
        WorkerEndpoint(url=parse_worker_url("wss://three.example"), address=ADDRESS),
        WorkerEndpoint(url=parse_worker_url("wss://four.example"), proxy=Proxy("192.0.2.4", 3128)),
        WorkerEndpoint(url=parse_worker_url("wss://five.example")),
    )
    config = VpnConfig(workers=workers)
    known = known_peers(config)
    assert known is not None
    literal = {*networks("2001:db8::2", "192.0.2.3", "192.0.2.4")}
    resolvers = known_peers(VpnConfig(worker=WORKER))
    assert resolvers is not None and set(known) == {*resolvers} | literal
    host = Host()
    allowed = AllowedAddresses(config, 1, lambda: host)
    for number in range(MAX_PEERS):
        await allowed.add_peers([f"198.51.100.{number}"])
    updates = host.updates
    for number in range(MAX_PEERS):  # the names are looked up in turns
        await allowed.add_peers([f"203.0.113.{number}"])
        await allowed.add_peers([f"198.51.100.{number}"])
    assert host.updates == updates + MAX_PEERS
    expected = networks(
        *(f"{net}.{n}" for n in range(MAX_PEERS) for net in ("198.51.100", "203.0.113"))
    )
    assert host.config.peers is not None and set(host.config.peers) == {*known, *expected}


def test_where_no_name_is_left_nothing_else_is_let_out() -> None:
    workers = tuple(
        WorkerEndpoint(url=parse_worker_url(f"wss://{host}")) for host in ("192.0.2.1", "192.0.2.2")
    )
    assert known_peers(VpnConfig(workers=workers)) == networks("192.0.2.1", "192.0.2.2")


async def test_nothing_is_changed_where_sockets_need_no_mark_or_may_go_anywhere() -> None:
    host, allowed = make(mark=None)
    await allowed.add_peers(["192.0.2.1"])
    embedded = AllowedAddresses(VpnConfig(), 1, lambda: host)
    await embedded.add_peers(["192.0.2.1"])
    assert host.updates == 0


async def test_a_firewall_that_cannot_be_changed_is_an_oserror() -> None:
    host, allowed = make()
    host.broken = True
    with pytest.raises(OSError, match="nft failed"):
        await allowed.add_peers(["192.0.2.1"])


async def test_names_to_bypass_are_followed(
    autojump_clock: MockClock, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    options = HostOptions(bypass=networks("192.0.2.0/24"), bypass_hosts=("a.example", "b.example"))
    host, allowed = make(host=options)
    found: dict[str, Sequence[str]] = {"a.example": ["192.0.2.9", "198.51.100.1"]}

    async def look_up(name: str) -> Sequence[str]:
        await trio.lowlevel.checkpoint()
        if name not in found:
            raise OSError("no such name")
        return found[name]

    nursery.start_soon(allowed.follow_bypassed, look_up)
    await trio.sleep(0.1)
    assert host.config.bypass == networks("192.0.2.0/24", "198.51.100.1"), "but for what is in it"
    assert "`host.bypass` b.example: it has no addresses now: no such name" in caplog.text
    found["b.example"] = ["203.0.113.1"]
    await trio.sleep(31)
    assert host.config.bypass[-1] == ip_network("203.0.113.1")
    found["a.example"] = ["198.51.100.2"]
    await trio.sleep(200)
    assert ip_network("198.51.100.2") not in host.config.bypass
    await trio.sleep(150)
    assert host.config.bypass == networks("192.0.2.0/24", "198.51.100.2", "203.0.113.1")


@pytest.mark.parametrize(
    ("settings", "peer"),
    [
        ({"worker_address": parse_worker_address("192.0.2.1")}, "192.0.2.1"),
        ({"worker": parse_worker_url("wss://[2001:db8::1]")}, "2001:db8::1"),
    ],
)
def test_what_is_known_from_the_start(settings: dict[str, Any], peer: str) -> None:
    assert known_peers(VpnConfig(**{"worker": WORKER, **settings})) == networks(peer)


def test_an_embedded_worker_may_go_anywhere() -> None:
    assert known_peers(VpnConfig()) is None


def test_a_zone_is_no_part_of_a_network() -> None:
    assert to_network("fe80::1%eth0") == ip_network("fe80::1")
