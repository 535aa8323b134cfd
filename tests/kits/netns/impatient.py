"""A worker and a client whose liveness times (PROTOCOL.md §8) are short, for tests of slow links.

    MODULE worker ADDRESS PORT QUIET PATIENCE TOKEN_FILE
    MODULE up|down|hold ADDRESS PORT QUIET PATIENCE [STREAMS BYTES [v1]]

Prints ``worker is ready``, and the worker's log on standard error. ``up`` and ``down`` carry BYTES
in each of STREAMS, and print ``connected`` for each and a line of JSON at the end; ``hold`` prints
``connected``, and ``lost`` once the channel was. The tunnel's log is on standard error.
"""

from __future__ import annotations

import json
import logging
import struct
import sys

import trio

from tests.kits.netns import lab, servers
from zks_lwip.tunnel.tcp_stream import TunnelTcpStream
from zks_lwip.tunnel.tunnel import Tunnel, TunnelConfig
from zks_lwip.worker import Worker, WorkerConfig


async def serve(host: str, port: int, quiet: float, patience: float, token_file: str) -> None:
    config = WorkerConfig(
        host=host, port=port, quiet=quiet, patience=patience, token_file=token_file
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(Worker(config).run)
        print("worker is ready", flush=True)


async def upload(stream: TunnelTcpStream, total: int) -> bool:
    await stream.send_all(struct.pack("!QQ", total, 0))
    for chunk in servers.pattern(total):
        await stream.send_all(chunk)
    digest = b""
    while len(digest) < 64:
        digest += await stream.receive_some()
    return digest == servers.pattern_digest(total).encode()


async def download(stream: TunnelTcpStream, total: int) -> bool:
    await stream.send_all(struct.pack("!Q", total))
    received = bytearray()
    while len(received) < total:
        received += await stream.receive_some()
    await stream.send_eof()
    return bytes(received) == b"".join(servers.pattern(total))


async def transfer(tunnel: Tunnel, down: bool, streams: int, total: int) -> None:
    good: list[bool] = []

    async def one() -> None:
        stream = await tunnel.connect_tcp(lab.FAR4, servers.SOURCE if down else servers.DUPLEX)
        print("connected", flush=True)
        good.append(await (download if down else upload)(stream, total))

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(streams):
            nursery.start_soon(one)
    seconds = trio.current_time() - began
    stats = tunnel.stats()
    result = {"good": sum(good), "seconds": seconds, "lost": stats["channels_lost"]}
    result["resumed"] = stats["sessions_resumed"]
    print(json.dumps(result), flush=True)


async def hold(tunnel: Tunnel) -> None:
    await tunnel.connect_tcp(lab.FAR4, servers.ECHO)
    print("connected", flush=True)
    while not tunnel.stats()["channels_lost"]:
        await trio.sleep(0.05)
    print("lost", flush=True)


async def client(
    what: str,
    url: str,
    quiet: float,
    patience: float,
    streams: str = "1",
    total: str = "0",
    protocol: str = "v2",
    resume: str = "0",
) -> None:
    config = TunnelConfig(
        url=url,
        plaintext=True,
        token=lab.TOKEN,
        quiet=quiet,
        patience=patience,
        grace=60,
        protocol=protocol,
        resume=int(resume),
    )
    async with trio.open_nursery() as nursery:
        tunnel = Tunnel(config)
        await nursery.start(tunnel.run)
        if what == "hold":
            await hold(tunnel)
        else:
            await transfer(tunnel, what == "down", int(streams), int(total))
        nursery.cancel_scope.cancel()


def main(what: str, host: str, port: str, quiet: str, patience: str, *more: str) -> None:
    times = float(quiet), float(patience)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if what == "worker":
        trio.run(serve, host, int(port), *times, more[0])
    else:
        trio.run(client, what, f"ws://{host}:{port}", *times, *more)


if __name__ == "__main__":
    main(*sys.argv[1:])
