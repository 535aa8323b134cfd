"""``python -m tests.soak --minutes 20``: as root, in network namespaces that it makes and removes.

Load of every kind of :mod:`tests.soak.load` passes through a ``connect`` and a worker, over a link
that is cut now and then for less time than a session waits; programs with many connections are
killed, and other clients of the worker come, work, and go or are killed. At the end very many
connections are opened at once, half of them reset and the others closed. Flows, descriptors, tasks,
memory and the C heap of both are sampled. When the load has ended, all have to be where they began
within two minutes: flows, tasks and descriptors as before the first load, memory as after a first
round of it. (UDP mappings have their own, longer time, and their memory with them.) Ends with 1,
and says what did not return, if not; likewise when a byte was lost or wrong on the way.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from tests.bench.compare.measures import parts
from tests.kits.netns import lab
from tests.kits.netns.child import Child, ChildError
from tests.kits.netns.floods import raise_descriptors
from tests.kits.netns.lab import PYTHON, ZKS, Lab, Namespace
from tests.kits.netns.link import Link
from tests.soak.load import IDLE, KINDS
from tests.soak.samples import Sample, Sampler, not_returned

RETURN = 120.0
"""Seconds after the load within which all has to be where it began."""
WATCHED = ("env", f"PYTHONPATH={Path(__file__).with_name('inside')}", *ZKS)
"""Our command line, whose processes can be asked: see inside/sitecustomize.py."""
SPARE_DESCRIPTORS = 8192
"""That a process of the worker may have besides those of the flows that are open at once: it keeps
some 1,150 for itself, UDP mappings take up to 4,096, and connections of before linger."""
UDP_RETURN = 330.0
"""Seconds for UDP mappings: they may live for 300 s (RFC 4787 REQ-5)."""
EVERY = 5.0
"""Seconds between two samples."""
CUT_EVERY, CUT = 15.0, 1.5
"""Seconds between two cuts of the link, and for which it is cut."""
LINK = {"rate": 1e9, "delay": 0.001}
"""Of the host to the worker."""


class Soak:
    """The load, by a ``connect`` in ``host`` and by passing clients in ``other``."""

    def __init__(self, net: Lab, host: Namespace, link: Link, options: argparse.Namespace) -> None:
        self.net = net
        self.host = host
        self.link = link
        self.other = net.add_host()
        self.kinds = [kind for kind in KINDS if kind not in options.without]
        self.killed = 0 if "killed" in options.without else options.killed
        self.passing = "passing" not in options.without
        self.cuts = "cuts" not in options.without
        self.many = options.flows
        self.parts = options.parts
        self.done: dict[str, int] = {}
        self.wrong: dict[str, int] = {}
        self._counting = threading.Lock()

    @property
    def idle(self) -> list[str]:
        """Kinds of which nothing was done: they show nothing."""
        wanted = [*self.kinds, *["killed"] * bool(self.killed), *["passing"] * self.passing]
        wanted += [*["cuts"] * self.cuts, *["many"] * bool(self.many)]
        return [kind for kind in wanted if not self.done.get(kind)]

    def count(self, kind: str, done: int = 1, wrong: str = "", times: int = 1) -> None:
        with self._counting:
            if wrong:
                what = f"{kind}: {wrong}"
                self.wrong[what] = self.wrong.get(what, 0) + times
            else:
                self.done[kind] = self.done.get(kind, 0) + done

    def round(self, seconds: float, meanwhile: Callable[[], object]) -> None:
        """All kinds for so long; ``meanwhile`` is called every few seconds."""
        end = time.monotonic() + seconds
        jobs: list[Callable[[], None]] = [
            lambda kind=kind: self._load(kind, seconds)  # type: ignore[misc]
            for kind in self.kinds
        ]
        if self.killed:
            jobs.append(lambda: self._kill(end))
        if self.passing:
            jobs.append(lambda: self._pass_by(end))
        if self.cuts:
            jobs.append(lambda: self._cut(end, min(CUT_EVERY, seconds / 2)))
        with ThreadPoolExecutor(len(jobs)) as threads:
            futures: list[Future[None]] = [threads.submit(job) for job in jobs]
            while not all(future.done() for future in futures):
                meanwhile()
                time.sleep(min(EVERY, max(0.2, end - time.monotonic())))
            for future in futures:
                future.result()
        meanwhile()

    def open_many(self, meanwhile: Callable[[], object]) -> None:
        """Have very many connections open at once, half of which are then reset.

        :param meanwhile: called when all are open.
        """
        if not self.many:
            return
        with ExitStack() as stack:
            opening = [
                stack.enter_context(
                    self._application("many", count, IDLE + number, stdin=subprocess.PIPE)
                )
                for number, count in enumerate(parts(self.many, self.parts))
            ]
            for child in opening:
                child.wait_for("^open$", 600)
            meanwhile()
            for child in opening:
                assert child.process.stdin is not None
                child.process.stdin.write(b"\n")
                child.process.stdin.flush()
            for child in opening:
                child.succeed(600)
        self.count("many", self.many)

    def _application(self, *arguments: object, **options: int) -> Child:
        argv = [*PYTHON, "-m", "tests.soak.load", *map(str, arguments)]
        return self.net.application(self.host, *argv, **options)

    def _load(self, kind: str, seconds: float) -> None:
        child = self._application(kind, f"{seconds:g}", KINDS[kind][1])
        told = json.loads(child.succeed(seconds + 120))
        self.count(kind, told["done"])
        for error, times in told["wrong"].items():
            self.count(kind, wrong=error, times=times)

    def _kill(self, end: float) -> None:
        """Programs with many quiet connections are killed, all of which are reset at once."""
        while time.monotonic() < end:
            with self._application("hold", self.killed) as child:
                held = child.wait_for(r"holding (\d+) of", 240)
                time.sleep(1)
                child.process.kill()
                child.wait()
            self.count("killed", int(held[1]))
            time.sleep(5)

    def _cut(self, end: float, every: float) -> None:
        """The link is dead for a moment, again and again; sessions are resumed."""
        while time.monotonic() + every < end:
            time.sleep(every)
            self.link.blackhole()
            time.sleep(CUT)
            self.link.restore()
            self.count("cuts")

    def _pass_by(self, end: float) -> None:
        """Clients of the worker's with sessions of their own; every other one is killed."""
        number = 0
        while time.monotonic() < end:
            number += 1
            if number % 2:
                argv = [*PYTHON, "-m", "tests.kits.netns.client", "duplex", lab.FAR4, "4", "500000"]
                with self.net.run(self.other, *argv) as child:
                    try:
                        child.succeed(120)
                    except ChildError as error:
                        self.count("passing", wrong=str(error).splitlines()[0])
                        continue
            else:
                argv = [*PYTHON, "-m", "tests.soak.load", "hold", "50"]
                with self.net.run(self.other, *argv) as child:
                    child.wait_for("holding", 240)
                    child.process.kill()
                    child.wait()
            self.count("passing")


