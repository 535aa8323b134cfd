"""A link whose queue is full is slow, not dead; a link that is dead is found dead as soon as ever.

The liveness times are short here, so that the queue of a fraction of a megabyte is far longer.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import signal
import time
from collections.abc import Iterator

import pytest

from tests.kits.netns.child import Child
from tests.kits.netns.lab import PYTHON, WORKER4, Lab, Namespace

QUIET, PATIENCE = 1.0, 0.7
BYTES = 1_200_000  # of all streams
RATE = 2_000_000  # bit/s
QUEUE = 250_000  # bytes: 1 s

_ports = itertools.count(9600)


@pytest.fixture
def host(net: Lab) -> Namespace:
    return net.add_host()


@contextlib.contextmanager
def impatient_worker(net: Lab) -> Iterator[tuple[Child, list[str]]]:
    """A worker, and the arguments for its clients."""
    times = [WORKER4, str(next(_ports)), str(QUIET), str(PATIENCE)]
    argv = [*PYTHON, "-m", "tests.kits.netns.impatient", "worker", *times, str(net.token_file)]
    with Child("worker", net.mid.command(argv)) as worker:
        worker.wait_for("worker is ready")
        yield worker, times
        worker.signal(signal.SIGINT)
        worker.wait()


def client(host: Namespace, what: str, times: list[str], *more: object) -> Child:
    argv = [*PYTHON, "-m", "tests.kits.netns.impatient", what, *times, *map(str, more)]
    return Child(what, host.command(argv))


def link_of(host: Namespace) -> str:
    """The interface of ``mid`` that leads to ``host``."""
    return "h" + host.name.rpartition("host")[2]


@contextlib.contextmanager
def slow(place: Namespace, device: str) -> Iterator[None]:
    """What ``device`` of ``place`` sends has to pass a slow link with a long queue."""
    tbf = f"qdisc add dev {device} root tbf rate {RATE}bit burst 4kb limit {QUEUE}"
    _tc(place, tbf)
    try:
        yield
    finally:
        _tc(place, f"qdisc del dev {device} root")


def _tc(place: Namespace, command: str) -> None:
    Child("tc", ["tc", "-n", place.name, *command.split()]).succeed()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("direction", "protocol", "streams"),
    [("up", "v2", 8), ("down", "v2", 8), ("up", "v1", 2), ("down", "v1", 2)],
)
def test_a_full_queue_is_not_death(
    net: Lab, host: Namespace, direction: str, protocol: str, streams: int
) -> None:
    """In v1 every stream has a WebSocket, and one more is idle beside them in the same queue."""
    where = (host, "up0") if direction == "up" else (net.mid, link_of(host))
    for _ in range(3):  # (a machine that is busy elsewhere is a reason for suspicion, too)
        with impatient_worker(net) as (worker, times), slow(*where):
            child = client(host, direction, times, streams, BYTES // streams, protocol, 60)
            done = json.loads(child.succeed(120).splitlines()[-1])
        suspected = bool(done["lost"] or done["resumed"]) or "nothing was heard" in worker.output
        if not suspected:
            break
    assert not suspected, (done, worker.output)
    assert done["good"] == streams, (done, worker.output)
    least = BYTES * 8 / RATE
    assert done["seconds"] > 0.8 * least > 2 * (QUIET + PATIENCE), "the control: it was not slow"


@pytest.mark.parametrize("how", ["cable", "stopped", "stopped in an upload"])
def test_death_is_found_as_soon_as_ever(net: Lab, host: Namespace, how: str) -> None:
    """A kernel acknowledges for its stopped process, too, until its buffers are full."""
    found: list[float] = []
    for _ in range(3):  # (a machine that is busy elsewhere is in the way, but not always)
        found = silences(net, host, how)
        assert min(found, default=math.inf) >= QUIET + PATIENCE
        if found and max(found) < 4 * (QUIET + PATIENCE):
            return
    pytest.fail(f"taken for dead when it was not, or too late: {found}")


def silences(net: Lab, host: Namespace, how: str) -> list[float]:
    """After how long a silence each end that can know has taken the other for dead.

    Empty: already while it was alive.
    """
    uploads = how.endswith("upload")
    with impatient_worker(net) as (worker, times), contextlib.ExitStack() as stack:
        what = ("up", 1, 10**12) if uploads else ("hold",)
        child = stack.enter_context(client(host, what[0], times, *what[1:]))
        child.wait_for("^connected")
        time.sleep(2 * (QUIET + PATIENCE))
        if "nothing was heard" in child.output + worker.output:
            return []
        if how == "cable":
            net.mid.ip(f"link set {link_of(host)} down")
        else:
            worker.signal(signal.SIGSTOP)
        try:
            found = [float(child.wait_for(r"nothing was heard from it for ([\d.]+) s")[1])]
        finally:
            if how == "cable":
                net.mid.ip(f"link set {link_of(host)} up")
            else:
                worker.signal(signal.SIGCONT)
        if how == "cable":  # found out by the other end as well
            found.append(float(worker.wait_for(r"nothing was heard from it for ([\d.]+) s")[1]))
        assert child.wait() == (1 if uploads else 0)  # what is uploaded fails
    return found
