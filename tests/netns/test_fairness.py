"""Several clients that are busy at one worker: each gets its share."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.kits.netns import lab, load
from tests.kits.netns.child import Child, ChildError
from tests.kits.netns.lab import PYTHON, Lab, Namespace
from tests.kits.netns.load import Carried

LOAD = [*PYTHON, "-m", "tests.kits.netns.load"]
STREAMS = 8
WARM_UP = 1.0
SECONDS = 4.0  # with the warm-up
ROOM = 1 << 18
"""Bytes that a kernel takes ahead: with megabytes it takes them in steps, which say little."""
TURNS = 3
PAUSE = 0.3
LEAST = 1 / 3  # of the mean

Clients = list[tuple[Namespace, Child]]


@pytest.fixture(scope="module")
def clients(net: Lab, worker: Child) -> Iterator[Clients]:
    """Three hosts, each with a tunnel of its own to the same worker."""
    with contextlib.ExitStack() as stack:
        far = [*LOAD, "serve", str(load.PORT)]
        stack.enter_context(Child("load's far end", net.far.command(far))).wait_for("is served")
        hosts = [net.add_host() for _ in range(3)]
        found = [(host, stack.enter_context(net.connect(host))) for host in hosts]
        yield found
    for _, tunnel in found:
        tunnel.no_traceback()


def begin(host: Namespace, way: str) -> Child:
    argv = [*LOAD, way, lab.FAR4, str(load.PORT), str(STREAMS), str(SECONDS), str(ROOM)]
    return Child("load", host.command(argv), stdin=subprocess.PIPE)


def carried(clients: Clients, way: str, paused: Child) -> list[Carried]:
    """Have all be busy at once, and one tunnel stand still for a moment before it counts."""
    with contextlib.ExitStack() as stack:
        loads = [stack.enter_context(begin(host, way)) for host, _ in clients]
        load.start(loads)
        time.sleep(WARM_UP / 3)
        paused.signal(signal.SIGSTOP)
        try:
            time.sleep(PAUSE)
        finally:
            paused.signal(signal.SIGCONT)
        return load.carried(loads, WARM_UP)


def check_shares(found: list[Carried]) -> None:
    mean = sum(each.rate for each in found) / len(found)
    shares = [each.rate / mean for each in found]
    print(" ".join(f"{share:.2f}" for share in shares))
    assert min(shares) > LEAST, shares
    for each in found:
        least = min(each.streams) / (sum(each.streams) / STREAMS)
        assert least > LEAST, f"one stream of a session got {least:.2f} of its share"


@pytest.mark.parametrize("way", ["down", "up"])
def test_each_of_several_busy_clients_gets_its_share(clients: Clients, way: str) -> None:
    """A session that could not go on for a moment, while the others did, catches up with them.

    A machine that is busy may keep one of them waiting, but not each time.
    """
    for _, paused in clients[:2]:
        for turn in range(TURNS):
            try:
                check_shares(carried(clients, way, paused))
                break
            except ChildError:
                raise
            except AssertionError as error:
                print(f"turn {turn + 1}: {error}")
                if turn + 1 == TURNS:
                    raise