def wait_for_return(
    sampler: Sampler, before: Sample, warm: Sample, tolerance: float, *, udp: bool = True
) -> list[str]:
    """Wait until all is where it was, or the time is over; what is not."""
    began = time.monotonic()
    missing: list[str] = []
    for mappings, seconds in ((False, RETURN), (True, UDP_RETURN)):
        while True:
            missing = not_returned(before, warm, sampler.take("after"), tolerance, udp=mappings)
            if not missing or time.monotonic() - began > seconds:
                break
            time.sleep(EVERY)
        if missing or not udp:
            break
    return missing


def soak(options: argparse.Namespace) -> int:
    net = Lab()
    try:
        net.child(
            "more far ends", net.far.command([*PYTHON, "-m", "tests.soak.load", "far"])
        ).wait_for("far ends are ready")
        for number in range(options.parts):
            argv = [*PYTHON, "-m", "tests.soak.load", "idle", str(IDLE + number)]
            net.child("idle far end", net.far.command(argv)).wait_for("idle far end is ready")
        return _soak(net, options)
    finally:
        net.close()


def _soak(net: Lab, options: argparse.Namespace) -> int:
    host, link = net.add_linked_host(**LINK)
    load = Soak(net, host, link, options)
    seconds = options.minutes * 60
    first = min(120.0, seconds / 3)
    room = str(options.flows + 12288)
    of_worker, of_client = ["--max-streams", room], ["--dns-via", "worker", "--max-flows", room]
    if options.parts > 1:  # several channels to each process of the worker
        of_worker += ["--processes", str(options.parts)]
        of_client += ["--channels", str(min(16, 4 * options.parts))]
    with (
        net.worker(*of_worker, zks=WATCHED) as worker,
        net.connect(host, *of_client, zks=WATCHED) as client,
    ):
        sampler = Sampler(client, worker)
        time.sleep(2)
        began = sampler.take("began")
        load.round(first, lambda: sampler.take("first"))
        load.open_many(lambda: sampler.take("many open"))
        # What a first round leaves for good (pools, caches, code) is no leak; flows are.
        wait_for_return(sampler, began, began, float("inf"), udp=False)
        warm = sampler.take("warm")
        load.round(seconds - first, lambda: sampler.take("load"))
        load.open_many(lambda: sampler.take("many open"))
        missing = wait_for_return(sampler, began, warm, options.tolerance)
        net.application(host, *PYTHON, "-m", "tests.kits.netns.client", "who", lab.FAR4).succeed(60)
        stopped = [child.stop() for child in (client, worker)]
    for kind, count in sorted(load.done.items()):
        print(f"{kind:12} {count:>9,} done")
    for error, count in sorted(load.wrong.items()):
        print(f"  wrong {count:>6,} × {error}")
    for child in (client, worker):
        try:
            child.no_traceback()
        except ChildError as error:
            missing.append(str(error).splitlines()[0])
            print(error)
    if any(stopped):
        missing.append(f"exit codes {stopped}")
    missing += [f"nothing of {kind} was done" for kind in load.idle]
    if load.wrong:
        missing.append(f"{sum(load.wrong.values())} operations went wrong")
    for line in missing:
        print(f"NOT AS IT BEGAN: {line}")
    if not missing:
        within = f"± {options.tolerance:g} %"
        print(f"flows, descriptors, tasks and memory are where they began ({within})")
    return 1 if missing else 0


def main(argv: list[str], prog: str = "python -m tests.soak") -> int:
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0, help="of load (20)")
    parser.add_argument(
        "--killed", type=int, default=1500, help="connections of each program killed (1500)"
    )
    parser.add_argument(
        "--flows",
        type=int,
        default=20_000,
        help="connections that are open at once after the load (20000; 0: leave that out)",
    )
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        choices=[*KINDS, "killed", "passing", "cuts"],
        help="leave a kind of load out",
    )
    parser.add_argument(
        "--tolerance", type=float, default=5.0, help="per cent of memory that may stay (5)"
    )
    options = parser.parse_args(argv)
    if os.geteuid() != 0:
        parser.error("it makes network namespaces: run it as root")
    # Ended from outside (`timeout`), it still ends what it has started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    Path("/run/netns").mkdir(parents=True, exist_ok=True)
    most = raise_descriptors(options.flows + SPARE_DESCRIPTORS) - SPARE_DESCRIPTORS
    if most <= 0:
        parser.error(f"a process may have {most + SPARE_DESCRIPTORS:,} descriptors: too few")
    options.parts = max(1, -(-options.flows // most))
    if options.parts > 1:
        print(f"descriptors are for {most:,} connections a process: {options.parts} of each serve")
    return soak(options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
