"""Checks of workers: what answers counts as well, and how long it took to connect."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trustme

from zks_lwip.errors import CertificateError, WorkerUnreachable
from zks_lwip.tunnel.endpoint import parse_worker_url
from zks_lwip.tunnel.health import HealthChecks, check_worker
from zks_lwip.tunnel.options import TunnelConfig, WorkerEndpoint
from zks_lwip.tunnel.workers import KnownWorker, Workers

from ...kits.tunnel import eventually, listening, quick, raw_server, read_head, working


def page(status: int) -> bytes:
    return f"HTTP/1.1 {status} Whatever\r\nContent-Length: 0\r\n\r\n".encode()


async def test_it_asks_beside_the_path_and_sends_no_token() -> None:
    asked: list[bytes] = []

    async def serve(stream: trio.abc.Stream) -> None:
        asked.append(await read_head(stream))
        await stream.send_all(page(200))

    async with listening(serve) as url:
        config = quick(url.replace("/tunnel", "/some/where/tunnel"), token="s3cret")
        assert 0 <= await check_worker(config, None) < 20
    (request,) = asked
    assert request.startswith(b"GET /some/where/health HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"s3cret" not in request and b"Authorization" not in request


@pytest.mark.parametrize("status", [200, 204, 301, 401, 404, 426])
async def test_any_answer_below_500_is_a_worker_that_is_there(status: int) -> None:
    async with listening(raw_server(None, page(status))) as url:
        await check_worker(quick(url), None)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ((None, page(503)), "503"),
        ((None,), "hung up"),
        ((None, b"SSH-2.0-OpenSSH_9.2\r\n"), "no HTTP"),
        ((None, b"x" * 5000), "no HTTP"),
    ],
)
async def test_what_is_no_good_answer_says_why(steps: tuple[bytes | None], words: str) -> None:
    async with listening(raw_server(*steps)) as url:
        with pytest.raises(WorkerUnreachable, match=words):
            await check_worker(quick(url), None)


async def test_a_worker_that_says_nothing_is_not_waited_for_without_end() -> None:
    async with listening(raw_server(None, then_hang=True)) as url:
        with pytest.raises(WorkerUnreachable, match="does not answer a check"):
            await check_worker(quick(url, upgrade_timeout=0.2), None)


async def test_over_tls_the_certificate_is_checked_and_the_handshake_counts() -> None:
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    async with working(tls=server) as worker:
        with pytest.raises(CertificateError):
            await check_worker(quick(worker.url), None)
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        assert await check_worker(quick(worker.url), trusting) > 0


class Bench:
    """Checks of some workers, and what is known of them."""

    def __init__(self, *urls: str, every: float = 0.05) -> None:
        first, *others = (parse_worker_url(url) for url in urls)
        config = TunnelConfig(
            url=first,
            others=tuple(WorkerEndpoint(url=url) for url in others),
            upgrade_timeout=20.0,
            check_every=every,
            backoff=(0.02, 0.1),
        )
        self.workers = Workers(config)
        self.up = trio.Event()
        self.carried: set[KnownWorker] = set()
        self.news = 0
        self.checks = HealthChecks(
            self.workers,
            None,
            carries=lambda worker: worker in self.carried,
            wanted=lambda: self.up,
            changed=self.note,
            slowness=lambda: 0.0,
        )

    def note(self) -> None:
        self.news += 1

    @asynccontextmanager
    async def running(self) -> AsyncIterator[list[KnownWorker]]:
        async with trio.open_nursery() as nursery:
            with trio.fail_after(60):
                await nursery.start(self.checks.run)
            yield self.workers.all
            nursery.cancel_scope.cancel()


async def test_the_first_answer_is_enough_to_begin() -> None:
    async with (
        listening(raw_server(None, then_hang=True)) as silent,
        listening(raw_server(None, page(200))) as good,
    ):
        async with Bench(silent, good).running() as (mute, well):
            assert well.connect_time is not None and mute.connect_time is None


async def test_so_is_it_that_none_answers() -> None:
    async with listening(raw_server(None)) as one, listening(raw_server(None)) as two:
        async with Bench(one, two).running() as workers:
            assert not any(each.well for each in workers)


async def test_one_that_is_back_is_found_well_again() -> None:
    answers = [page(503), page(503), page(200)]

    async def serve(stream: trio.abc.Stream) -> None:
        await read_head(stream)
        await stream.send_all(answers.pop(0) if len(answers) > 1 else answers[0])

    async with listening(serve) as url, listening(raw_server(None, page(200))) as good:
        bench = Bench(url, good)
        async with bench.running() as (worker, _):
            await eventually(lambda: not worker.well)
            assert "503" in worker.problem
            before = bench.news
            await trio.sleep(0.3)
            assert bench.news <= before + 1, "without a session there are none"
            bench.up.set()
            await eventually(lambda: worker.well)


async def test_one_that_has_failed_is_checked_soon() -> None:
    async with (
        listening(raw_server(None, page(200))) as one,
        listening(raw_server(None, page(200))) as two,
    ):
        bench = Bench(one, two, every=1000.0)
        bench.up.set()
        async with bench.running() as (worker, _):
            await eventually(lambda: bench.news == 2)
            worker.failed("its channel was lost", trio.current_time())
            bench.checks.look_again()
            await eventually(lambda: worker.well)


async def test_one_that_failed_otherwise_is_not_checked_over_and_over() -> None:
    """Also while it carries a session: a worker that goes away takes no new connections."""
    checks = 0

    async def refuse(stream: trio.abc.Stream) -> None:
        nonlocal checks
        checks += 1
        await read_head(stream)
        await stream.send_all(page(503))

    async with listening(refuse) as going, listening(raw_server(None, page(200))) as good:
        bench = Bench(going, good, every=1000.0)
        bench.carried.add(bench.workers.all[0])
        bench.up.set()
        async with bench.running() as (worker, _):
            assert worker.well
            worker.failed("it refuses new connections", trio.current_time())
            bench.checks.look_again()
            await trio.sleep(0.5)
            assert checks < 30
            await eventually(lambda: checks > 3)


async def test_one_that_carries_a_session_is_not_given_up_by_a_check() -> None:
    async with listening(raw_server(None)) as bad, listening(raw_server(None, page(200))) as good:
        bench = Bench(bad, good)
        bench.carried.add(bench.workers.all[0])
        bench.up.set()
        async with bench.running() as (worker, _):
            before = bench.news
            await eventually(lambda: bench.news > before + 6)
            assert worker.well
