"""How long after the end of an outage bytes flow again: a session that is resumed (PROTOCOL.md §6).

An application talks all the time over a link that loses everything for some seconds, and then
nothing. What is measured is from the link's return until the next byte comes back to the
application, less one round trip of the link, which nothing can save.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import time

from tests.bench import _measure as measure
from tests.kits.netns.child import Child, until
from tests.kits.netns.commands import counters
from tests.kits.netns.lab import Lab
from tests.kits.netns.talker import Talker

SHORTEST = 4.0
"""Seconds of an outage: silence is suspicious after two, and before that nothing is resumed."""


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m tests.bench outage", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5, help="of each outage (5)")
    parser.add_argument("--rounds", type=int, default=8, help="of each (8)")
    parser.add_argument("--trips", type=float, nargs="+", default=[20, 60, 150], help="ms")
    parser.add_argument("--fast-open", action="store_true", help="let both ends do so")
    arguments = parser.parse_args(argv)
    if arguments.seconds < SHORTEST:
        parser.error(f"--seconds {arguments.seconds:g}: give {SHORTEST:g} or more")
    measure.need_root()
    print(measure.machine())
    rows = []
    with contextlib.closing(Lab()) as net:
        if arguments.fast_open:
            net.mid.sysctl("net.ipv4.tcp_fastopen=3")
        with net.worker():
            for trip in arguments.trips:
                host, link = net.add_linked_host(delay=trip / 2000)
                options = ["--fast-open"] if arguments.fast_open else []
                with net.connect(host, *options) as connect, Talker(host) as talker:
                    found = []
                    for number in range(arguments.rounds):
                        talker.wait_for_answer()
                        time.sleep(0.5)
                        link.blackhole()
                        # (So that its end is at no certain time of the client's.)
                        time.sleep(arguments.seconds + random.random() * 0.1)
                        link.restore()
                        found.append(1000 * talker.wait_for_answer() - trip)
                        until(lambda n=number: _resumed(connect) > n)
                found.sort()
                row = [f"{trip:g} ms", f"{found[0]:.0f}", f"{measure.median(found):.0f}"]
                rows.append([*row, f"{found[-1]:.0f}", str(sum(each <= 50 for each in found))])
    head = ["round trip", "least", "median", "most ms", f"of {arguments.rounds} within 50 ms"]
    measure.table(head, rows)
    return 0


def _resumed(connect: Child) -> int:
    return int(counters(connect)["tunnel"]["sessions_resumed"])
