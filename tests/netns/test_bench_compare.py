"""The comparison (``python -m tests.bench compare``) works: a moment of everything."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from pathlib import Path

import pytest

from tests.bench.compare.site import load_program
from tests.kits.netns.child import Child
from tests.kits.netns.lab import PYTHON, Namespace

_BROKEN = """#!/bin/sh
echo "$1 $BENCH_CLIENT_NETNS $BENCH_PORT" >>"$(dirname "$0")/steps"
echo "no such tunnel"
exit 3
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_moment_of_everything(tmp_path: Path) -> None:
    script = tmp_path / "peer.sh"
    script.write_text(_BROKEN)
    script.chmod(0o755)
    written = tmp_path / "values.json"
    argv = [*PYTHON, "-m", "tests.bench", "compare", "throughput", "latency", "connections"]
    argv += ["flows", "udp", "dns", "start", "--quick", "--rounds", "1", "--seconds", "0.1"]
    argv += ["--streams", "2", "--flows", "100", "--peer", f"broken={script}"]
    argv += ["--only", "direct", "--only", "ours ws", "--only", "broken", "--json", str(written)]
    with Child("compare", argv) as child:
        table = child.succeed(800)
    told = json.loads(written.read_text())
    found = {
        f"{figure['group']} {figure['name']}": figure["contenders"] for figure in told["figures"]
    }
    assert told["contenders"] == ["direct", "ours ws", "broken"]
    for name in (
        "throughput up 2",
        "throughput down 2",
        "latency idle, median",
        "UDP up, without loss",
    ):
        assert found[name]["direct"]["median"] > 0, name
    for name, contenders in found.items():
        if not name.startswith(("UDP", "flows memory")):
            # A machine that is busy may lose even the fewest datagrams, and few flows show nothing.
            assert "ours ws" in contenders, (name, told["failures"])
            if "CPU" not in name:  # which the kernel counts in ticks: a moment may have none
                assert contenders["ours ws"]["median"] > 0, name
    assert found["CPU up 2, client"].keys() == {"ours ws"}
    assert "start until the first byte has come back" in found
    failed = {(one["contender"], one["message"].rpartition(": ")[2]) for one in told["failures"]}
    assert failed == {("broken", "no such tunnel")}
    assert "failed" in table and "no such tunnel" in table
    steps = [line.split()[0] for line in (tmp_path / "steps").read_text().splitlines()]
    assert steps == ["up", "down"] * 2  # in the shared sitting, and to see how long it takes


def test_both_ways_counts_at_either_end_and_ends_in_time() -> None:
    """What the far end says has come up counts; what is still under way is not waited for."""
    streams, seconds = 3, 0.3
    open_ones: list[socket.socket] = []

    def serve(listener: socket.socket) -> None:
        for _ in range(streams + 1):
            sock, _ = listener.accept()
            open_ones.append(sock)
            if sock.recv(3, socket.MSG_WAITALL)[:1] == b"r":
                asking = sock
                asking.sendall(struct.pack("=Q", 5000))
            else:
                sock.sendall(bytes(100))
        if asking.recv(1) == b"r":
            asking.sendall(struct.pack("=Q", 5000 + 70_000))

    with contextlib.closing(Namespace("bulk")) as net:
        with net.entered():
            listener = socket.create_server(("127.0.0.1", 7102))
        with listener:
            server = threading.Thread(target=serve, args=(listener,), daemon=True)
            server.start()
            argv = [str(load_program()), "bulk", "127.0.0.1", "both", str(streams), str(seconds)]
            with Child("load", net.command(argv)) as child:
                size, took = child.succeed(20).split()
            server.join(20)
    for sock in open_ones:
        sock.close()
    assert int(size) == 70_000 + streams * 100
    assert seconds <= float(took) < 10
