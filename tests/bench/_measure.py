"""What the benchmarks share: the lab with a tunnel, CPU time, tables."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence

from tests.netns import lab
from tests.netns.child import Child, cpu_seconds, descendants
from tests.netns.lab import Lab, Namespace


def need_root() -> None:
    if os.geteuid() != 0:
        raise SystemExit("this benchmark makes network namespaces: run it as root")


@contextlib.contextmanager
def tunnel(
    options: Sequence[str] = (),
) -> Iterator[tuple[Lab, Namespace, Namespace, dict[str, int]]]:
    """A lab, a host with a tunnel, one without, and the process ids by role.

    The direct host has the same two hops to the far end as the worker's traffic has.
    """
    need_root()
    with contextlib.closing(Lab()) as net:
        direct = net.add_host()
        with net.worker() as worker, net.connect(net.host, *options) as connect:
            yield net, net.host, direct, {"connect": connect.pid, "worker": worker.pid}


def cpu(pids: dict[str, int]) -> dict[str, float]:
    """CPU seconds used so far, by role, each with its descendants."""
    return {role: sum(map(cpu_seconds, descendants(pid))) for role, pid in pids.items()}


def iperf(
    net: Lab,
    start: Callable[..., Child],
    *,
    seconds: float,
    streams: int,
    reverse: bool,
    target: str = lab.FAR4,
) -> tuple[float, float]:
    """Have ``start`` run iperf3 to the far end: Gbit/s as received, and GB received."""
    with Child("iperf3 server", net.far.command(["iperf3", "-s", "-1", "--forceflush"])) as server:
        server.wait_for("Server listening")
        argv = ["iperf3", "-c", target, "-t", f"{seconds:g}", "-P", str(streams), "-J"]
        argv += ["-R"] if reverse else []
        report = json.loads(start(*argv).succeed(seconds + 30))
    received = report["end"]["sum_received"]
    return received["bits_per_second"] / 1e9, received["bytes"] / 1e9


def machine() -> str:
    """The conditions, for the top of a report."""
    model = "unknown processor"
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
        model = next((x.split(": ")[1].strip() for x in lines if x.startswith("model name")), model)
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} × {model}, {system}"


def quantile(values: Sequence[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table, columns aligned."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            c.ljust(w) if i == 0 else c.rjust(w)
            for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join(padded) + " |"

    print(line(head))
    print(
        "|"
        + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths))
        + "|"
    )
    for row in rows:
        print(line(row))
    sys.stdout.flush()
