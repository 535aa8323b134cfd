"""More WebSockets than one: where sessions take few streams, and where several were asked for."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.kits.netns import lab
from tests.kits.netns.child import Child, until
from tests.kits.netns.commands import counters
from tests.kits.netns.lab import PYTHON, Lab, Namespace

PORT = lab.WORKER_PORT + 40
CLIENT = [*PYTHON, "-m", "tests.kits.netns.client"]
NARROW_WORKER = [*PYTHON, "-m", "tests.kits.netns.narrow_worker"]


@pytest.mark.parametrize(("count", "streams"), [(200, 5), (2000, 100)])
def test_connections_at_once_through_sessions_of_few_streams(
    net: Lab, count: int, streams: int
) -> None:
    host, port = net.add_host(), str(PORT + streams)
    host.sysctl("net.ipv4.tcp_syn_retries=6")
    argv = [*NARROW_WORKER, lab.WORKER4, port, str(net.token_file), str(streams)]
    with Child("narrow worker", net.mid.command(argv)) as worker:
        worker.wait_for("listening on")
        with net.connect(host, url=f"ws://{lab.WORKER4}:{port}") as connect:
            burst = [*CLIENT, "open-at-once", lab.FAR4, str(count)]
            print(net.application(host, *burst).succeed(150))
            told = counters(connect)["tunnel"]
            assert told["channels"] == count // streams
            # (of SYNs at once the stack keeps some 1,000; the others are sent again)
            assert told["streams_opened"] >= count
            for trouble in ("streams_moved", "streams_refused_here", "channels_lost"):
                assert told[trouble] == 0, trouble
            until(lambda: counters(connect)["tunnel"]["streams"] == 0)
        connect.no_traceback()
    worker.no_traceback()


def received_by_each(host: Namespace) -> list[int]:
    """Bytes that each connection to the worker has received."""
    argv = host.command(["ss", "-Htin", "dst", f"{lab.WORKER4}:{lab.WORKER_PORT}"])
    told = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    return [int(count) for count in re.findall(r" bytes_received:(\d+)", told)]


def test_connections_are_spread_over_the_channels_that_were_asked_for(
    net: Lab, worker: Child
) -> None:
    host = net.add_host()
    with net.connect(host, "--channels", "4") as connect:
        assert len(received_by_each(host)) == 1
        # (the first of them finds the others closed still)
        with net.application(host, *CLIENT, "hold", lab.FAR4) as held:
            held.wait_for("open")
            until(lambda: counters(connect)["tunnel"]["channels"] == 4)
            # (what has been carried by then would change where the next ones go)
            transfer = [*CLIENT, "duplex-opened", lab.FAR4, "8", "16000000"]
            net.application(host, *transfer).succeed(150)
            assert [count // 1_000_000 for count in received_by_each(host)] == [4] * 4
        told = counters(connect)["tunnel"]
        assert told["channels_opened"] == 4 and told["channels_lost"] == 0
    connect.no_traceback()
