"""Flows, tasks, descriptors and memory of a ``connect`` and its worker: whether they came back."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass, fields
from pathlib import Path

from tests.kits.netns.child import Child, descendants, until

_SHARE = 0.05  # by which flows and descriptors may differ, one at least
_MAPPING = 1
"""KiB of memory that a UDP mapping takes, in the client as in the worker (seen: 0.6 and 0.8)."""
_PREFIX = "watched: "  # see inside/sitecustomize.py
_TIME_WAIT, _LISTEN = "06", "0A"
_WIDTH = 13


@dataclass(frozen=True, slots=True)
class Sample:
    """One look; memory and heap in KiB. UDP sockets are not among the worker's descriptors.

    What is said of the worker is the sum over its processes.
    """

    when: str
    seconds: float
    client_flows: int
    client_streams: int
    client_udp: int
    client_fds: int
    client_memory: int
    client_heap: int
    client_tasks: int
    worker_tcp: int
    worker_udp: int
    worker_fds: int
    worker_memory: int
    worker_heap: int
    worker_tasks: int


class Sampler:
    """Looks at both processes, and prints what it sees: under load every ``step``-th time."""

    def __init__(self, client: Child, worker: Child, *, step: int = 6) -> None:
        self._step = step
        self._last: tuple[object, ...] = ()
        self._client = client
        self._worker = worker
        self._began = time.monotonic()
        self.samples: list[Sample] = []

    def take(self, when: str) -> Sample:
        """Look now; ``when`` is what the table calls it."""
        stats = self._stats()
        workers = descendants(self._worker.pid)
        client = _watched(self._client, [self._client.pid])
        worker = _watched(self._worker, workers)
        udp = sockets(self._worker.pid, "udp")
        sample = Sample(
            when=when,
            seconds=round(time.monotonic() - self._began, 1),
            client_flows=stats["stack"]["flows"],
            client_streams=stats["tunnel"]["streams"] + stats["tunnel"]["waiting"],
            client_udp=stats["tunnel"]["associations"],
            client_fds=self._client.descriptors(),
            client_memory=memory(self._client.pid),
            client_heap=client["heap"] >> 10,
            client_tasks=client["tasks"],
            worker_tcp=sockets(self._worker.pid, "tcp"),
            worker_udp=udp,
            worker_fds=sum(map(_descriptors, workers)) - udp,
            worker_memory=sum(map(memory, workers)),
            worker_heap=worker["heap"] >> 10,
            worker_tasks=worker["tasks"],
        )
        self.samples.append(sample)
        self._print(sample)
        return sample

    def _print(self, sample: Sample) -> None:
        names = [field.name for field in fields(Sample)]
        if len(self.samples) == 1:
            print(" ".join(f"{name.replace('_', ' '):>{_WIDTH}}" for name in names))
        values = [getattr(sample, name) for name in names]
        known, self._last = self._last == (values[0], *values[2:]), (values[0], *values[2:])
        if known or (sample.when in ("first", "load") and len(self.samples) % self._step):
            return
        shown = (f"{v:,}" if isinstance(v, (int, float)) else v for v in values)
        print(" ".join(f"{text:>{_WIDTH}}" for text in shown), flush=True)

    def _stats(self) -> dict[str, dict[str, int]]:
        def told() -> list[str]:
            return [line for line in list(self._client.stderr) if line.startswith("{")]

        before = len(told())
        self._client.signal(signal.SIGUSR1)
        until(lambda: len(told()) > before, 60)
        return dict(json.loads(told()[-1]))


def _watched(child: Child, pids: list[int]) -> dict[str, int]:
    """Return what processes of a child tell, summed up."""

    def told() -> list[str]:
        return [line for line in list(child.stderr) if line.startswith(_PREFIX)]

    before = len(told())
    for pid in pids:
        os.kill(pid, signal.SIGUSR2)
    until(lambda: len(told()) >= before + len(pids), 60)
    found = [json.loads(line.removeprefix(_PREFIX)) for line in told()[before:]]
    return {name: sum(each[name] for each in found) for name in ("tasks", "heap")}


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def memory(pid: int) -> int:
    """KiB of private memory of a process: what is shared with files does not leak."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("RssAnon:")[2].split()[0])


def sockets(pid: int, kind: str) -> int:
    """Sockets of a process's network namespace that belong to a process; listening ones do not
    count, nor do those in TIME_WAIT."""
    count = 0
    for name in (kind, f"{kind}6"):
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
            words = line.split()
            count += words[3] not in (_TIME_WAIT, _LISTEN) and words[9] != "0"
    return count


def not_returned(
    before: Sample, warm: Sample, now: Sample, tolerance: float, *, udp: bool = True
) -> list[str]:
    """What is more than it was.

    :param warm: what memory is compared with. UDP mappings outlive the time in which memory has to
        return: those of ``now`` that are more than there were may have theirs.
    :param tolerance: per cent, of memory.
    :param udp: mappings have to be where they were, too.
    """
    missing = []
    for field in fields(Sample):
        if field.name in ("when", "seconds") or (field.name.endswith("udp") and not udp):
            continue
        of_memory = field.name.endswith(("memory", "heap"))
        was, value = getattr(warm if of_memory else before, field.name), getattr(now, field.name)
        if of_memory:
            most = was * (1 + tolerance / 100)
            if field.name.endswith("memory"):
                mappings = f"{field.name.partition('_')[0]}_udp"
                most += _MAPPING * max(0, getattr(now, mappings) - getattr(warm, mappings))
        else:
            one = field.name.endswith(("fds", "tasks"))
            most = max(was + one, was * (1 + _SHARE))
        if value > most:
            missing.append(f"{field.name.replace('_', ' ')}: {was:,} at the beginning, {value:,}")
    return missing
