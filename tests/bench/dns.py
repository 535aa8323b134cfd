"""DNS: queries a second and latency, from the cache and through DNS over HTTPS.

The first part runs on loopback: our client against the same unbound and dnsdist asked by a plain
h2 script, and over plain UDP. The second goes the whole way, through a TUN, lwIP and `connect`,
with the server at the far end.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import trio

from tests import dns_daemons
from tests.bench import _measure as measure
from tests.bench._dns_load import PlainH2, closed_loop, names, over_udp, query
from tests.dns_daemons import Daemons
from zks_lwip.dns import Cache, DnsService, make_upstreams, parse_server

IN_FLIGHT = 64
HEAD = ["loopback", "queries/s", "against the h2 script", "median ms", "p99 ms"]


class _NoTunnel:
    up = False

    async def dns_query(self, message: bytes) -> bytes:
        raise AssertionError("nothing goes through a tunnel here")

    async def connect_tcp(self, host: str, port: int) -> trio.abc.HalfCloseableStream:
        raise AssertionError("nothing goes through a tunnel here")


def _row(name: str, result: tuple[float, Sequence[float]], reference: float = 0.0) -> list[str]:
    rate, times = result
    milliseconds = [seconds * 1000 for seconds in times]
    return [
        name,
        f"{rate:,.0f}",
        f"{rate / reference:.2f}" if reference else "",
        f"{measure.median(milliseconds):.3f}",
        f"{measure.quantile(milliseconds, 0.99):.3f}",
    ]


async def _plain_h2(running: Daemons, port: int, count: int) -> tuple[float, list[float]]:
    script = PlainH2(running, port)
    async with trio.open_nursery() as nursery:
        await nursery.start(script.run)
        # Ids are 0, as a DoH client's are: the script does not need to know more of DNS.
        queries = [b"\0\0" + query(name)[2:] for name in islice(names(), count)]
        await closed_loop(script.ask, queries[:IN_FLIGHT], IN_FLIGHT)
        result = await closed_loop(script.ask, queries[IN_FLIGHT:], IN_FLIGHT)
        nursery.cancel_scope.cancel()
    return result


async def _service(running: Daemons, url: str, count: int) -> list[tuple[float, list[float]]]:
    """Uncached, then cached."""
    made = make_upstreams(
        [parse_server(url)], tunnel=_NoTunnel(), embedded=True, ca_file=running.ca_file
    )
    service = DnsService(made.resolvers, hosts=None, cache=Cache(count))

    async def ask(message: bytes) -> bytes:
        answer = await service.answer(message)
        if answer is None:
            raise RuntimeError("a query was dropped")
        return answer

    async def ask_cached(message: bytes) -> bytes:
        answer = service.answer_now(message)
        if answer is None:
            raise RuntimeError("it is not in the cache")
        return answer

    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        queries = [query(name) for name in islice(names(), count)]
        await closed_loop(ask, queries[:IN_FLIGHT], IN_FLIGHT)
        uncached = await closed_loop(ask, queries[IN_FLIGHT:], IN_FLIGHT)
        cached = await closed_loop(ask_cached, queries[IN_FLIGHT:] * 5, 1)
        nursery.cancel_scope.cancel()
    return [uncached, cached]


def loopback(count: int) -> None:
    """Our client and the plain script, one after the other, twice, so that drift shows."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, dns_daemons.daemons(Path(folder)) as running:
        for name, port in (("unbound", running.unbound_doh), ("dnsdist", running.dnsdist_doh)):
            for _ in range(2):
                script = trio.run(_plain_h2, running, port, count)
                ours, cached = trio.run(_service, running, running.url(port), count)
                rows.append(_row(f"{name}, h2 script", script, script[0]))
                rows.append(_row(f"{name}, DnsService", ours, script[0]))
        rows.append(_row("DnsService, cached (no sockets)", cached))
        queries = [query(one) for one in islice(names(), count)]
        plain = over_udp(running.address, running.plain, queries, IN_FLIGHT)
        rows.append(_row("unbound, plain UDP", plain))
    measure.table(HEAD, rows)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m tests.bench dns", description=__doc__)
    parser.add_argument("--count", type=int, default=4000, help="queries of each kind (4000)")
    arguments = parser.parse_args(argv)
    if reason := dns_daemons.missing():
        raise SystemExit(f"this benchmark needs unbound and dnsdist: {reason}")
    print(measure.machine())
    loopback(arguments.count)
    return 0
