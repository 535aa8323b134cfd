"""What connections whose data is not taken cost, and that it comes back."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kits.netns import client, lab, servers
from tests.kits.netns.child import Child, until
from tests.kits.netns.lab import WORKER4, Lab

MIB = 1 << 20
BUDGET = 48  # MiB, of --max-memory
HOARDERS = 400
#: Each may hold 48 KiB whatever the others do, and costs some of Python's objects besides.
BOUND = (BUDGET << 20) + HOARDERS * (48 + 16) * 1024 + 24 * MIB
PORT = 9700

SANITIZED = "ZKS_LWIP_SANITIZE" in os.environ  # shadow memory and quarantine are not bounded


def _memory(child: Child) -> int:
    """Resident bytes."""
    return int(Path(f"/proc/{child.pid}/statm").read_text().split()[1]) * 4096


def _settled(child: Child) -> int:
    """Resident bytes, once they grow no more."""
    seen = [_memory(child)]

    def steady() -> bool:
        time.sleep(0.4)
        seen.append(_memory(child))
        return len(seen) > 5 and max(seen[-5:]) - min(seen[-5:]) < MIB

    until(steady, 60, lambda: f"it goes on: {seen[-10:]}")
    return max(seen)


@contextlib.contextmanager
def _hoard(direction: str) -> Iterator[None]:
    """400 connections, each with more under way than is taken: then all are reset."""
    with contextlib.ExitStack() as stack:
        for _ in range(HOARDERS):
            port = servers.SOURCE if direction == "down" else servers.HANG
            sock = client.connect(lab.FAR4, port)
            stack.callback(client.reset, sock)
            if direction == "down":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
                sock.sendall(struct.pack("!Q", 1 << 40))
            else:
                sock.setblocking(False)
                _fill(sock)
        yield


def _fill(sock: socket.socket) -> None:
    piece = bytes(256 << 10)
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(piece)


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["down", "up"])
def test_data_that_is_not_read(net: Lab, direction: str) -> None:
    """It is bounded in bytes, others are as quick as before, and the memory comes back."""
    host, url = net.add_host(), f"ws://{WORKER4}:{PORT + (direction == 'up')}"
    with (
        net.worker(listen=url[5:]) as worker,
        net.connect(host, "--max-memory", str(BUDGET), url=url) as connect,
        host.entered(),
    ):

        def transfer() -> float:
            began = time.monotonic()
            client.duplex_many(lab.FAR4, servers.DUPLEX, 2, 30_000_000)
            return time.monotonic() - began

        transfer()
        alone = transfer()
        enough = 10 * alone + 5
        before = _memory(connect), _memory(worker)
        with _hoard(direction):
            held = _settled(connect) - before[0]
            there = _settled(worker) - before[1]
            beside = transfer()
            for _ in range(2):  # a machine may have other things to do
                if beside >= enough:
                    beside = min(beside, transfer())
            most = max(held, _memory(connect) - before[0])
        print(f"{held / MIB:.1f} MiB held, {most / MIB:.1f} at most, the worker {there / MIB:.1f}")
        print(f"a transfer takes {alone:.2f} s alone, {beside:.2f} s beside them")
        if not SANITIZED:
            assert most < BOUND, f"{most / MIB:.0f} MiB"
            assert there < BOUND + HOARDERS * 256 * 1024, f"{there / MIB:.0f} MiB at the worker"
        assert beside < enough
        if not SANITIZED:
            for child, size in ((connect, before[0]), (worker, before[1])):
                until(
                    lambda child=child, size=size: _memory(child) < size + 12 * MIB,
                    message=lambda child=child, size=size: (
                        f"{child.name} keeps {(_memory(child) - size) / MIB:.0f} MiB"
                    ),
                )
        transfer()
    for child in (connect, worker):
        child.no_traceback()
        assert child.process.returncode == 0
