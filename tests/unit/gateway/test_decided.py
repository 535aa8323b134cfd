"""What waits for a decision: for how long, and how much of it."""

from __future__ import annotations

from typing import Any

import trio
import trio.testing

from zks_lwip.gateway import FlowRequest, Tunnel
from zks_lwip.gateway.counters import GatewayCounters
from zks_lwip.gateway.decided import MAX_BYTES, MAX_KNOWN, DatagramDecisions
from zks_lwip.gateway.flow_table import HELD_SECONDS
from zks_lwip.gateway.udp import DEFAULT_IDLE
from zks_lwip.stack import Datagram

TO = ("192.0.2.1", 443)


def datagram(port: int, size: int) -> Datagram:
    return Datagram(("198.18.0.1", port), TO, memoryview(bytes(size)))


async def never(flow: FlowRequest) -> Any:
    await trio.sleep_forever()


async def test_a_decision_that_never_comes_is_not_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    counters = GatewayCounters()
    delivered: list[Datagram] = []
    async with trio.open_nursery() as nursery:
        decisions = DatagramDecisions(never, nursery, counters, delivered.extend)
        assert decisions.of(datagram(1000, 100)) is None
        assert counters.datagrams_dropped == 0
        await trio.sleep(HELD_SECONDS + 1)
        assert counters.datagrams_dropped == 1 and not nursery.child_tasks
        assert decisions.of(datagram(1000, 100)) is None, "it is asked again"
        await trio.testing.wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1 and delivered == []
        nursery.cancel_scope.cancel()


async def test_what_waits_for_decisions_is_bounded_in_bytes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    size, room = 65507, MAX_BYTES // 65507
    counters = GatewayCounters()
    delivered: list[Datagram] = []
    async with trio.open_nursery() as nursery:
        decisions = DatagramDecisions(never, nursery, counters, delivered.extend)
        for number in range(2 * room):
            decisions.of(datagram(1000 + number, size))
        assert counters.datagrams_dropped == room
        await trio.sleep(HELD_SECONDS + 1)
        decisions.of(datagram(1, size))
        assert counters.datagrams_dropped == 2 * room, "there is room again"
        nursery.cancel_scope.cancel()


async def test_a_decision_that_is_not_used_is_asked_for_again() -> None:
    """As long as it is used it holds; of too many the longest unused are forgotten."""
    asked: list[int] = []
    now = 0.0

    def decide(flow: FlowRequest) -> type[Tunnel]:
        asked.append(flow.source[1])
        return Tunnel

    async with trio.open_nursery() as nursery:
        decisions = DatagramDecisions(
            decide, nursery, GatewayCounters(), lambda waited: None, clock=lambda: now
        )

        async def ports_asked(*ports: int) -> list[int]:
            asked.clear()
            for port in ports:
                decisions.of(datagram(port, 1))
                await trio.testing.wait_all_tasks_blocked()  # tasks run in any order
            return asked

        assert await ports_asked(1, 2) == [1, 2]
        now = DEFAULT_IDLE - 1
        decisions.expire(now)
        assert await ports_asked(2) == []
        now = DEFAULT_IDLE
        decisions.expire(now)
        assert await ports_asked(2, 1) == [1]
        now = 2 * DEFAULT_IDLE + 1
        decisions.expire(now)
        assert await ports_asked(1, 2) == [1, 2]
        await ports_asked(*range(3, MAX_KNOWN + 2))
        assert await ports_asked(2, MAX_KNOWN + 1) == []
        assert await ports_asked(1) == [1]
