"""UDP: datagrams of 1,200 bytes a second without loss, up and down, direct and through the tunnel.

The highest rate is searched for by halving: a rate passes when everything sent in a trial has
arrived; one that fails is tried once more, since the machine has other work, too. What counts is
the rate that the sender has really reached. CPU is that of one datagram, at the highest rate that
passed. DNS is asked through the tunnel, by the worker's name server, names that are not cached.
"""

from __future__ import annotations

import argparse
import socket
import struct
import time
from collections.abc import Callable
from functools import partial

from tests.bench import _measure as measure
from tests.kits.netns import lab
from tests.kits.netns.datagrams import Load, load
from tests.kits.netns.lab import Lab, Namespace
from tests.kits.netns.talk import new_socket

PORT = 9201
FIRST_RATE = 40_000.0
"""Where the search begins, unless less is the most."""
CLOSE = 1.1
"""The search ends when the rate that failed is no more than so many times the one that passed."""


def best(trial: Callable[[float], Load], most: float) -> tuple[float, float | None]:
    """Return the highest rate without loss, and the lowest with some (None: up to ``most``)."""
    good, bad, rate = 0.0, None, min(FIRST_RATE, most)
    while bad is None or good * CLOSE < bad:
        passed = 0.0
        for _ in range(2):
            done = trial(rate)
            if done.received >= done.sent:
                passed = done.rate
                break
        if passed and passed < rate / CLOSE:  # the sender itself cannot send more
            return max(good, passed), None
        if passed:
            good = max(good, passed)
        else:
            bad = rate
        if bad is None:
            if rate >= most:
                break
            rate = min(rate * 2, most)
        else:
            rate = (good * bad) ** 0.5 if good else bad / 2
            if rate < 500:
                break
    return good, bad


class Trials:
    """Trials of one kind, and what the last one that counts has cost."""

    def __init__(self, pids: dict[str, int], run: Callable[..., Load]) -> None:
        self._pids = pids
        self._run = run
        self.costs: list[str] = []
        """CPU microseconds of each role for a datagram, of the last trial that lost nothing, or of
        the last one of all."""
        self._clean = False

    def trial(self, rate: float) -> Load:
        """Run one at a rate."""
        before = measure.cpu(self._pids)
        done = self._run(rate=rate)
        after = measure.cpu(self._pids)
        clean = done.received >= done.sent
        if clean or not self._clean:
            self._clean = clean
            each = 1e6 / max(1, done.received)
            self.costs = [f"{(after[role] - before[role]) * each:.2f}" for role in self._pids]
        return done


def queries(net: Lab, host: Namespace, count: int, in_flight: int) -> float:
    """Names a second that are answered, each asked for once, so many at a time."""
    with new_socket(host, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.connect((lab.NAMESERVER, 53))
        sent = answered = 0
        begin = time.perf_counter()
        while answered < count:
            while sent < count and sent - answered < in_flight:
                name = b"\x06q%05d\x03zks\x04test\x00" % sent
                head = struct.pack("!6H", sent & 0xFFFF, 0x100, 1, 0, 0, 0)
                sock.send(head + name + b"\x00\x01\x00\x01")
                sent += 1
            sock.recv(2000)
            answered += 1
        return count / (time.perf_counter() - begin)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m tests.bench udp", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1, help="of a trial (1)")
    parser.add_argument("--size", type=int, default=1200, help="bytes of a datagram (1200)")
    parser.add_argument("--flows", type=int, nargs="+", default=[1, 64], help="(1 64)")
    parser.add_argument("--only", choices=["up", "down"], help="one direction")
    parser.add_argument("--most", type=float, default=640_000, help="highest rate tried (640000)")
    parser.add_argument("--at", type=float, help="no search: loss and CPU at this rate")
    parser.add_argument("--no-direct", action="store_true", help="through the tunnel only")
    parser.add_argument("--queries", type=int, default=3000, help="of DNS; 0: none (3000)")
    parser.add_argument("connect_options", nargs="*", help="after --: options for connect")
    measure.add_link_arguments(parser)
    arguments = parser.parse_args(argv)
    directions = [arguments.only] if arguments.only else ["up", "down"]
    print(measure.machine())
    rows = []
    link = measure.link_of(arguments)
    options = [*arguments.connect_options, "--dns-via", "worker"]
    with measure.tunnel(options, link) as (net, tunnelled, direct, pids):
        hosts = (
            {"tunnel": tunnelled}
            if arguments.no_direct
            else {"direct": direct} | {"tunnel": tunnelled}
        )
        for flows in arguments.flows:
            for direction in directions:
                for name, host in hosts.items():
                    trials = Trials(
                        pids,
                        partial(
                            load,
                            host,
                            net.far,
                            lab.FAR4,
                            PORT,
                            down=direction == "down",
                            seconds=arguments.seconds,
                            size=arguments.size,
                            flows=flows,
                        ),
                    )
                    if arguments.at:
                        done = trials.trial(arguments.at)
                        figure = f"{done.rate:,.0f}, {1 - done.received / done.sent:.2%} lost"
                    else:
                        figure = f"{best(trials.trial, arguments.most)[0]:,.0f}"
                    costs = trials.costs if name == "tunnel" else ["", ""]
                    what = f"{direction}, {flows} flow{'s' if flows > 1 else ''}, {name}"
                    rows.append([what, figure, *costs])
        if arguments.queries:
            rate = queries(net, tunnelled, arguments.queries, 64)
            rows.append(["DNS queries, 64 at a time", f"{rate:,.0f}", "", ""])
    head = ["", "a second, none lost", *(f"{role} CPU µs each" for role in pids)]
    measure.table(head, rows)
    return 0
