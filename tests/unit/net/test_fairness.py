"""Turns and shares of the sources of queries."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zks_lwip.net.fairness import RoundRobinQueue, Shares


def test_sources_take_turns_each_with_its_oldest() -> None:
    queue: RoundRobinQueue[str] = RoundRobinQueue()
    for item in ("a1", "a2", "a3", "b1", "b2", "c1"):
        queue.push(item[0], item)
    queue.discard("a", "a2")
    queue.discard("a", "a2")
    queue.discard("x", "x1")
    assert len(queue) == 5
    assert [queue.pop() for _ in range(5)] == ["a1", "b1", "c1", "a3", "b2"]
    assert len(queue) == 0
    queue.push("c", "c2")
    queue.discard("c", "c2")
    assert not queue


def test_who_gives_way() -> None:
    shares: Shares[str] = Shares()
    for item in ("a1", "b1"):
        shares.add(item[0], item)
    assert shares.gives_way("c") == "a1"  # each has one: the oldest of all
    assert shares.gives_way("a") is None  # it would have most itself
    shares.add("b", "b2")
    assert shares.gives_way("b") is None
    assert shares.gives_way("a") == "b2" and shares.gives_way("c") == "b2"


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans())))
def test_what_gives_way_is_of_a_source_with_most(steps: list[tuple[int, bool]]) -> None:
    shares: Shares[tuple[int, int]] = Shares()
    held: list[tuple[int, int]] = []
    for serial, (source, add) in enumerate(steps):
        if add or not held:
            held.append((source, serial))
            shares.add(source, held[-1])
        else:
            shares.remove(held.pop(source % len(held)))
        counts = {one: sum(1 for who, _ in held if who == one) for one in range(7)}
        most = max(counts.values())
        assert len(shares) == len(held)
        for asker in range(7) if held else ():
            item = shares.gives_way(asker)
            if counts[asker] == most:
                assert item is None
            elif most == 1:
                assert item == held[0]
            else:
                assert item is not None and counts[item[0]] == most
                assert item == [one for one in held if one[0] == item[0]][-1]
