"""The worker, with sessions of few streams.

``python -m tests.kits.netns.narrow_worker ADDRESS PORT TOKEN-FILE STREAMS`` says that it listens,
as ``zks-lwip worker`` does.
"""

from __future__ import annotations

import sys

import trio

from zks_lwip import WorkerConfig, open_worker
from zks_lwip.worker import Limits


async def main(address: str, port: str, token_file: str, streams: str) -> None:
    config = WorkerConfig(
        host=address,
        port=int(port),
        token_file=token_file,
        limits=Limits(session_streams=int(streams)),
    )
    async with open_worker(config) as worker:
        print(f"listening on {worker.address}:{worker.port}", flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
