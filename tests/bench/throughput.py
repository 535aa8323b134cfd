"""Bulk transfer: iperf3 direct, and through TUN → lwIP → WebSocket → worker, in the same sitting.

The direct figures are the limit of this machine at this moment (both go through the same three
namespaces and share its cores with iperf3): read the ratio more than the Gbit/s.
"""

from __future__ import annotations

import argparse
from functools import partial

from tests.bench import _measure as measure


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m tests.bench throughput", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement (5)")
    parser.add_argument("--rounds", type=int, default=1, help="of each; the median counts (1)")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8], help="(1 8)")
    parser.add_argument("--only", choices=["up", "down"], help="one direction")
    parser.add_argument("connect_options", nargs="*", help="after --: options for connect")
    parser.add_argument("--run", action="store_true", help="through `run`, too")
    measure.add_link_arguments(parser)
    arguments = parser.parse_args(argv)
    link = measure.link_of(arguments)
    directions = [arguments.only] if arguments.only else ["up", "down"]
    print(measure.machine())
    with measure.tunnel(arguments.connect_options, link) as (net, tunnelled, direct, pids):
        rows = []
        straight = partial(net.application, direct)
        through = partial(net.application, tunnelled)
        inside = partial(net.run, net.add_host())
        for streams in arguments.streams:
            for direction in directions:
                reverse = direction == "down"
                limits, rates, total = [], [], 0.0
                used = dict.fromkeys(pids, 0.0)
                for _ in range(arguments.rounds):
                    common = {"seconds": arguments.seconds, "streams": streams, "reverse": reverse}
                    limits.append(measure.iperf(net, straight, **common)[0])
                    before = measure.cpu(pids)
                    rate, size = measure.iperf(net, through, **common)
                    after = measure.cpu(pids)
                    rates.append(rate)
                    total += size
                    used = {role: used[role] + after[role] - before[role] for role in pids}
                limit, rate = measure.median(limits), measure.median(rates)
                rows.append(
                    [
                        f"{direction}, {streams} stream{'s' if streams > 1 else ''}",
                        f"{limit:.2f}",
                        f"{rate:.2f}",
                        f"{rate / limit:.1%}",
                        *(f"{seconds / total:.2f}" for seconds in used.values()),
                    ]
                )
                if arguments.run:
                    ran, _ = measure.iperf(net, inside, **common)
                    rows.append(
                        ["  the same in run", "", f"{ran:.2f}", f"{ran / limit:.1%}", "", ""]
                    )
    head = ["", "direct Gbit/s", "tunnel Gbit/s", "ratio"]
    measure.table(head + [f"{role} CPU s/GB" for role in pids], rows)
    return 0
