"""The metrics' HTTP server, and what a worker shows there."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest
import trio
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families as parse

from tests.kits.until import until
from tests.kits.worker import echo, raw_client, running_worker, tcp_server
from zks_lwip.errors import ConfigError
from zks_lwip.metrics import MetricsServer, MetricsSource, listen_for_metrics, parse_metrics
from zks_lwip.metrics.families import counters, histogram
from zks_lwip.metrics.worker import WorkerSource
from zks_lwip.net.histogram import Histogram
from zks_lwip.protocol import Data
from zks_lwip.worker.stats import TokenStats, WorkerStats

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: str) -> Samples:
    """What Prometheus' own parser reads."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse(text)
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float:
    return found[f"zks_lwip_{name}", frozenset(labels.items())]


@asynccontextmanager
async def serving(source: MetricsSource) -> AsyncIterator[tuple[str, int]]:
    sock = listen_for_metrics(("127.0.0.1", 0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(MetricsServer(sock, source).run)
        yield sock.getsockname()
        nursery.cancel_scope.cancel()


async def ask(address: tuple[str, int], request: str) -> tuple[int, str, str]:
    """Status, head and body of an answer."""
    async with await trio.open_tcp_stream(*address) as stream:
        await stream.send_all(request.encode())
        data = b""
        with trio.fail_after(60):
            async for piece in stream:
                data += piece
    head, _, body = data.decode().partition("\r\n\r\n")
    return int(head.split()[1]) if head else 0, head, body


def get(path: str) -> str:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Nothing:
    """A source without metrics."""

    why: str | None = None

    async def families(self) -> Iterable[Metric]:
        return ()

    def problem(self) -> str | None:
        return self.why


async def test_a_worker_shows_what_it_did() -> None:
    async with running_worker() as (worker, address), tcp_server(echo) as port:

        async def stats() -> tuple[WorkerStats, int]:
            return worker.stats(), 1

        async with serving(WorkerSource(stats, lambda: None)) as metrics:
            async with raw_client(address) as client:
                await client.open(1, "127.0.0.1", port)
                await client.send(Data(1, b"x" * 1000))
                await client.data(1, 1000)
                status, head, body = await ask(metrics, get("/metrics"))
                assert status == 200 and "\r\nContent-Type: text/plain; version=" in head
                found = samples(body)
                for direction in ("up", "down"):
                    labels = {"token": "anyone", "direction": direction}
                    assert value(found, "worker_bytes_total", **labels) == 1000
                assert value(found, "worker_sessions", token="anyone") == 1
                assert value(found, "worker_streams", token="anyone") == 1
                assert value(found, "worker_sessions_begun_total", how="opened") == 1
                assert value(found, "worker_dns_latency_seconds_count") == 0
                assert ("process_open_fds", frozenset()) in found
            assert (await ask(address, get("/no")))[0] == 404
            await until(lambda: not any(a.sessions for a in worker.accounts.values()))
            await trio.sleep(0.25)  # an answer is given again for 0.2 s
            found = samples((await ask(metrics, get("/metrics?x=y")))[2])
            assert value(found, "worker_sessions", token="anyone") == 0
            assert value(found, "worker_bytes_total", token="anyone", direction="up") == 1000
            assert value(found, "worker_refused_total", reason="not_found") == 1
            accept = "Accept: application/openmetrics-text; version=1.0.0\r\n\r\n"
            _, head, body = await ask(metrics, get("/metrics").replace("\r\n\r\n", f"\r\n{accept}"))
            assert "application/openmetrics-text" in head and body.endswith("# EOF\n")


async def test_a_client_that_asks_for_a_version_that_is_none_is_answered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(Nothing()) as address:
        for accept in ("text/plain;version=x", "application/openmetrics-text; version=1.0.0a"):
            head = get("/metrics").replace("\r\n\r\n", f"\r\nAccept: {accept}\r\n\r\n")
            status, head, _ = await ask(address, head)
            assert status == 200 and "\r\nContent-Type: text/plain; version=0.0.4" in head
    assert not caplog.records


async def test_ready_and_what_there_is_not() -> None:
    source = Nothing()
    async with serving(source) as address:
        assert (await ask(address, get("/ready")))[::2] == (200, "ready\n")
        source.why = "the worker is away"
        assert (await ask(address, get("/ready")))[::2] == (503, "not ready: the worker is away\n")
        assert (await ask(address, get("/")))[0] == 404
        assert (await ask(address, get("/metrics").replace("GET", "POST")))[0] == 405
        assert (await ask(address, "GET /metrics\r\n\r\n"))[0] == 400
        assert (await ask(address, "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n"))[2] == ""


async def test_hostile_clients_keep_no_other_out() -> None:
    async with serving(Nothing()) as address, trio.open_nursery() as nursery:
        silent = [await trio.open_tcp_stream(*address) for _ in range(100)]
        for stream in silent[::2]:
            await stream.send_all(b"GET /metrics HTT")
        for _ in range(3):
            assert (await ask(address, get("/metrics")))[0] == 200
        with trio.fail_after(60):
            async with await trio.open_tcp_stream(*address) as stream:  # more than a head may have
                with pytest.raises(trio.BrokenResourceError):
                    while True:
                        await stream.send_all(b"X" * 65536)
        assert (await ask(address, get("/ready")))[0] == 200
        for stream in silent:
            await trio.aclose_forcefully(stream)
        nursery.cancel_scope.cancel()


def test_a_port_that_is_taken_is_told_before_anything_begins() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="cannot listen on 127.0.0.1:.*give `metrics` anoth"):
            listen_for_metrics(taken.getsockname())


@pytest.mark.parametrize(
    ("text", "address"),
    [("9100", ("127.0.0.1", 9100)), ("[::1]:0", ("::1", 0)), ("0.0.0.0:1", ("0.0.0.0", 1))],
)
def test_where(text: str, address: tuple[str, int]) -> None:
    assert parse_metrics(text) == address


@pytest.mark.parametrize("text", ["", "x", "99999", "\u0661", "host:9100", "-1"])
def test_where_not(text: str) -> None:
    with pytest.raises(ConfigError, match="give for example 127.0.0.1:9100") as caught:
        parse_metrics(text)
    assert caught.value.option == "metrics"


def test_counters_become_metrics_by_their_names() -> None:
    stats = {"bytes_in": 1, "bytes_out": 2, "drop_checksum": 3, "flows": 4, "opened": 5, "x": {}}
    made = counters("stack", stats, gauges={"flows"}, reasons={"drop_": "dropped_packets"})
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in made
        for sample in family.samples
    }
    assert found == {
        ("zks_lwip_stack_bytes_total", "in"): 1,
        ("zks_lwip_stack_bytes_total", "out"): 2,
        ("zks_lwip_stack_dropped_packets_total", "checksum"): 3,
        ("zks_lwip_stack_flows",): 4,
        ("zks_lwip_stack_opened_total",): 5,
    }


