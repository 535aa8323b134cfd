"""DNS: queries a second and latency, from the cache and through DNS over HTTPS.

The first part runs on loopback: our client against the same unbound and dnsdist asked by a plain
h2 script, and over plain UDP. The second goes the whole way, through a TUN, lwIP and `connect`,
with the server at the far end.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import trio

from tests.bench import _measure as measure
from tests.bench._dns_load import PlainH2, closed_loop, names, over_udp, query
from tests.kits import dns_daemons
from tests.kits.dns_daemons import Daemons
from tests.kits.netns import lab
from tests.kits.netns.lab import Lab, Namespace
from tests.kits.programs import find
from zks_lwip.dns import Cache, DnsService, make_upstreams, parse_server

IN_FLIGHT = 64
HEAD = ["loopback", "queries/s", "against the h2 script", "median ms", "p99 ms"]


class _NoTunnel:
    up = False

    def slowness(self) -> float:
        return 0.0

    def start_dns_query(self, message: bytes, on_answer: Callable[[bytes | None], None]) -> None:
        return None

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


async def _plain_h2(
    running: Daemons, port: int, count: int, in_flight: int = IN_FLIGHT
) -> tuple[float, list[float]]:
    script = PlainH2(running, port)
    async with trio.open_nursery() as nursery:
        await nursery.start(script.run)
        # Ids are 0, as a DoH client's are: the script does not need to know more of DNS.
        queries = [b"\0\0" + query(name)[2:] for name in islice(names(), count)]
        await closed_loop(script.ask, queries[:in_flight], in_flight)
        result = await closed_loop(script.ask, queries[in_flight:], in_flight)
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


def _dnsperf(
    net: Lab, host: Namespace, server: str, names_file: Path, *more: str, port: int = 53
) -> dict[str, float]:
    found = find("dnsperf")
    if found is None:
        raise SystemExit("this benchmark needs dnsperf")
    path, environment = found
    argv = [path, "-s", server, "-p", str(port), "-d", str(names_file), *more]
    text = net.application(host, *argv, env=environment).succeed(120)

    def number(pattern: str) -> float:
        match = re.search(pattern, text)
        if match is None:
            raise RuntimeError(text)
        return float(match[1])

    return {
        "rate": number(r"Queries per second: +([0-9.]+)"),
        "lost": number(r"Queries lost: +([0-9]+)"),
        "mean": number(r"Average Latency \(s\): +([0-9.]+)") * 1000,
    }


def _perf_row(name: str, result: dict[str, float], reference: float = 0.0) -> list[str]:
    rate = result["rate"]
    against = f"{rate / reference:.2f}" if reference else ""
    return [name, f"{rate:,.0f}", against, f"{result['mean']:.3f} (mean)", f"{result['lost']:.0f}"]


def whole_way(count: int) -> None:
    """Through TUN, lwIP and `connect`; the servers are at the far end of the lab."""
    rows = []
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(contextlib.closing(Lab()))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with net.far.entered():
            running = stack.enter_context(dns_daemons.daemons(folder, address=lab.FAR4))
        stack.enter_context(net.worker())
        plain_host, host = net.add_host(), net.add_host()
        cached = folder / "cached"
        cached.write_text("".join(f"h{number}.zks.test A\n" for number in range(1000)))

        def fresh(number: int) -> Path:
            path = folder / "fresh"
            path.write_text("".join(f"{name} A\n" for name in islice(names(), number)))
            return path

        in_flight = ["-q", str(IN_FLIGHT)]
        result = _dnsperf(net, plain_host, lab.FAR4, fresh(count), *in_flight, port=running.plain)
        rows.append(_perf_row(f"plain UDP, unbound asked directly, {IN_FLIGHT} in flight", result))
        for name, port in (("unbound", running.unbound_doh), ("dnsdist", running.dnsdist_doh)):
            for via in ("direct", "tunnel"):
                options = ["--dns-via", via, "--dns", running.url(port)]
                options += ["--ca-file", str(running.ca_file)]
                with net.connect(host, *options):
                    rows += _uncached(net, host, plain_host, running, port, f"{name} {via}", fresh)
        options = ["--dns-via", "direct", "--dns", running.url(running.unbound_doh)]
        options += ["--ca-file", str(running.ca_file)]
        with net.connect(host, *options):
            _dnsperf(net, host, lab.NAMESERVER, cached, "-n", "1", *in_flight)
            result = _dnsperf(net, host, lab.NAMESERVER, cached, "-l", "4", *in_flight)
            rows.append(_perf_row(f"tunnel, cached, {IN_FLIGHT} in flight", result))
            with host.entered():
                queries = [query(f"h{number}.zks.test") for number in range(1000)]
                one = _row("", over_udp(lab.NAMESERVER, 53, queries * 3, 1))
            rows.append(["tunnel, cached, 1 in flight", *one[1:4], f"(p99 {one[4]})"])
            _bulk(net, host, plain_host)
    measure.table(["the whole way", "queries/s", "against the script", "median ms", "lost"], rows)


def _uncached(
    net: Lab,
    host: Namespace,
    plain_host: Namespace,
    running: Daemons,
    port: int,
    name: str,
    fresh: Callable[[int], Path],
) -> list[list[str]]:
    """The plain script, directly, and the whole way, alternating; medians of five."""
    perf = ["-n", "1", "-q", str(IN_FLIGHT)]
    _dnsperf(net, host, lab.NAMESERVER, fresh(200), *perf)
    scripts, ours = [], []
    for _ in range(5):
        with plain_host.entered():
            scripts.append(trio.run(_plain_h2, running, port, 4000))
        ours.append(_dnsperf(net, host, lab.NAMESERVER, fresh(4000), *perf))
    scripts.sort(key=lambda result: result[0])
    ours.sort(key=lambda result: result["rate"])
    script, result = scripts[2], ours[2]
    with plain_host.entered():
        alone = trio.run(_plain_h2, running, port, 1000, 1)
    with host.entered():
        queries = [query(one) for one in islice(names(), 1000)]
        one = _row("", over_udp(lab.NAMESERVER, 53, queries, 1), alone[0])
    return [
        [*_row(f"h2 script, {name}, {IN_FLIGHT} in flight", script, script[0])[:4], ""],
        _perf_row(f"tunnel, {name}, uncached, {IN_FLIGHT} in flight", result, script[0]),
        [*_row(f"h2 script, {name}, 1 in flight", alone, alone[0])[:4], ""],
        [f"tunnel, {name}, uncached, 1 in flight", *one[1:4], f"(p99 {one[4]})"],
    ]


RATE = 10_000  # cached queries a second beside a bulk transfer


def _bulk(net: Lab, host: Namespace, plain_host: Namespace) -> None:
    """iperf3 alone, beside 10,000 cached answers a second, and beside as many that we never see.

    The last is the control: the same generator, at the same rate, asks a program at the far end
    that gives every query back; what they and their packets cost this machine is not our doing.
    """
    steady = [*lab.PYTHON, "-m", "tests.bench._dns_steady"]
    with net.child("answerer", net.far.command([*steady, "answer", lab.FAR4])) as answerer:
        port = answerer.wait_for(r"^port (\d+)")[1]
        beside: dict[str, tuple[Namespace, list[str]] | None] = {
            "alone": None,
            "control": (plain_host, [lab.FAR4, port]),
            "tunnel": (host, [lab.NAMESERVER, "53"]),
        }
        rates: dict[str, list[float]] = {name: [] for name in beside}
        for _ in range(5):
            for name, how in beside.items():
                load = None
                if how is not None:
                    load = net.application(how[0], *steady, "ask", *how[1], str(RATE), "6")
                    time.sleep(0.7)
                start = functools.partial(net.application, host)
                rate, _ = measure.iperf(net, start, seconds=4, streams=1, reverse=True)
                rates[name].append(rate)
                if load is not None:
                    _, sent, _, answered = load.succeed(30).split()
                    if int(answered) < 0.99 * int(sent) or int(sent) < 5.9 * RATE:
                        raise RuntimeError(f"{name}: {sent} queries, {answered} answers")
    alone, control, tunnel = (measure.median(rates[name]) for name in beside)
    print(
        f"bulk transfer, medians of five: {alone:.2f} Gbit/s alone; {control:.2f} beside "
        f"{RATE:,} queries a second that do not come to us (the control); {tunnel:.2f} beside "
        f"{RATE:,} cached answers a second: {tunnel / control:.2f} of the control, "
        f"{tunnel / alone:.2f} of the transfer alone"
    )


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m tests.bench dns", description=__doc__)
    parser.add_argument("--count", type=int, default=4000, help="queries of each kind (4000)")
    parser.add_argument("--part", choices=["loopback", "whole", "both"], default="both")
    arguments = parser.parse_args(argv)
    if reason := dns_daemons.missing():
        raise SystemExit(f"this benchmark needs unbound and dnsdist: {reason}")
    print(measure.machine())
    if arguments.part != "whole":
        loopback(arguments.count)
    if arguments.part != "loopback":
        measure.need_root()
        whole_way(arguments.count)
    return 0
