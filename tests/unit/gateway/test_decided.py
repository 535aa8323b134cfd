"""What waits for a decision: for how long, and how much of it."""

from __future__ import annotations

from typing import Any

import trio
import trio.testing

from zks_lwip.gateway import FlowRequest
from zks_lwip.gateway.counters import GatewayCounters
from zks_lwip.gateway.decided import MAX_BYTES, DatagramDecisions
from zks_lwip.gateway.flow_table import HELD_SECONDS
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
