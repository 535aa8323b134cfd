"""One process of a worker: what it is told at its start, and what it answers its supervisor."""

from __future__ import annotations

import json
import pickle
import socket
from dataclasses import dataclass

import trio

from ..handover import Handover
from ..options import WorkerConfig
from ..server import Worker

__all__ = ["LINE", "Orders", "open_child", "serve_child"]

LINE = 8 << 20
"""Bytes of a line between the two, at most: the numbers of 4,096 tokens, some 1,600 bytes each with
the longest names and numbers."""
ASK_STATS = b"stats\n"
READY = {"ready": True}


@dataclass(frozen=True, slots=True)
class Orders:
    """What a process is told at its start. It comes pickled: both ends are of one version."""

    config: WorkerConfig
    handover: Handover


def open_child(fd: int) -> tuple[Worker, socket.socket]:
    """Make the worker that the supervisor at the other end of a socket wants.

    :raises ZksError: as :class:`~zks_lwip.worker.Worker`.
    """
    control = socket.socket(fileno=fd)
    with control.makefile("rb") as orders:
        size = int.from_bytes(orders.read(4))
        told = pickle.loads(orders.read(size))
    assert isinstance(told, Orders)
    control.setblocking(False)
    return Worker(told.config, handover=told.handover), control


async def serve_child(worker: Worker, control: socket.socket) -> None:
    """Tell the supervisor that the worker serves, answer it, and end at once when it is gone."""
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(control))
    async with stream:
        try:
            await stream.send_all(_line(READY))
            while data := await stream.receive_some(4096):
                for _ in range(data.count(ASK_STATS)):
                    await stream.send_all(_line({"stats": worker.stats().to_json()}))
        except trio.BrokenResourceError:
            pass  # it is gone
    worker.stop()
    worker.stop()


def _line(values: object) -> bytes:
    return json.dumps(values).encode() + b"\n"
