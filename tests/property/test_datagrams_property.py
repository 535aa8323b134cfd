"""Two stacks and a bad wire: datagrams of every size come out as they went in, or not at all."""

from __future__ import annotations

import random

import trio
import trio.testing
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zks_lwip.device import memory_device_pair
from zks_lwip.stack import Datagram, open_stack

from .test_stack_property import ADDRESS, SLOW, Wire, run

MOST = 65507
SIZES = st.sampled_from([0, 1, 8, 548, 1452, 1472, 1473, 9000, MOST - 1, MOST]) | st.integers(
    0, MOST
)
RATES = st.sampled_from([(0, 0, 0, 0), (0, 0.3, 0.5, 0), (0.02, 0.1, 0.2, 0)])


@given(
    st.sampled_from([576, 1280, 1500, 9000, 65535]),
    st.integers(0, 2**32),
    RATES,
    st.lists(st.tuples(st.sampled_from([4, 6]), SIZES, st.integers(1, 3)), min_size=1, max_size=12),
)
@example(1500, 1, (0, 0, 0, 0), [(4, MOST, 1), (6, MOST, 1)])
@settings(max_examples=200, deadline=None, suppress_health_check=SLOW)
def test_what_goes_in_comes_out_or_is_lost(
    mtu: int,
    seed: int,
    rates: tuple[float, float, float, float],
    datagrams: list[tuple[int, int, int]],
) -> None:
    async def main() -> None:
        devices = memory_device_pair(mtu, queue=10_000)
        wire = devices[0].filter = Wire(seed, *rates)
        taken: list[tuple[tuple[str, int], tuple[str, int], bytes]] = []

        def take(batch: list[Datagram]) -> None:
            taken.extend((d.source, d.destination, bytes(d.payload)) for d in batch)

        async with (
            open_stack(devices[0]) as left,
            open_stack(devices[1]) as right,
        ):
            right.on_datagrams = take
            content = random.Random(seed)
            sent = []
            for family, size, port in datagrams:
                source, destination = (ADDRESS[0][family], port), (ADDRESS[1][family], 9)
                sent.append((source, destination, content.randbytes(size)))
                assert left.send_datagram(*sent[-1])
                await trio.testing.wait_all_tasks_blocked()
            wire.rates = (0, 0, 0, 0)
            last = ((ADDRESS[0][4], 4), (ADDRESS[1][4], 9), b"the last one")
            assert left.send_datagram(*last)
            await trio.testing.wait_all_tasks_blocked()
            assert set(taken) <= {*sent, last}
            if rates == (0, 0, 0, 0):
                assert taken == [*sent, last]
            elif not rates[0] and not wire.late:
                assert set(taken) == {*sent, last}
            assert right.stats()["drop_checksum"] == 0
            await trio.sleep(16)  # then nothing waits any more
            taken.clear()
            assert left.send_datagram(*last)
            await trio.testing.wait_all_tasks_blocked()
            assert last in taken and set(taken) <= {*sent, last}

    run(main)
