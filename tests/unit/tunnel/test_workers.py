"""Which worker is in use, decided from what is told: no I/O, and a clock of the test's own."""

from __future__ import annotations

import pytest

from zks_lwip.errors import (
    AuthError,
    CertificateError,
    PrivilegeError,
    TunnelError,
    WorkerUnreachable,
)
from zks_lwip.tunnel.endpoint import parse_worker_url
from zks_lwip.tunnel.options import TunnelConfig, WorkerEndpoint
from zks_lwip.tunnel.workers import KnownWorker, Workers, is_of_no_worker


def made(count: int = 2) -> Workers:
    first, *others = [parse_worker_url(f"wss://{name}.example") for name in "abcdef"[:count]]
    config = TunnelConfig(url=first, others=tuple(WorkerEndpoint(url=url) for url in others))
    return Workers(config)


def measured(*times: float) -> Workers:
    """Workers whose connect times are known, in seconds, with the first choice made."""
    workers = made(len(times))
    for worker, time in zip(workers.all, times, strict=True):
        worker.connected(time)
        worker.answered(0.0)
    workers.opened(workers.review(0.0), 0.0, alone=True)
    return workers


def names(workers: list[KnownWorker]) -> str:
    return "".join(each.config.worker.host[0] for each in workers)


def test_each_has_what_is_for_it_alone() -> None:
    config = TunnelConfig(
        url="wss://a.example",
        token="one",
        address="192.0.2.1",
        others=(WorkerEndpoint(url=parse_worker_url("ws://[::1]:80"), token="two"),),
    )
    first, second = (each.config for each in Workers(config).all)
    assert (first.worker.host, first.token, first.address) == ("a.example", "one", "192.0.2.1")
    assert (second.worker.host, second.token, second.address) == ("::1", "two", None)
    assert not first.others and not second.others


def test_with_nothing_known_they_are_tried_as_they_were_named() -> None:
    workers = made(3)
    assert names(workers.to_dial(0.0)) == "abc" and workers.in_use is workers.all[0]


def test_the_nearest_is_the_first_choice() -> None:
    workers = made(3)
    for worker, time in zip(workers.all, (0.3, 0.1, 0.2), strict=True):
        worker.connected(time)
    assert names(workers.to_dial(0.0)) == "bca"


def test_of_those_that_are_as_near_as_each_other_the_first_named_is_chosen() -> None:
    workers = measured(0.5, 0.012, 0.011)
    assert workers.in_use is workers.all[1]


def test_one_whose_time_is_known_comes_before_one_that_has_not_answered_yet() -> None:
    workers = made(3)
    workers.all[2].connected(0.4)
    assert names(workers.to_dial(0.0)) == "cab"


def test_a_slow_sample_does_not_count_while_there_are_better_ones() -> None:
    workers = measured(0.010, 0.012)
    for time in (2.0, 3.0, 1.0):
        workers.all[0].connected(time)
    assert workers.all[0].connect_time == 0.010
    assert workers.review(100.0) is workers.all[0]
    workers.all[0].connected(2.0)  # the good one has gone: it is far away now
    assert workers.review(200.0) is workers.all[1]


@pytest.mark.parametrize(
    ("mine", "others", "moves"),
    [(0.100, 0.095, False), (0.100, 0.075, False), (0.100, 0.065, True), (0.006, 0.001, False)],
)
def test_it_changes_for_one_that_is_clearly_nearer_only(
    mine: float, others: float, moves: bool
) -> None:
    workers = measured(mine, 9.0)
    for _ in range(4):
        workers.all[1].connected(others)
    assert (workers.review(60.0) is workers.all[1]) is moves
    assert workers.switches == moves


def test_when_it_fails_the_nearest_of_the_others_is_in_use_at_once() -> None:
    workers = measured(0.1, 0.3, 0.2)
    workers.all[0].failed(WorkerUnreachable("gone"), 10.0)
    assert names(workers.to_dial(10.0)) == "cb", "the first is left alone for its backoff"
    assert workers.in_use is workers.all[2] and workers.switches == 1
    assert names(workers.to_dial(11.0)) == "cba"


def test_it_comes_back_after_it_has_been_well_for_a_while_longer_each_time() -> None:
    workers = measured(0.01, 0.2)
    a, b = workers.all
    now, waits = 0.0, []
    for _ in range(8):
        a.failed("its channel was lost", now)
        assert workers.review(now) is b
        now += 1
        a.answered(now)
        began = now
        while workers.review(now) is b:
            now += 1
        waits.append(now - began)
    assert waits[:4] == [30, 60, 120, 240] and waits[-1] == 600
    assert waits == sorted(waits)


def test_a_flapping_worker_is_in_use_ever_more_rarely() -> None:
    """One that is well for 20 s, and away for 5, in turns: it is not gone back to at all."""
    workers = measured(0.01, 0.2)
    a, b = workers.all
    now = 0.0
    while now < 3600:
        a.failed("gone", now)
        assert workers.review(now) is b
        a.answered(now + 5)
        assert workers.review(now + 24) is b
        now += 25
    assert workers.switches == 1


def test_a_session_that_is_resumed_at_once_is_no_failure_of_its_worker() -> None:
    workers = measured(0.1, 0.2)
    a, b = workers.all
    a.doubt("lost a channel", 10.0)
    assert workers.next_review == pytest.approx(10.4), "four connect times"
    assert workers.review(10.3) is a and a.well
    workers.opened(a, 10.35, alone=True)
    assert workers.next_review > 1e9 and workers.review(20.0) is a
    assert a.failures == 0 and workers.switches == 0


