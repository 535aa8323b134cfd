"""Whatever several workers do, one that is well is in use, and nothing is tried without a pause."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from zks_lwip.errors import AuthError, WorkerUnreachable
from zks_lwip.tunnel.endpoint import parse_worker_url
from zks_lwip.tunnel.options import TunnelConfig, WorkerEndpoint
from zks_lwip.tunnel.workers import Workers

URLS = [parse_worker_url(f"wss://{name}.example") for name in "abc"]
CONFIG = TunnelConfig(url=URLS[0], others=tuple(WorkerEndpoint(url=url) for url in URLS[1:]))

EVENTS = st.tuples(
    st.floats(0, 700),
    st.integers(0, 2),
    st.sampled_from(
        [
            "connected",
            "answered",
            "opened",
            "alone",
            "failed",
            "refused",
            "doubt",
            "steady",
            "retry",
        ]
    ),
    st.floats(0.0001, 2),
)


def tell(workers: Workers, now: float, number: int, event: str, seconds: float) -> None:
    worker = workers.all[number]
    match event:
        case "connected":
            worker.connected(seconds)
        case "answered":
            worker.answered(now)
        case "opened" | "alone":
            workers.opened(worker, now, alone=event == "alone")
        case "failed":
            delay = worker.failed(WorkerUnreachable("it is away"), now)
            assert 0.25 <= delay <= 30 and worker.not_before == now + delay
        case "refused":
            worker.failed(AuthError("it refuses"), now)
        case "doubt":
            worker.doubt("its channel was lost", now)
        case "steady":
            worker.steady()
        case "retry":
            workers.try_now()


@given(st.lists(EVENTS, max_size=60))
@example([(0.0, 0, "doubt", 1.0), (0.0, 1, "failed", 1.0), (1.0, 1, "answered", 1.0)])
def test_one_that_is_well_is_in_use(events: list[tuple[float, int, str, float]]) -> None:
    workers, now, failures = Workers(CONFIG), 0.0, 0
    for passed, *event in events:
        now += passed
        tell(workers, now, *event)
        failures += event[1] in ("failed", "refused", "doubt")
        in_use = workers.review(now)
        well = [each for each in workers.all if each.well and each.error is None]
        assert in_use in well or not well
        assert in_use is workers.review(now), "a second look finds no more than the first"
        assert workers.next_review > now
        order = workers.to_dial(now)
        assert [each for each in order if each.not_before > now] == []
        assert bool(order) == (workers.due() <= now)
        assert in_use.not_before > now or order[0] is in_use
        assert (workers.hopeless is None) == any(each.error is None for each in workers.all)
        for each in workers.all:
            assert each.check_due(now) >= min(now + CONFIG.check_every, max(now, each.not_before))
            assert each.hedge >= 0.25 and (each.error is None or not each.well)


@given(st.lists(st.tuples(st.floats(0.1, 200), st.booleans()), max_size=200))
def test_a_flapping_worker_is_gone_back_to_ever_more_rarely(
    times: list[tuple[float, bool]],
) -> None:
    """The nearer of two is away and back at any times: the time that it must be well is kept."""
    workers = Workers(CONFIG)
    near, far, _ = workers.all
    near.connected(0.01)
    far.connected(0.5)
    workers.opened(near, 0.0, alone=True)
    workers.opened(far, 0.0, alone=False)
    now, well_since = 0.0, 0.0
    for passed, well in times:
        now += passed
        before = workers.in_use
        if well and not near.well:
            near.answered(now)
            well_since = now
        elif not well:
            near.failed("gone", now)
        if workers.review(now) is near and before is far:
            assert now - well_since >= min(30 * 2 ** (near.failures - 1), 600)
        assert workers.in_use is far or near.well
