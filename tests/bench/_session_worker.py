"""A worker as a process of its own, which says four times a second what it holds.

A line of JSON: sessions with and without a WebSocket, resident bytes, seconds of the processor.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time

import trio

from zks_lwip.worker import Limits, WorkerConfig, open_worker, parse_network

_PAGE = os.sysconf("SC_PAGE_SIZE")


async def main(most: int) -> None:
    config = WorkerConfig(
        port=0,
        allow=(parse_network("127.0.0.0/8"),),
        limits=Limits(sessions=most, connecting=1 << 20, streams=1 << 20, connects=1e6),
        max_detached=most,
        resume=600,
        quiet=600,  # clients are busy one after the other, and answer no ping meanwhile
    )
    async with open_worker(config) as running:
        print(json.dumps({"port": running.port}), flush=True)
        sessions = running.worker.sessions
        before = collected = (0, 0)
        while True:
            await trio.sleep(0.25)
            now = len(sessions.attached), len(sessions.detached)
            if now == before != collected:  # cycles, too, which Python would find some time
                gc.collect()
                collected = now
            before = now
            with open("/proc/self/statm") as statm:
                resident = int(statm.read().split()[1]) * _PAGE
            line = {
                "attached": now[0],
                "detached": now[1],
                "resident": resident,
                "cpu": time.process_time(),
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
