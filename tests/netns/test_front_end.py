"""Two workers behind nginx, as ``examples/front-end`` has it: who comes back finds its own."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import trio

from tests.kits.netns import client, lab, servers
from tests.kits.netns.commands import counters
from tests.kits.netns.front_end import FrontEnd
from tests.kits.netns.lab import WORKER4, Lab
from tests.kits.worker import RawClient, resuming_client
from zks_lwip.protocol import Data

PLACE = (WORKER4, 443)


@pytest.fixture
def front_end(net: Lab) -> Iterator[FrontEnd]:
    """It runs; the workers are up to the test."""
    front = FrontEnd(net)
    with front.start():
        yield front


def as_client(
    net: Lab, front: FrontEnd, visit: Callable[[Callable[..., Any]], Awaitable[None]]
) -> None:
    """Talk to the front end from a host without a tunnel; ``visit`` gets what opens a client."""
    context = ssl.create_default_context(cafile=str(front.ca_file))

    def new(**options: Any) -> Any:
        return resuming_client(PLACE, token=lab.TOKEN, context=context, **options)

    async def main() -> None:
        with trio.fail_after(100):
            await visit(new)

    with net.add_host().entered():  # in the shared host a tunnel may run
        trio.run(main)


def owner(client: RawClient) -> str:
    """The worker that made the id of the session."""
    assert client.hello.session is not None
    return client.hello.session.partition(".")[0]


async def echoed(client: RawClient, text: bytes) -> None:
    await client.send(Data(1, text))
    assert await client.data(1, len(text)) == text


def test_who_comes_back_reaches_the_worker_of_its_session(net: Lab, front_end: FrontEnd) -> None:
    async def visit(new: Callable[..., Any]) -> None:
        found = set()
        for _ in range(6):
            async with new() as first:
                await first.open(1, lab.FAR4, servers.ECHO)
                await echoed(first, b"before")
                await first.lose()
                async with new(hello=first.resumption()) as again:
                    assert again.hello.session == first.hello.session
                    await echoed(again, b"after")
                found.add(owner(first))
        assert found == {"a", "b"}, "new sessions go to both"

    with front_end.worker("a") as a, front_end.worker("b") as b:
        as_client(net, front_end, visit)
        for worker in (a, b):
            begun = [line for line in worker.stderr if "a session of" in line and "from" in line]
            assert begun and not any("from 127.0.0.1" in line for line in begun), worker.output


def test_one_worker_is_killed(net: Lab, front_end: FrontEnd) -> None:
    """Its sessions begin anew with the other one, at once; those of the other go on."""
    with front_end.worker("a") as a, front_end.worker("b"):

        async def visit(new: Callable[..., Any]) -> None:
            async with new() as one, new() as two:
                lost, kept = (one, two) if owner(one) == "a" else (two, one)
                assert (owner(lost), owner(kept)) == ("a", "b")
                await kept.open(1, lab.FAR4, servers.ECHO)
                a.process.kill()
                assert (await lost.closed())[0] == 1006
                began = trio.current_time()
                async with new(hello=lost.resumption()) as anew:
                    assert owner(anew) == "b"
                async with new() as other:
                    assert owner(other) == "b"
                assert trio.current_time() - began < 30, "nginx waits for a worker for longer"
                await echoed(kept, b"on")
                await kept.lose()
                async with new(hello=kept.resumption()) as again:
                    assert again.hello.session == kept.hello.session
                    await echoed(again, b"and on")

        as_client(net, front_end, visit)
        a.wait()


def test_a_session_that_the_worker_does_not_hold_is_a_new_one(
    net: Lab, front_end: FrontEnd
) -> None:
    async def visit(new: Callable[..., Any]) -> None:
        async with new() as first:
            pass
        for forged in ("a.forged", "c.forged", "forged", f"{first.hello.session}x", "."):
            async with new(hello=first.resumption(session=forged)) as other:
                assert owner(other) in ("a", "b") and other.hello.session != forged

    with front_end.worker("a"), front_end.worker("b"):
        as_client(net, front_end, visit)


def test_connect_goes_through_it_and_outlives_it(net: Lab) -> None:
    """nginx is started again, a worker is killed: connections go on, or are reset, as they must."""
    front, host = FrontEnd(net), net.add_host()
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        workers = {name: enter(front.worker(name)) for name in ("a", "b")}
        nginx = enter(front.start())
        child = enter(net.connect(host, "-v", *front.options))
        with host.entered():
            sock = enter(client.connect(lab.FAR4, servers.ECHO))
            talk(sock, b"before")
            nginx.stop()
            nginx = enter(front.start())
            talk(sock, b"after")
            assert counters(child)["tunnel"]["sessions_resumed"] >= 1
            holds = "a session of .* goes on from"
            (own,) = [
                one
                for one in workers.values()
                if any(re.search(holds, line) for line in one.stderr)
            ]
            own.process.kill()
            own.wait()
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
            began = time.monotonic()
            assert client.who(lab.FAR4) == lab.MID4
            assert time.monotonic() - began < 20, "silence takes 25 s to be noticed"
        assert child.stop() == 0
        child.no_traceback()


def talk(sock: socket.socket, text: bytes) -> None:
    sock.sendall(text)
    assert servers.receive_exactly(sock, len(text)) == text
