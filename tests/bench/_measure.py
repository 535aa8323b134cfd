"""What the benchmarks share: the lab with a tunnel, CPU time, tables."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

from tests.kits.netns import lab
from tests.kits.netns.child import Child, cpu_seconds, descendants
from tests.kits.netns.lab import Lab, Namespace


def need_root() -> None:
    if os.geteuid() != 0:
        raise SystemExit("this benchmark makes network namespaces: run it as root")


def add_link_arguments(parser: argparse.ArgumentParser) -> None:
    """Have a benchmark emulate the link between the hosts and the worker, see :func:`link_of`."""
    group = parser.add_argument_group(
        "the link", "of the hosts to the worker; without any of these it is one of the kernel's"
    )
    group.add_argument("--delay", type=float, metavar="MS", help="one way")
    group.add_argument("--jitter", type=float, metavar="MS", help="more or less than the delay")
    group.add_argument("--loss", type=float, metavar="PERCENT", help="of packets, each way")
    group.add_argument("--rate", type=float, metavar="MBIT/S", help="each way")
    group.add_argument("--queue", type=int, metavar="KB", help="where there is a rate (1 MiB)")


def link_of(arguments: argparse.Namespace) -> dict[str, float]:
    """Return the settings of a link that :func:`add_link_arguments` was given."""
    scales = {"delay": 1e-3, "jitter": 1e-3, "loss": 1e-2, "rate": 1e6, "queue": 1000}
    given = {name: getattr(arguments, name) for name in scales}
    return {name: value * scales[name] for name, value in given.items() if value is not None}


@contextlib.contextmanager
def tunnel(
    options: Sequence[str] = (), link: Mapping[str, float] | None = None
) -> Iterator[tuple[Lab, Namespace, Namespace, dict[str, int]]]:
    """A lab, a host with a tunnel, one without, and the process ids by role.

    The direct host has the same two hops to the far end as the worker's traffic has. With ``link``,
    each of the two has such a link to the worker, of its own.
    """
    need_root()
    with contextlib.closing(Lab()) as net:
        if not link:
            host, direct = net.host, net.add_host()
        else:
            (host, _), (direct, _) = (net.add_linked_host(**link) for _ in range(2))
        with net.worker() as worker, net.connect(host, *options) as connect:
            yield net, host, direct, {"connect": connect.pid, "worker": worker.pid}


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
    """Have ``start`` run iperf3 to the far end: Gbit/s as received, and GB received.

    :param seconds: rounded up, since iperf3 takes whole ones, and 0 for as long as it may.
    """
    seconds = math.ceil(seconds)
    with Child("iperf3 server", net.far.command(["iperf3", "-s", "-1", "--forceflush"])) as server:
        server.wait_for("Server listening")
        argv = ["iperf3", "-c", target, "-t", str(seconds), "-P", str(streams), "-J"]
        argv += ["-R"] if reverse else []
        report = json.loads(start(*argv).succeed(seconds + 30))
    received = report["end"]["sum_received"]
    return received["bits_per_second"] / 1e9, received["bytes"] / 1e9


def machine() -> str:
    """The conditions, for the top of a report."""
    model = "unknown processor"
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
        model = next((x.split(": ")[1].strip() for x in lines if x.startswith("model name")), model)
    version = platform.release().partition("-")[0]
    system = f"{platform.system()} {version}, Python {platform.python_version()}"
    with contextlib.suppress(OSError), open("/proc/sys/net/ipv4/tcp_congestion_control") as name:
        system += f", TCP's {name.read().strip()}"
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