def test_one_that_is_not_resumed_in_time_is_passed_over() -> None:
    workers = measured(0.01, 0.2)
    a, b = workers.all
    a.doubt("lost a channel", 10.0)
    a.doubt("lost another", 10.2)
    assert workers.next_review == pytest.approx(10.25)
    assert workers.review(10.25) is b and a.problem == "lost a channel"
    workers.opened(b, 10.5, alone=True)
    workers.opened(a, 11.0, alone=False)
    assert workers.review(11.0) is b, "it is back, but has not been well for long"
    assert workers.review(41.0) is a


def test_where_all_were_lost_together_the_first_that_is_back_is_in_use() -> None:
    """That was the network: nothing is held against a worker."""
    workers = measured(0.01, 0.2)
    a, b = workers.all
    a.doubt("lost a channel", 10.0)
    assert workers.review(11.0) is b
    b.failed(WorkerUnreachable("no route"), 12.0)
    workers.review(12.0)
    workers.opened(a, 30.0, alone=True)
    assert workers.review(30.0) is a and a.failures == 0 and a.settled(30.0)
    b.answered(31.0)
    assert workers.review(100.0) is a


def test_earlier_failures_are_forgiven() -> None:
    workers = measured(0.01, 0.2)
    a, b = workers.all
    for now in (0.0, 10.0, 20.0):
        a.failed("gone", now)
        workers.review(now)
        a.answered(now + 1)
    assert a.failures == 3
    assert workers.review(100.0) is b
    assert workers.review(500.0) is a
    a.failed("gone", 2000.0)
    assert a.failures == 1
    assert workers.review(2000.0) is b
    a.answered(2001.0)
    assert workers.review(2031.0) is a


def test_where_none_is_well_the_one_that_was_in_use_stays_and_those_due_are_tried() -> None:
    workers = measured(0.1, 0.2)
    a, b = workers.all
    delay = a.failed(WorkerUnreachable("gone"), 0.0)
    assert 0.25 <= delay <= 0.5
    b.failed(WorkerUnreachable("gone"), 0.0)
    b.failed(WorkerUnreachable("gone"), 0.0)
    assert workers.to_dial(0.0) == []
    assert workers.due() == pytest.approx(delay)
    assert names(workers.to_dial(workers.due())) == "a"
    assert set(names(workers.to_dial(5.0))) == {"a", "b"}
    workers.try_now()
    assert set(names(workers.to_dial(0.0))) == {"a", "b"}


def test_where_there_is_no_haste_the_one_in_use_is_dialled_alone() -> None:
    workers = measured(0.1, 0.2)
    assert names(workers.to_dial(0.0, any_of_them=False)) == "a"
    a, b = workers.all
    delay = a.failed("full", 0.0)
    a.answered(0.0)
    assert workers.in_use is a and names(workers.to_dial(0.0)) == "b"
    assert workers.to_dial(0.0, any_of_them=False) == []
    assert workers.due(any_of_them=False) == delay and workers.due() < 0


def test_the_delays_grow_until_a_channel_has_lasted() -> None:
    (worker,) = made(1).all
    delays = [worker.failed("gone", 0.0) for _ in range(10)]
    assert delays[-1] >= 15 and max(delays) <= 30
    worker.succeeded(10.0)
    assert worker.failed("gone", 11.0) >= 15, "a HELLO alone proves little"
    worker.steady()
    assert worker.failed("gone", 20.0) <= 0.5


def test_one_of_several_that_refuses_us_is_passed_over() -> None:
    workers = measured(0.1, 0.2)
    a, b = workers.all
    a.failed(AuthError("a refuses"), 0.0)
    assert workers.hopeless is None
    assert names(workers.to_dial(60.0)) == "ba", "the last resort"
    for now in (1.0, 60.0, 300.0):
        a.answered(now)  # a check does not show what the token is worth
        assert workers.review(now) is b and not a.well
    a.answered(700.0)
    assert workers.review(731.0) is a, "another look, after a while"


def test_where_all_refuse_us_there_is_one_error_that_says_so() -> None:
    workers = made()
    a, b = workers.all
    a.failed(AuthError("a refuses"), 0.0)
    b.failed(WorkerUnreachable("b is away"), 0.0)
    assert workers.hopeless is None, "that may pass"
    b.failed(AuthError("b refuses"), 1.0)
    error = workers.hopeless
    assert type(error) is AuthError and "none of the 2 workers" in str(error)
    assert "a refuses" in str(error) and "b refuses" in str(error)
    b.failed(CertificateError("b's certificate"), 2.0)
    assert type(workers.hopeless) is TunnelError
    b.succeeded(3.0)
    assert workers.hopeless is None and workers.review(3.0) is b


def test_the_error_of_a_single_worker_is_its_own() -> None:
    workers = made(1)
    error = AuthError("no")
    workers.all[0].failed(error, 0.0)
    assert workers.hopeless is error


def test_what_this_machine_refuses_is_no_workers_fault() -> None:
    assert is_of_no_worker(PrivilegeError("the mark")) and not is_of_no_worker(AuthError("no"))


def test_it_is_checked_once_in_a_while_and_when_it_may_be_back() -> None:
    (worker,) = made(1).all
    assert worker.check_due(5.0) == 65.0
    delay = worker.failed("gone", 5.0)
    assert worker.check_due(5.0) == 5.0 + delay
    worker.failed(AuthError("no"), 6.0)
    assert worker.check_due(100.0) == 160.0, "not over and over"


def test_another_is_asked_beside_it_after_a_few_round_trips() -> None:
    (worker,) = made(1).all
    assert worker.hedge == 0.25
    worker.connected(0.2)
    assert worker.hedge == pytest.approx(0.8)
