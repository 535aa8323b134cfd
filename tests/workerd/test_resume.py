"""Sessions of the Cloudflare Worker that outlive their WebSocket (PROTOCOL.md §6)."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from tests.kits.cutter import Fate, How, cutting
from tests.kits.session_client import SessionClient
from tests.kits.until import until
from tests.kits.worker import RawClient, echo, raw_client, resuming_client, tcp_server
from tests.kits.workerd import BOB, TOKEN, Workerd, running_workerd
from zks_lwip.protocol import Ack, Data, Eof, Hello, Ping, Pong


async def test_both_directions_are_exact_over_many_cuts(cloud: Workerd) -> None:
    client = SessionClient(TOKEN)
    sent = [os.urandom(3 << 20) for _ in range(4)]
    async with tcp_server(echo) as port, cutting(cloud.address[1]) as path:
        path.fates = [
            Fate(up=1_000_003), Fate(down=700_001), Fate(up=520), Fate(down=300), Fate(down=400),
            Fate(up=90_000, how=How.CLOSE), Fate(up=600_000), Fate(down=1_500_000),
            Fate(up=250_000),
        ]  # fmt: skip
        cuts = len(path.fates)
        async with trio.open_nursery() as nursery:

            async def carry() -> None:
                while True:
                    with suppress(OSError):
                        await client.run(("127.0.0.1", path.port))

            nursery.start_soon(carry)
            await client.until(lambda: client.session.can_connect)
            streams = [client.open("127.0.0.1", port, payload) for payload in sent]
            await client.until(lambda: all(map(client.over, streams)))
            nursery.cancel_scope.cancel()
    assert not client.resets and len(client.ready) == 1
    assert [bytes(client.received[stream]) for stream in streams] == sent
    assert client.resumed >= cuts - 3  # those whose HELLO was cut do not count


async def test_a_far_end_hears_nothing_of_a_cut(cloud: Workerd) -> None:
    came: list[bytes] = []
    over: list[int] = []

    async def far(stream: trio.SocketStream) -> None:
        async for piece in stream:
            came.append(bytes(piece))
        over.append(1)

    async with tcp_server(far) as port:
        async with resuming_client(cloud.address, token=TOKEN) as first:
            await first.open(1, "127.0.0.1", port)
            await first.send(Data(1, b"one"))
            await until(lambda: came == [b"one"])
            await until_acknowledged(first, 2)
            await first.lose()
        async with raw_client(cloud.address, token=TOKEN, hello=first.resumption()) as second:
            assert (second.hello.session, second.hello.received) == (first.hello.session, 2)
            await second.send(Data(1, b"two"))
            await until(lambda: came == [b"one", b"two"])
            assert not over
            await second.send(Eof(1))
            await second.expect(Eof)
        await until(lambda: over)


async def until_acknowledged(client: RawClient, count: int) -> None:
    """Read until an ACK of so many frames has come; it takes up to 100 ms."""
    with trio.fail_after(30):
        while client.acknowledged < count:
            await client.send(Ping())
            while not isinstance(await client.receive(), Pong):
                pass  # what a far end has said meanwhile
            await trio.sleep(0.02)


async def test_what_was_not_acknowledged_comes_again(cloud: Workerd) -> None:
    async with tcp_server(echo) as port:
        async with resuming_client(cloud.address, token=TOKEN) as first:
            await first.open(1, "127.0.0.1", port)
            for number in range(5):
                await first.send(Data(1, b"%d" % number))
                await first.data(1, 1)
            assert first.taken == 6
            await first.send(Ack(2))
            await first.lose()
        async with raw_client(
            cloud.address, token=TOKEN, hello=first.resumption(received=3)
        ) as second:
            assert await second.data(1, 3) == b"234"
            await second.silent()
            await second.lose()
        # nothing was taken of that, says the client: all of it once more
        async with raw_client(
            cloud.address, token=TOKEN, hello=first.resumption(received=3)
        ) as third:
            assert await third.data(1, 3) == b"234"


def early(hello: Hello) -> list[tuple[bytes, bytes]]:
    """The header by which a request says HELLO."""
    return [(b"zks-hello", hello.encode_header())]


async def test_a_hello_in_the_request_is_answered_at_once(cloud: Workerd) -> None:
    async with tcp_server(echo) as port:
        async with resuming_client(cloud.address, token=TOKEN) as first:
            await first.open(1, "127.0.0.1", port)
            await first.send(Data(1, b"into the void"))
            await until_acknowledged(first, 2)
            await first.lose()
        hello = first.resumption(attempt=1, received=1)  # CONNECTED
        async with raw_client(
            cloud.address, token=TOKEN, hello=hello, greet=False, headers=early(hello)
        ) as second:
            said = await second.expect(Hello)
            assert (said.session, said.received) == (first.hello.session, 2)
            assert await second.expect(Data) == Data(1, b"into the void")
            await second.send(hello)
            await second.send(Data(1, b"behind"))
            assert await second.data(1, 6) == b"behind"
            await second.send(hello)
            assert (await second.closed())[0] == 1002


@pytest.mark.parametrize("said", [b"{", b"[]", b'{"version":2}', b'{"version":2,"session":"f"}'])
async def test_a_hello_in_the_request_that_is_none_waits_for_the_frame(
    cloud: Workerd, said: bytes
) -> None:
    async with resuming_client(cloud.address, token=TOKEN) as first:
        await first.lose()
    hello = first.resumption()
    headers = [(b"zks-hello", said)]
    async with raw_client(
        cloud.address, token=TOKEN, hello=hello, greet=False, headers=headers
    ) as second:
        await second.silent()
        await second.send(hello)
        assert (await second.expect(Hello)).session == first.hello.session


async def test_another_hello_behind_that_of_the_request_is_a_breach(cloud: Workerd) -> None:
    async with resuming_client(cloud.address, token=TOKEN) as first:
        await first.lose()
    hello = first.resumption()
    async with raw_client(
        cloud.address, token=TOKEN, hello=hello, greet=False, headers=early(hello)
    ) as second:
        await second.expect(Hello)
        await second.send(first.resumption(attempt=7))
        assert (await second.closed())[0] == 1002


@pytest.mark.parametrize("said_early", [True, False])
async def test_a_late_hello_does_not_take_the_session_back(
    cloud: Workerd, said_early: bool
) -> None:
    async with tcp_server(echo) as port:
        async with resuming_client(cloud.address, token=TOKEN) as first:
            await first.open(1, "127.0.0.1", port)
            await first.lose()
        async with raw_client(
            cloud.address, token=TOKEN, hello=first.resumption(attempt=2)
        ) as second:
            late = first.resumption(attempt=1)
            headers = early(late) if said_early else ()
            async with raw_client(
                cloud.address, token=TOKEN, hello=late, greet=False, headers=headers
            ) as other:
                if not said_early:
                    await other.send(late)
                assert (await other.closed())[0] == 4001
            await second.send(Data(1, b"unmoved"))
            assert await second.data(1, 7) == b"unmoved"


async def test_only_the_token_that_opened_a_session_resumes_it(cloud: Workerd) -> None:
    async with tcp_server(echo) as port, resuming_client(cloud.address, token=TOKEN) as alice:
        await alice.open(1, "127.0.0.1", port)
        async with raw_client(cloud.address, token=BOB, hello=alice.resumption()) as bob:
            assert bob.hello.session != alice.hello.session and bob.hello.received == 0
        await alice.send(Data(1, b"still there"))
        assert await alice.data(1, 11) == b"still there"


async def test_sessions_that_are_not_held(cloud: Workerd) -> None:
    async with resuming_client(cloud.address, token=TOKEN) as client:
        known = client.hello.session
    assert known is not None
    for session in (known, "0" * 64, "f" * 64, known[:-1] + "x", "short", known + known):
        hello = Hello(window=1 << 20, session=session, received=7)
        async with raw_client(cloud.address, token=TOKEN, hello=hello) as client:
            assert client.hello.session not in (session, None) and client.hello.received == 0


async def test_the_header_is_what_routes(cloud: Workerd) -> None:
    """HELLO alone cannot find an object; HELLO and header that differ are a mistake."""
    async with tcp_server(echo) as port, resuming_client(cloud.address, token=TOKEN) as first:
        await first.open(1, "127.0.0.1", port)
        async with raw_client(cloud.address, token=TOKEN, greet=False) as other:
            await other.send(first.resumption())
            assert (await other.expect(Hello)).session != first.hello.session
        wrong = first.resumption()
        async with raw_client(cloud.address, token=TOKEN, hello=wrong, greet=False) as other:
            await other.send(Hello(session="0" * 64))
            assert (await other.closed())[0] == 1002
        await first.send(Data(1, b"x"))
        assert await first.data(1, 1) == b"x"


async def test_a_second_attach_takes_the_session_over(cloud: Workerd) -> None:
    async with tcp_server(echo) as port, resuming_client(cloud.address, token=TOKEN) as first:
        await first.open(1, "127.0.0.1", port)
        async with raw_client(cloud.address, token=TOKEN, hello=first.resumption()) as second:
            assert second.hello.session == first.hello.session
            assert (await first.closed())[0] == 4001
            await second.send(Data(1, b"mine"))
            assert await second.data(1, 4) == b"mine"


@pytest.mark.parametrize("received", [0, 3, 99, 2**53 - 1])
async def test_received_that_cannot_be(cloud: Workerd, received: int) -> None:
    async with tcp_server(echo) as port, resuming_client(cloud.address, token=TOKEN) as first:
        await first.open(1, "127.0.0.1", port)
        await first.send(Ack(1))
        await first.lose()
    hello = first.resumption(received=received)
    async with raw_client(cloud.address, token=TOKEN, hello=hello, greet=False) as second:
        await second.send(hello)
        status, reason = await second.closed()
        assert status == 1002 and "received" in reason
    async with raw_client(cloud.address, token=TOKEN, hello=first.resumption()) as third:
        assert third.hello.session != first.hello.session  # 1002 ends a session


@pytest.mark.parametrize(("acks", "text"), [((2,), "2 frames"), ((1, 0), "0 frames")])
async def test_acks_that_lie(cloud: Workerd, acks: tuple[int, ...], text: str) -> None:
    async with tcp_server(echo) as port, resuming_client(cloud.address, token=TOKEN) as client:
        await client.open(1, "127.0.0.1", port)
        await client.send(*map(Ack, acks))
        status, reason = await client.closed()
        assert status == 1002 and text in reason


async def test_no_session_is_kept_for_a_client_that_does_not_come_back(cloud: Workerd) -> None:
    ended: list[int] = []

    async def far(stream: trio.SocketStream) -> None:
        async for _ in stream:
            pass
        ended.append(1)

    hello = Hello(window=1 << 20, resume=0)
    async with tcp_server(far) as port:
        async with raw_client(cloud.address, token=TOKEN, hello=hello) as client:
            assert client.hello.resume == 0
            await client.open(1, "127.0.0.1", port)
            await client.lose()
        await until(lambda: ended)
        async with raw_client(cloud.address, token=TOKEN, hello=client.resumption()) as again:
            assert again.hello.session != client.hello.session


async def test_a_close_ends_the_session(cloud: Workerd) -> None:
    ended: list[int] = []

    async def far(stream: trio.SocketStream) -> None:
        async for _ in stream:
            pass
        ended.append(1)

    async with tcp_server(far) as port:
        async with resuming_client(cloud.address, token=TOKEN) as client:
            await client.open(1, "127.0.0.1", port)
        await until(lambda: ended)
        async with raw_client(cloud.address, token=TOKEN, hello=client.resumption()) as again:
            assert again.hello.session != client.hello.session


async def test_the_shorter_time_counts_and_ends(tmp_path: Path) -> None:
    ended: list[float] = []

    async def far(stream: trio.SocketStream) -> None:
        async for _ in stream:
            pass
        ended.append(trio.current_time())

    with running_workerd(tmp_path, RESUME="2") as cloud:
        hello = Hello(window=1 << 20, resume=30)
        async with tcp_server(far) as port:
            async with raw_client(cloud.address, token=TOKEN, hello=hello) as client:
                assert client.hello.resume == 2
                await client.open(1, "127.0.0.1", port)
                lost = trio.current_time()
                await client.lose()
            await until(lambda: ended)
            assert ended[0] - lost > 1.9
            async with raw_client(cloud.address, token=TOKEN, hello=client.resumption()) as again:
                assert again.hello.session != client.hello.session
        hello = Hello(window=1 << 20, resume=1)
        async with raw_client(cloud.address, token=TOKEN, hello=hello) as client:
            assert client.hello.resume == 1


async def test_a_restarted_runtime_knows_no_session(tmp_path: Path) -> None:
    client = SessionClient(TOKEN)
    async with tcp_server(echo) as port, trio.open_nursery() as nursery:
        with running_workerd(tmp_path) as cloud:
            nursery.start_soon(client.run, cloud.address)
            await client.until(lambda: client.session.can_connect)
            stream = client.open("127.0.0.1", port, b"x", end=False)
            await client.until(lambda: client.received[stream])
            cloud.kill()
        await client.until(lambda: not client.session.attached)
        assert not client.over(stream)
        with running_workerd(tmp_path) as cloud:
            nursery.start_soon(client.run, cloud.address)
            await client.until(lambda: len(client.ready) == 2)
            assert client.resets[stream].code == 0 and stream not in client.ended
            await client.until(lambda: client.session.can_connect)
            stream = client.open("127.0.0.1", port, b"again")
            await client.until(lambda: client.over(stream))
            assert bytes(client.received[stream]) == b"again"
            nursery.cancel_scope.cancel()
