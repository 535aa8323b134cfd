"""What resuming costs: bulk transfer with `--resume` on and off, in turn, in the same sitting.

Two workers and two hosts with a tunnel each stand in one lab; only the worker's `--resume` differs.
Rounds are interleaved, and which of the two is first alternates, so that what else the machine does
meets both. A ratio, on to off, is the median of those of the rounds. CPU is that of tunnel and
worker together, and the steadier figure.
"""

from __future__ import annotations

import argparse
import contextlib
from functools import partial

from tests.bench import _measure as measure
from tests.kits.netns import lab
from tests.kits.netns.lab import Lab

_SECONDS = {"off": 0, "on": 60}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser("python -m tests.bench resume", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3, help="of each measurement (3)")
    parser.add_argument("--rounds", type=int, default=7, help="of each; the median counts (7)")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8], help="(1 8)")
    parser.add_argument("--only", choices=["up", "down"], help="one direction")
    arguments = parser.parse_args(argv)
    directions = [arguments.only] if arguments.only else ["up", "down"]
    measure.need_root()
    print(measure.machine())
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(contextlib.closing(Lab()))
        starts, pids = {}, {}
        for number, (name, seconds) in enumerate(_SECONDS.items()):
            listen = f"{lab.WORKER4}:{lab.WORKER_PORT + number}"
            worker = stack.enter_context(net.worker("--resume", str(seconds), listen=listen))
            host = net.add_host()
            tunnel = stack.enter_context(net.connect(host, url=f"ws://{listen}"))
            starts[name] = partial(net.application, host)
            pids[name] = {"connect": tunnel.pid, "worker": worker.pid}
        rows = []
        for streams in arguments.streams:
            for direction in directions:
                rates: dict[str, list[float]] = {name: [] for name in _SECONDS}
                costs: dict[str, list[float]] = {name: [] for name in _SECONDS}
                for turn in range(arguments.rounds):
                    order = list(_SECONDS)
                    for name in order if turn % 2 else reversed(order):
                        before = sum(measure.cpu(pids[name]).values())
                        rate, size = measure.iperf(
                            net,
                            starts[name],
                            seconds=arguments.seconds,
                            streams=streams,
                            reverse=direction == "down",
                        )
                        used = sum(measure.cpu(pids[name]).values()) - before
                        rates[name].append(rate)
                        costs[name].append(used / size)
                speed = {name: measure.median(values) for name, values in rates.items()}
                cost = {name: measure.median(values) for name, values in costs.items()}
                rows.append(
                    [
                        f"{direction}, {streams} stream{'s' if streams > 1 else ''}",
                        f"{speed['off']:.2f}",
                        f"{speed['on']:.2f}",
                        _ratio(rates),
                        f"{cost['off']:.2f}",
                        f"{cost['on']:.2f}",
                        _ratio(costs),
                    ]
                )
    head = ["", "off Gbit/s", "on Gbit/s", "ratio", "off CPU s/GB", "on CPU s/GB", "ratio"]
    measure.table(head, rows)
    return 0


def _ratio(values: dict[str, list[float]]) -> str:
    pairs = zip(values["on"], values["off"], strict=True)
    return f"{measure.median([on / off for on, off in pairs]):.3f}"
