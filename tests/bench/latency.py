"""Round trips: a 1-byte TCP echo, idle and under bulk load, and pings while Python is blocked.

The echo is measured with and without TCP_NODELAY. The last part blocks the trio thread of a stack
for 500 ms at a time and pings the address that the stack answers for itself: the pump, in C, must
not need Python for that.
"""

from __future__ import annotations

import argparse
import re
import socket
import time

from tests.bench import _measure as measure
from tests.kits.netns import client, lab, servers
from tests.kits.netns.child import Child
from tests.kits.netns.lab import PYTHON, Lab, Namespace


def echo_times(host: Namespace, target: str, count: int, nodelay: bool) -> list[float]:
    """Milliseconds of ``count`` round trips of one byte over one connection."""
    times = []
    with host.entered(), client.connect(target, servers.ECHO) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, nodelay)
        sock.setblocking(True)
        for index in range(count + 50):
            started = time.perf_counter()
            sock.send(b"x")
            sock.recv(1)
            if index >= 50:
                times.append((time.perf_counter() - started) * 1000)
    return times


def _row(name: str, times: list[float]) -> list[str]:
    numbers = (measure.median(times), measure.quantile(times, 0.99), max(times))
    return [name, str(len(times)), *(f"{value:.3f}" for value in numbers)]


def _loaded(net: Lab, host: Namespace, seconds: float, reverse: bool) -> Child:
    """iperf3 with 4 streams in the background; it has begun when this returns."""
    server = net.child("iperf3 server", net.far.command(["iperf3", "-s", "-1", "--forceflush"]))
    server.wait_for("Server listening")
    argv = ["iperf3", "-c", lab.FAR4, "-t", f"{seconds:g}", "-P", "4", "--forceflush", "-i", "1"]
    load = net.application(host, *argv, *(["-R"] if reverse else []))
    load.wait_for(r"SUM.*bits/sec")
    return load


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m tests.bench latency", description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="round trips of each kind (2000)")
    parser.add_argument("--no-load", action="store_true", help="leave the loaded part away")
    parser.add_argument("--no-ping", action="store_true", help="leave the blocked part away")
    parser.add_argument("connect_options", nargs="*", help="after --: options for connect")
    measure.add_link_arguments(parser)
    arguments = parser.parse_args(argv)
    link = measure.link_of(arguments)
    print(measure.machine())
    rows = []
    with measure.tunnel(arguments.connect_options, link) as (net, tunnelled, direct, _):
        for name, host in (("direct", direct), ("tunnel", tunnelled)):
            for nodelay in (True, False):
                kind = "TCP_NODELAY" if nodelay else "Nagle"
                times = echo_times(host, lab.FAR4, arguments.count, nodelay)
                rows.append(_row(f"{name}, idle, {kind}", times))
        for reverse in () if arguments.no_load else (False, True):
            for name, host in (("direct", direct), ("tunnel", tunnelled)):
                seconds = 6.0
                with _loaded(net, host, seconds, reverse) as load:
                    times = []
                    while load.process.poll() is None and len(times) < arguments.count:
                        times += echo_times(host, lab.FAR4, 50, nodelay=True)
                    load.wait(seconds + 20)
                rows.append(_row(f"{name}, bulk {'down' if reverse else 'up'}", times))
        if not arguments.no_ping:
            rows.append(_row("ping, Python blocked", blocked_pings(net)))
    measure.table(["milliseconds", "count", "median", "p99", "largest"], rows)
    return 0


def blocked_pings(net: Lab) -> list[float]:
    """Ping times of a stack whose Python is away for 500 of every 550 ms."""
    host = net.add_host()
    argv = [*PYTHON, "-m", "tests.bench._blocked"]
    with Child("blocked stack", host.command(argv)) as stack:
        address = stack.wait_for(r"answers at (\S+)").group(1)
        text = net.application(
            host, "ping", "-c", "300", "-i", "0.01", "-W", "2", address
        ).succeed()
    times = [float(value) for value in re.findall(r"time=([\d.]+) ms", text)]
    if len(times) < 300:
        print(f"{300 - len(times)} of 300 pings were lost")
    return times
