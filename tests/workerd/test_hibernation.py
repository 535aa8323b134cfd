"""The object of the Cloudflare Worker out of memory: asleep, or gone."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.kits.session_client import SessionClient
from tests.kits.until import until
from tests.kits.worker import echo, raw_client, resuming_client, tcp_server
from tests.kits.workerd import TOKEN, Workerd, running_workerd
from zks_lwip.protocol import Ack, Data, Eof, Ping, Pong

# The worker, whose object says when it comes into memory, and can be thrown out of it.
MAIN = """
import front, { Tunnel as Original } from "./index.js";

const ids = [];

export class Tunnel extends Original {
  constructor(ctx, env) {
    super(ctx, env);
    ids.push(ctx.id.toString());
    console.log(`in memory: ${ctx.getWebSockets().length} sockets`);
    this.aborts = () => ctx.abort("as the platform does it");
  }
  async fetch(request) {
    if (new URL(request.url).pathname === "/abort") this.aborts();
    return super.fetch(request);
  }
}

export default {
  async fetch(request, env) {
    if (new URL(request.url).pathname !== "/abort") return front.fetch(request, env);
    const stub = env.TUNNELS.get(env.TUNNELS.idFromString(ids[ids.length - 1]));
    try {
      return await stub.fetch(request);
    } catch (error) {
      return new Response(error.message);
    }
  },
};
"""
SECONDS = 10
"""After so many without anything to do an object hibernates."""


def loads(cloud: Workerd) -> list[str]:
    """What objects have said as they came into memory."""
    return [x for x in cloud.log.read_text().splitlines() if x.startswith("in memory")]


@pytest.mark.slow
async def test_a_session_without_streams_survives_hibernation(tmp_path: Path) -> None:
    with running_workerd(tmp_path, modules={"main.js": MAIN}, main="main.js") as cloud:
        async with tcp_server(echo) as port:
            async with resuming_client(cloud.address, token=TOKEN) as client:
                await client.open(1, "127.0.0.1", port)
                await client.send(Data(1, b"one"), Eof(1))
                assert await client.data(1, 3) == b"one"
                await client.expect(Eof)
                await client.send(Ack(client.taken))
                await trio.sleep(SECONDS + 3)
                assert loads(cloud) == ["in memory: 0 sockets"]
                await client.send(Ping())
                await client.expect(Pong)
                assert loads(cloud) == ["in memory: 0 sockets", "in memory: 1 sockets"]
                await client.open(2, "127.0.0.1", port)  # ids go on, and so do counts
                taken = client.taken
                await client.send(Data(2, b"two"))
                assert await client.data(2, 3) == b"two"
                assert client.taken == taken + 1
                await client.lose()
            async with raw_client(cloud.address, token=TOKEN, hello=client.resumption()) as again:
                assert again.hello.session == client.hello.session
                # CONNECT, DATA, EOF and WINDOW of before; CONNECT, DATA and WINDOW
                assert again.hello.received == 7
                await again.send(Data(2, b"three"))
                assert await again.data(2, 5) == b"three"


@pytest.mark.slow
async def test_a_session_is_resumed_that_was_lost_asleep(tmp_path: Path) -> None:
    client = SessionClient(TOKEN)
    with running_workerd(tmp_path, modules={"main.js": MAIN}, main="main.js") as cloud:
        async with tcp_server(echo) as port, trio.open_nursery() as nursery:
            sock = await nursery.start(client.run, cloud.address)
            await client.until(lambda: client.session.can_connect)
            for _ in range(3):
                stream = client.open("127.0.0.1", port, b"one")
                await client.until(lambda stream=stream: client.over(stream))
            await trio.sleep(SECONDS + 3)
            assert len(loads(cloud)) == 1
            await trio.aclose_forcefully(sock)
            await until(lambda: len(loads(cloud)) == 2)
            await client.until(lambda: not client.session.attached)
            nursery.start_soon(client.run, cloud.address)
            await client.until(lambda: client.resumed == 1)
            stream = client.open("127.0.0.1", port, b"two")
            await client.until(lambda: client.over(stream))
            assert bytes(client.received[stream]) == b"two" and not client.resets
            assert len(client.ready) == 1
            nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_open_streams_keep_the_object_in_memory(tmp_path: Path) -> None:
    with running_workerd(tmp_path, modules={"main.js": MAIN}, main="main.js") as cloud:
        async with tcp_server(echo) as port:
            async with resuming_client(cloud.address, token=TOKEN) as client:
                await client.open(1, "127.0.0.1", port)
                await client.send(Ack(client.taken))
                await trio.sleep(SECONDS + 3)
                await client.send(Data(1, b"x"))
                assert await client.data(1, 1) == b"x"
                assert len(loads(cloud)) == 1


async def test_an_object_that_is_thrown_out_knows_no_session(tmp_path: Path) -> None:
    client = SessionClient(TOKEN)
    with running_workerd(tmp_path, modules={"main.js": MAIN}, main="main.js") as cloud:
        async with tcp_server(echo) as port, trio.open_nursery() as nursery:
            nursery.start_soon(client.run, cloud.address)
            await client.until(lambda: client.session.can_connect)
            stream = client.open("127.0.0.1", port, b"one", end=False)
            await client.until(lambda: client.received[stream] == b"one")
            async with await trio.open_tcp_stream(*cloud.address) as http:
                await http.send_all(b"GET /abort HTTP/1.1\r\nHost: x\r\n\r\n")
                assert b"as the platform does it" in await http.receive_some()
            await client.until(lambda: not client.session.attached)
            assert client.status in (None, 1001, 1011, 1012, 1013)  # of which it comes back
            nursery.start_soon(client.run, cloud.address)
            await client.until(lambda: len(client.ready) == 2)
            assert client.resets[stream].code == 0
            await client.until(lambda: client.session.can_connect)
            stream = client.open("127.0.0.1", port, b"two")
            await client.until(lambda: client.over(stream))
            assert bytes(client.received[stream]) == b"two"
            nursery.cancel_scope.cancel()
