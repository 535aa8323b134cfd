"""Rounds of events, and what is done once at their end."""

from __future__ import annotations

import threading

import pytest

from zks_lwip.net.rounds import Round


def test_what_is_asked_for_in_a_round_is_done_at_its_end() -> None:
    round_, done = Round(), []
    with round_:
        assert round_.at_end(lambda: done.append(1))
        assert round_.at_end(lambda: done.append(2))
        assert done == []
    assert done == [1, 2]
    with round_:
        pass
    assert done == [1, 2]


def test_out_of_a_round_nothing_is_kept() -> None:
    round_, done = Round(), []
    assert not round_.at_end(lambda: done.append(1))
    with round_:
        round_.at_end(lambda: done.append(round_.at_end(lambda: done.append("never"))))
    assert done == [False]


def test_a_round_that_fails_is_over_all_the_same() -> None:
    round_, done = Round(), []
    with pytest.raises(ZeroDivisionError), round_:
        round_.at_end(lambda: done.append(1))
        _ = 1 // 0
    assert done == [1]
    assert not round_.at_end(lambda: done.append(2))


def test_each_thread_has_its_own() -> None:
    round_, found = Round(), []
    with round_:
        other = threading.Thread(target=lambda: found.append(round_.at_end(lambda: None)))
        other.start()
        other.join()
    assert found == [False]