def test_a_histogram() -> None:
    values = Histogram((0.1, 1.0))
    for each in (0.05, 0.1, 0.5, 7.0):
        values.add(each)
    copy = Histogram.from_json(values.to_json())
    copy.merge(values)
    assert copy.counts == [4, 2, 2] and copy.count == 8 and copy.sum == 2 * values.sum
    with pytest.raises(ValueError, match="different bounds"):
        copy.merge(Histogram((1.0,)))
    family = histogram("x", "y", values)
    assert [s.value for s in family.samples if s.name.endswith("_bucket")] == [2, 3, 4]


def test_processes_are_added_up() -> None:
    one = WorkerStats([TokenStats("a", sessions=1, bytes_up=5), TokenStats("b")], refused={"x": 1})
    two = WorkerStats.from_json(
        WorkerStats(
            [TokenStats("a", sessions=2, bytes_up=7)],
            refused={"x": 2, "y": 1},
            certificate_expires=9.0,
        ).to_json()
    )
    one.add(two)
    assert [(t.name, t.sessions, t.bytes_up) for t in one.tokens] == [("a", 3, 12), ("b", 0, 0)]
    assert one.refused == {"x": 3, "y": 1} and one.certificate_expires == 9.0
    assert (one.sessions, one.streams) == (3, 0)
