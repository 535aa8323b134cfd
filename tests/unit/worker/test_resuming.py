"""Sessions that outlive their WebSocket at the worker, and who may come back to them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import dns.message
import pytest
import trio
from trio.testing import MockClock

from tests.kits.plain_websocket import V2, client_message, close_frame, upgrade_request
from tests.kits.until import until
from tests.kits.worker import (
    FakeNameServer,
    LateReader,
    RawClient,
    answer,
    echo,
    far_sockets,
    resuming_client,
    running_worker,
    tcp_server,
)
from zks_lwip.protocol import (
    Ack,
    Close,
    Connect,
    Connected,
    Data,
    DnsQuery,
    DnsResponse,
    Eof,
    Error,
    GoAway,
    Hello,
    Ping,
    Pong,
    Udp,
)
from zks_lwip.protocol.kept import INITIAL_LIMIT
from zks_lwip.worker import Limits, Worker
from zks_lwip.worker.limits import Account

ALICE = "alice-" + "a" * 30
BOB = "bob-" + "b" * 30
HOST = "127.0.0.1"


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"alice {ALICE}\nbob {BOB}\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def clock() -> MockClock:
    """Seconds pass only when nothing has happened for a moment: a busy machine adds none."""
    return MockClock(autojump_threshold=0.02)


async def lose(worker: Worker, client: RawClient) -> None:
    """Lose a client's connection, and wait until the worker has seen that."""
    before = len(worker.sessions.detached)
    await client.lose()
    await until(lambda: len(worker.sessions.detached) == before + 1)


@asynccontextmanager
async def back(
    address: tuple[str, int], client: RawClient, *, token: str | None = None
) -> AsyncIterator[RawClient]:
    """A client that has come back to the session of another one."""
    async with resuming_client(address, token=token, hello=client.resumption()) as again:
        assert again.hello.session == client.hello.session
        again.taken = client.taken
        yield again


def account_of(worker: Worker) -> Account:
    """What the only token uses."""
    (account,) = worker.accounts.values()
    return account


# --- coming back ------------------------------------------------------------------------------


async def test_streams_go_on() -> None:
    async with running_worker() as (worker, address), tcp_server(echo) as port:
        async with resuming_client(address) as client:
            assert client.hello.resume == worker.config.resume == 60
            await client.open(1, HOST, port)
            await client.send(Data(1, b"before"))
            assert await client.data(1, 6) == b"before"
            await lose(worker, client)
            assert (len(worker.sessions), far_sockets(worker)) == (1, 1)
        async with back(address, client) as again:
            assert not worker.sessions.detached
            await again.send(Data(1, b"behind"), Eof(1))
            assert await again.data(1, 6) == b"behind"
            await again.expect(Eof)
            await until(lambda: not far_sockets(worker))


async def test_what_the_client_had_sent_is_delivered_while_it_is_away() -> None:
    reader = LateReader()
    async with running_worker() as (worker, address), tcp_server(reader.serve) as port:
        async with resuming_client(address) as client:
            await client.open(1, HOST, port)
            size = 0
            while size + 60_000 <= client.hello.window:
                await client.send(Data(1, bytes(60_000)))
                size += 60_000
            await client.send(Eof(1), Ping())
            await client.expect(Pong)
            await lose(worker, client)
        reader.begin.set()
        await until(lambda: reader.came)
        assert reader.came == [size]
        async with back(address, client) as again:
            await again.expect(Eof)


async def test_what_far_ends_send_waits_and_comes_once() -> None:
    total = 3_000_000
    sent = trio.Event()

    async def counting(stream: trio.SocketStream) -> None:
        await stream.send_all(b"".join(n.to_bytes(4, "big") for n in range(total // 4)))
        await stream.send_eof()
        sent.set()

    expected = b"".join(n.to_bytes(4, "big") for n in range(total // 4))
    async with running_worker() as (worker, address), tcp_server(counting) as port:
        received = b""
        async with AsyncExitStack() as stack:
            hello = Hello(window=2**31 - 1)
            client = await stack.enter_async_context(resuming_client(address, hello=hello))
            await client.open(1, HOST, port)
            while len(received) < total:
                frame = await client.expect(Data)
                received += frame.payload
                await client.send(Ack(client.taken))
                if len(received) // 300_000 > (len(received) - len(frame.payload)) // 300_000:
                    await lose(worker, client)  # and what was on its way
                    client = await stack.enter_async_context(back(address, client))
            assert received == expected
            await client.expect(Eof)


async def test_a_connect_under_way_is_answered_on_the_next_connection() -> None:
    """And so is everything that was counted and sent into the void."""
    async with running_worker() as (worker, address), tcp_server(echo) as port:
        async with resuming_client(address) as client:
            await client.send(Connect(1, HOST, port), Connect(2, HOST, 1))
            await until(lambda: len(worker.sessions.attached) == 1 and far_sockets(worker) == 1)
            await lose(worker, client)
        async with back(address, client) as again:  # which has taken nothing of it
            frames = [await again.receive(), await again.receive()]
            assert {type(frame) for frame in frames} == {Connected, Error}
            await again.send(Data(1, b"x"))
            assert await again.data(1, 1) == b"x"


async def test_a_far_end_that_resets_meanwhile_is_told_of() -> None:
    hang_up = trio.Event()

    async def resets(stream: trio.SocketStream) -> None:
        await hang_up.wait()

    async with running_worker() as (worker, address), tcp_server(resets) as port:
        async with resuming_client(address) as client:
            await client.open(1, HOST, port)
            await lose(worker, client)
        hang_up.set()
        async with back(address, client) as again:
            await again.expect(Eof)
            await again.send(Data(1, b"x"))
            assert (await again.expect(Error)).stream == 1


async def test_associations_stay_and_dns_is_given_up() -> None:
    silent = FakeNameServer(lambda query, tcp: None)
    sources = set()
    with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as far:
        await far.bind((HOST, 0))
        port = far.getsockname()[1]
        async with (
            silent.running(),
            running_worker(resolvers=(silent.server,)) as (
                worker,
                address,
            ),
        ):
            async with resuming_client(address) as client:
                await client.send(Udp(1, HOST, port, b"one"))
                sources.add((await far.recvfrom(100))[1])
                query = dns.message.make_query("example.com", "A").to_wire()
                await client.send(DnsQuery(1, query))
                await until(lambda: account_of(worker).queries.in_flight)
                await lose(worker, client)
                await until(lambda: not account_of(worker).queries.in_flight)
            await far.sendto(b"no socket is there", sources.copy().pop())
            silent.respond = lambda query, tcp: answer(query, "192.0.2.1")
            async with back(address, client) as again:
                await again.send(Udp(1, HOST, port, b"two"))
                source = (await far.recvfrom(100))[1]
                sources.add(source)
                assert len(sources) == 1
                await far.sendto(b"answer", source)
                while (await again.expect(Udp)).payload != b"answer":
                    pass
                await again.send(DnsQuery(1, query))
                assert (await again.expect(DnsResponse)).request == 1


async def test_a_late_answer_is_not_given_for_a_later_query_of_the_same_id(
    clock: MockClock,
) -> None:
    """Also where another connection takes the session over without a pause."""
    late = FakeNameServer(lambda query, tcp: None)
    async with (
        late.running(),
        running_worker(resolvers=(late.server,)) as (worker, address),
        resuming_client(address) as client,
    ):
        old, new = (dns.message.make_query(f"{name}.example", "A") for name in ("old", "new"))
        await client.send(DnsQuery(1, old.to_wire()))
        await until(lambda: late.queries)
        async with back(address, client) as again:
            await again.send(DnsQuery(1, new.to_wire()))
            await until(lambda: len(late.queries) > 1)
            late.respond = lambda query, tcp: (
                answer(query, "192.0.2.1") if query.question == old.question else None
            )
            answered = await again.expect(DnsResponse)
            assert dns.message.from_wire(answered.message).question == new.question
            await until(lambda: not account_of(worker).queries.in_flight)


# --- for how long -----------------------------------------------------------------------------


async def test_its_time_is_over(clock: MockClock) -> None:
    async with running_worker(resume=5) as (worker, address), tcp_server(echo) as port:
        async with resuming_client(address) as client:
            assert client.hello.resume == 5
            await client.open(1, HOST, port)
            await lose(worker, client)
            began = trio.current_time()
        await trio.sleep_until(began + 4)
        assert len(worker.sessions) == far_sockets(worker) == 1
        await trio.sleep_until(began + 7)
        assert len(worker.sessions) == far_sockets(worker) == 0
        async with resuming_client(address, hello=client.resumption()) as again:
            assert again.hello.session != client.hello.session
            await again.open(1, HOST, port)  # ids begin anew: it is a fresh session


async def test_a_client_that_wants_less(clock: MockClock) -> None:
    async with running_worker(resume=50) as (worker, address):
        async with resuming_client(address, hello=Hello(resume=5)) as client:
            assert client.hello.resume == 5
            await lose(worker, client)
        await trio.sleep(7)
        assert not len(worker.sessions)


@pytest.mark.parametrize(("worker_says", "client_says"), [(0, 60), (60, 0), (0, 0)])
async def test_where_either_wants_none_it_ends_with_its_connection(
    worker_says: int, client_says: int
) -> None:
    async with running_worker(resume=worker_says) as (worker, address):
        async with resuming_client(address, hello=Hello(resume=client_says)) as client:
            assert client.hello.resume == 0
            await client.lose()
            await until(lambda: not len(worker.sessions))
        async with resuming_client(address, hello=client.resumption(received=0)) as again:
            assert again.hello.session != client.hello.session


@pytest.mark.parametrize(
    ("status", "held"), [(1000, False), (1002, False), (1008, False), (1001, True), (1012, True)]
)
async def test_what_a_close_means(status: int, held: bool) -> None:
    async with running_worker() as (worker, address), tcp_server(echo) as port:
        async with resuming_client(address) as client:
            await client.open(1, HOST, port)
            await client.stream.send_all(close_frame(status, masked=True))
            if held:
                await until(lambda: worker.sessions.detached)
            else:
                await until(lambda: not len(worker.sessions))
                assert not far_sockets(worker)


async def test_v1_ends_with_its_connection() -> None:
    async with running_worker() as (worker, address), tcp_server(echo) as port:
        async with resuming_client(address, greet=False, subprotocols=()) as client:
            await client.send(Connect(1, HOST, port))
            await until(lambda: far_sockets(worker) == 1)
            await client.lose()
            await until(lambda: not len(worker.sessions))
            assert not far_sockets(worker)


async def test_descriptors_are_given_back_meanwhile(tokens: Path) -> None:
    async with running_worker(token_file=tokens) as (worker, address), tcp_server(echo) as port:
        free = worker.descriptors.free
        async with resuming_client(address, token=ALICE) as client:
            await client.open(1, HOST, port)
            await lose(worker, client)
            await until(lambda: worker.descriptors.free == free - 1)
            assert (account_of(worker).sessions, account_of(worker).websockets) == (1, 0)
        async with back(address, client, token=ALICE):
            assert worker.descriptors.free == free - 2


async def test_a_removed_token_ends_what_waits_for_it(tokens: Path) -> None:
    async with running_worker(token_file=tokens) as (worker, address), tcp_server(echo) as port:
        async with resuming_client(address, token=ALICE) as client:
            await client.open(1, HOST, port)
            await lose(worker, client)
        tokens.write_text(f"bob {BOB}\n")
        worker.reload()
        assert (len(worker.sessions), far_sockets(worker)) == (0, 0)
        assert not worker.accounts


@pytest.mark.parametrize("resumes", [True, False])
async def test_a_token_that_is_removed_before_hello_opens_and_finds_nothing(
    resumes: bool, tokens: Path
) -> None:
    async with running_worker(token_file=tokens) as (worker, address):
        async with resuming_client(address, token=ALICE) as client:
            await lose(worker, client)
            hello = client.resumption() if resumes else Hello()
            async with resuming_client(address, token=ALICE, hello=hello, greet=False) as late:
                tokens.write_text(f"bob {BOB}\n")
                worker.reload()
                await late.send(hello)
                assert (await late.closed())[0] == 1008
        assert not len(worker.sessions)
        await until(lambda: not worker.accounts)


async def test_stopping_ends_what_waits_and_closes_the_others_for_good() -> None:
    async with running_worker(drain=60) as (worker, address), tcp_server(echo) as port:
        async with resuming_client(address) as gone, resuming_client(address) as busy:
            await gone.open(1, HOST, port)
            await busy.open(1, HOST, port)
            await lose(worker, gone)
            worker.stop()
            await until(lambda: far_sockets(worker) == 1)
            await busy.expect(GoAway)
            await busy.send(Close(1))
            assert (await busy.closed())[0] == 1000
        with trio.fail_after(30):
            await worker.ended.wait()


# --- who ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("attached", [True, False])
async def test_another_token_finds_nothing(
    attached: bool, tokens: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor can it tell whether the session is there; and the log does not name it."""
    caplog.set_level(logging.DEBUG, "zks_lwip")
    async with running_worker(token_file=tokens) as (worker, address), tcp_server(echo) as port:
        async with resuming_client(address, token=ALICE) as client:
            await client.open(1, HOST, port)
            if not attached:
                await lose(worker, client)
            answers = []
            for wanted in (client.hello.session, "x" * 32):
                hello = client.resumption(session=wanted)
                async with resuming_client(address, token=BOB, hello=hello) as thief:
                    assert thief.hello.session not in (client.hello.session, wanted)
                    answers.append({**vars_of(thief.hello), "session": None})
                    await thief.send(Ping())
                    await thief.expect(Pong)
            assert answers[0] == answers[1]
            if attached:
                await client.send(Data(1, b"still mine"))
                assert await client.data(1, 10) == b"still mine"
        if not attached:
            async with back(address, client, token=ALICE) as again:
                await again.send(Data(1, b"still mine"))
                assert await again.data(1, 10) == b"still mine"
    assert "HELLO: " in caplog.text
    assert client.hello.session is not None and client.hello.session not in caplog.text


def vars_of(hello: Hello) -> dict[str, object]:
    """The fields of a HELLO."""
    return {name: getattr(hello, name) for name in hello.__slots__}


@pytest.mark.parametrize("forged", ["a", "x" * 255, "../../etc/passwd", "%s%n"])
async def test_a_forged_session(forged: str) -> None:
    async with running_worker() as (worker, address), resuming_client(address) as client:
        await lose(worker, client)
        async with resuming_client(address, hello=client.resumption(session=forged)) as other:
            assert other.hello.session not in (forged, client.hello.session)
            assert len(worker.sessions) == 2
        async with back(address, client):
            pass


async def test_without_a_token(tokens: Path) -> None:
    async with running_worker(token_file=tokens) as (worker, address):
        async with resuming_client(address, token=ALICE) as client:
            stream = await trio.open_tcp_stream(*address)
            head = upgrade_request(V2).decode().removesuffix("\r\n")
            await stream.send_all(f"{head}Zks-Session: {client.hello.session}\r\n\r\n".encode())
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 401")
            await trio.aclose_forcefully(stream)
            await client.send(Ping())
            await client.expect(Pong)


async def test_a_second_connection_takes_the_session_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG, "zks_lwip"):
        async with running_worker() as (worker, address), tcp_server(echo) as port:
            async with resuming_client(address) as first:
                await first.open(1, HOST, port)
                async with back(address, first) as second:
                    assert (await first.closed())[0] == 4001
                    await second.send(Data(1, b"mine now"))
                    assert await second.data(1, 8) == b"mine now"
                    assert len(worker.sessions) == 1
                    session = second.hello.session
                    assert session is not None
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("zks_lwip")]
    assert not any(session in message for message in ours)


async def test_nothing_of_the_old_connection_is_taken_any_more() -> None:
    """The worker says what it has taken; what comes by the old connection then comes again."""
    received = bytearray()
    done = trio.Event()

    async def note(stream: trio.SocketStream) -> None:
        async for piece in stream:
            received.extend(piece)
        done.set()

    async with running_worker() as (_, address), tcp_server(note) as port:
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(resuming_client(address))
            await client.open(1, HOST, port)
            frames = [Data(1, bytes([n]) * 1000) for n in range(200)]
            sent = 0  # by the current connection, and all before it
            for turn in range(10):
                upto = 20 * (turn + 1)
                for frame in frames[sent:upto]:
                    with suppress(Exception):
                        await client.send(frame)
                client = await stack.enter_async_context(back(address, client))
                sent = client.hello.received - 1  # behind the CONNECT
                assert 0 <= sent <= upto
            for frame in frames[sent:]:
                await client.send(frame)
            await client.send(Eof(1))
            with trio.fail_after(30):
                await done.wait()
    assert received == b"".join(frame.payload for frame in frames)


async def test_attaches_that_come_at_once(clock: MockClock) -> None:
    """The last one has the session; nothing is lost and no client waits."""
    async with running_worker() as (worker, address), tcp_server(echo) as port:
        async with resuming_client(address) as client:
            await client.open(1, HOST, port)
            await lose(worker, client)
        wishes = client.resumption()
        ends: dict[RawClient, int] = {}

        async def attach(one: RawClient) -> None:
            await one.send(wishes)
            ends[one] = (await one.closed())[0]

        async with AsyncExitStack() as stack:
            several = [
                await stack.enter_async_context(resuming_client(address, greet=False, hello=wishes))
                for _ in range(8)
            ]
            async with trio.open_nursery() as nursery:
                for one in several:
                    nursery.start_soon(attach, one)
                await until(lambda: len(ends) == 7)
                await trio.sleep(5)
                nursery.cancel_scope.cancel()
            assert list(ends.values()) == [4001] * 7
            assert len(worker.sessions.attached) == 1
            (winner,) = set(several) - set(ends)
            await winner.send(Data(1, b"x"))
            assert await winner.data(1, 1) == b"x"


# --- HELLO in the request -----------------------------------------------------------------------


def early(hello: Hello) -> list[tuple[bytes, bytes]]:
    """The header by which a request says HELLO."""
    return [(b"zks-hello", hello.encode_header())]


async def test_a_hello_in_the_request_is_answered_at_once() -> None:
    async with running_worker() as (worker, address), tcp_server(echo) as port:
        async with resuming_client(address) as client:
            await client.open(1, HOST, port)
            await client.send(Data(1, b"into the void"))
            await lose(worker, client)
        hello = client.resumption(attempt=1)
        async with resuming_client(
            address, hello=hello, greet=False, headers=early(hello)
        ) as again:
            said = await again.expect(Hello)
            assert said.session == client.hello.session and said.received
            assert await again.expect(Data) == Data(1, b"into the void")
            again.taken += 1
            assert len(worker.sessions.attached) == 1
            await again.send(hello)
            await again.send(Data(1, b"behind"))
            assert await again.data(1, 6) == b"behind"


@pytest.mark.parametrize(
    "said",
    [b"", b"{", b"[]", b'{"version":2}', b'{"version":2,"session":"another"}', b"\xff" * 9000],
)
async def test_a_hello_in_the_request_that_is_none_waits_for_the_frame(said: bytes) -> None:
    async with running_worker() as (worker, address):
        async with resuming_client(address) as client:
            await lose(worker, client)
        hello = client.resumption()
        headers = [(b"zks-hello", said)]
        async with resuming_client(address, hello=hello, greet=False, headers=headers) as again:
            await again.silent()
            await again.send(hello)
            assert (await again.expect(Hello)).session == client.hello.session


async def test_a_hello_in_the_request_of_a_forgotten_session_begins_another() -> None:
    async with running_worker() as (worker, address):
        hello = Hello(session="forgotten", resume=60)
        async with resuming_client(address, hello=hello, headers=early(hello)) as client:
            assert client.hello.session != "forgotten"
            assert len(worker.sessions) == 1


async def test_another_hello_behind_that_of_the_request_is_a_breach() -> None:
    async with running_worker() as (worker, address):
        async with resuming_client(address) as client:
            await lose(worker, client)
        hello = client.resumption()
        async with resuming_client(
            address, hello=hello, greet=False, headers=early(hello)
        ) as again:
            await again.expect(Hello)
            await again.send(client.resumption(attempt=7))
            assert (await again.closed())[0] == 1002
        await until(lambda: not len(worker.sessions))


@pytest.mark.parametrize("said_early", [True, False])
async def test_a_late_hello_does_not_take_the_session_back(said_early: bool) -> None:
    """It was said before the one that has the session, and came over a slower path."""
    async with running_worker() as (worker, address), tcp_server(echo) as port:
        async with resuming_client(address) as client:
            await client.open(1, HOST, port)
            await lose(worker, client)
        async with resuming_client(address, hello=client.resumption(attempt=2)) as again:
            for attempt in (1, 2):
                late = client.resumption(attempt=attempt)
                headers = early(late) if said_early else ()
                async with resuming_client(
                    address, hello=late, greet=False, headers=headers
                ) as other:
                    if not said_early:
                        await other.send(late)
                    assert (await other.closed())[0] == 4001
            await again.send(Data(1, b"unmoved"))
            assert await again.data(1, 7) == b"unmoved"
            assert len(worker.sessions.attached) == 1


# --- attempts that come to nothing --------------------------------------------------------------


async def test_an_attempt_that_is_lost_half_way_changes_nothing() -> None:
    async with running_worker() as (worker, address), tcp_server(echo) as port:
        async with resuming_client(address) as client:
            await client.open(1, HOST, port)
            hello = client_message(client.resumption().encode())
            for said in (b"", hello[:1], hello[:-1]):
                stream = await trio.open_tcp_stream(*address)
                head = upgrade_request(V2).decode().removesuffix("\r\n")
                request = f"{head}Zks-Session: {client.hello.session}\r\n\r\n"
                await stream.send_all(request.encode())
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 101")
                await stream.send_all(said)
                await until(lambda: account_of(worker).websockets == 2)
                await trio.aclose_forcefully(stream)
                await until(lambda: account_of(worker).websockets == 1)
            await client.send(Data(1, b"unmoved"))
            assert await client.data(1, 7) == b"unmoved"


async def test_a_first_message_that_comes_slowly(clock: MockClock) -> None:
    async with running_worker() as (worker, address), tcp_server(echo) as port:
        async with resuming_client(address) as client:
            await client.open(1, HOST, port)
            hello = client_message(client.resumption().encode())
            stream = await trio.open_tcp_stream(*address)
            await stream.send_all(upgrade_request(V2))
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 101")
            began = trio.current_time()
            with suppress(trio.BrokenResourceError):
                for index in range(len(hello)):
                    await stream.send_all(hello[index : index + 1])
                    await trio.sleep(1)
                    if account_of(worker).websockets == 1:
                        break
            assert trio.current_time() - began < 20
            await trio.aclose_forcefully(stream)
            await client.send(Data(1, b"unmoved"))
            assert await client.data(1, 7) == b"unmoved"


@pytest.mark.parametrize(
    "said",
    [b"", Ping().encode(), Hello().encode() + Ping().encode(), b"\x40\0\0\0\0\0\0\0\2[]", b"\xff"],
)
async def test_a_first_message_that_is_no_hello(said: bytes) -> None:
    async with running_worker() as (worker, address), resuming_client(address) as client:
        async with resuming_client(address, greet=False, hello=client.resumption()) as other:
            await other.send(said)
            assert (await other.closed())[0] == 1002
        await until(lambda: account_of(worker).websockets == 1)
        await client.send(Ping())
        await client.expect(Pong)


@pytest.mark.parametrize("named", [True, False], ids=["of a session", "of none"])
async def test_thousands_of_attempts_are_bounded(named: bool) -> None:
    """They say what they come for, and then nothing."""
    limits = Limits(sessions=8)
    async with running_worker(limits=limits) as (worker, address), tcp_server(echo) as port:
        async with resuming_client(address) as client:
            await client.open(1, HOST, port)
            head = upgrade_request(V2).decode().removesuffix("\r\n")
            if named:
                head += f"Zks-Session: {client.hello.session}\r\n"
            streams = []
            most = refused = 0
            for _ in range(2000):
                stream = await trio.open_tcp_stream(*address)
                streams.append(stream)
                await stream.send_all(f"{head}\r\n".encode())
                refused += (await stream.receive_some()).startswith(b"HTTP/1.1 429")
                most = max(most, account_of(worker).websockets)
                if len(streams) > 50:
                    await trio.aclose_forcefully(streams.pop(0))
            print(f"{most} WebSockets at most, {refused} refused")
            assert most <= 2 * limits.sessions + 1
            await client.send(Data(1, b"unmoved"))
            assert await client.data(1, 7) == b"unmoved"
            async with back(address, client) as again:  # among them all
                await again.send(Data(1, b"mine"))
                assert await again.data(1, 4) == b"mine"
            for stream in streams:
                await trio.aclose_forcefully(stream)


# --- lies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("attached", [True, False])
@pytest.mark.parametrize("lie", ["beyond what was sent", "behind the last ACK"])
async def test_received_lies(attached: bool, lie: str) -> None:
    async with running_worker() as (worker, address), tcp_server(echo) as port:
        async with resuming_client(address) as client:
            await client.open(1, HOST, port)
            await client.send(Ack(client.taken), Ping())
            await client.expect(Pong)
            if not attached:
                await lose(worker, client)
            received = 2**40 if lie.startswith("beyond") else client.taken - 1
            hello = client.resumption(received=received)
            async with resuming_client(address, greet=False, hello=hello) as liar:
                await liar.send(hello)
                assert (await liar.closed())[0] == 1002
            await until(lambda: not len(worker.sessions))
            assert not far_sockets(worker)


@pytest.mark.parametrize("counts", [(2**63,), (1000,), (1, 0)])
async def test_an_ack_that_lies_ends_the_session(counts: tuple[int, ...]) -> None:
    """It is beyond what was sent, or it goes backwards."""
    async with running_worker() as (worker, address), tcp_server(echo) as port:
        async with resuming_client(address) as client:
            await client.open(1, HOST, port)
            await client.send(*map(Ack, counts))
            assert (await client.closed())[0] == 1002
            await until(lambda: not len(worker.sessions))
        async with resuming_client(address, hello=client.resumption()) as again:
            assert again.hello.session != client.hello.session


# --- bounds -------------------------------------------------------------------------------------


async def test_a_client_that_never_acknowledges_is_held_up() -> None:
    async def pour(stream: trio.SocketStream) -> None:
        while True:
            await stream.send_all(bytes(1 << 16))

    async with running_worker() as (worker, address), tcp_server(pour) as port:
        async with resuming_client(address, hello=Hello(window=2**31 - 1)) as client:
            await client.open(1, HOST, port)
            came = [0, 0]
            for turn in range(2):
                with trio.move_on_after(60) as patience:
                    while not patience.cancel_called:
                        with trio.move_on_after(1) as quiet:
                            came[turn] += len((await client.expect(Data)).payload)
                        if quiet.cancelled_caught:
                            break
                assert not patience.cancelled_caught
                await client.send(Ack(client.taken))
            print(f"{came[0]:,} bytes, and {came[1]:,} more when it did")
            assert 1 << 18 < came[0] < INITIAL_LIMIT + (1 << 20) and came[1] > 1 << 18
            assert account_of(worker).kept.used < 2 * INITIAL_LIMIT  # it grows by half at most
            await lose(worker, client)
            assert account_of(worker).kept.used
    # what it keeps is given back with the session: running_worker() looks


async def test_sessions_without_a_connection_are_bounded(tokens: Path) -> None:
    limits = Limits(sessions=5)
    async with (
        running_worker(token_file=tokens, limits=limits) as (worker, address),
        tcp_server(echo) as port,
    ):
        lost = []
        async with resuming_client(address, token=BOB) as bob:
            await lose(worker, bob)
        for _ in range(12):
            async with resuming_client(address, token=ALICE) as client:
                await client.open(1, HOST, port)
                await client.lose()
                lost.append(client)
            await until(lambda: not worker.sessions.attached)
        assert (len(worker.sessions.detached), far_sockets(worker)) == (6, 5)
        async with resuming_client(address, token=ALICE, hello=lost[6].resumption()) as again:
            assert again.hello.session != lost[6].hello.session  # it had to go
        for client in (*lost[8:], bob):
            token = BOB if client is bob else ALICE
            async with back(address, client, token=token):
                pass


async def test_none_gives_way_to_one_that_comes_back(tokens: Path) -> None:
    """Where all are lost at once all come back, whichever is first."""
    limits = Limits(sessions=4)
    async with running_worker(token_file=tokens, limits=limits) as (worker, address):
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(resuming_client(address, token=ALICE))
                for _ in range(4)
            ]
            for client in clients:
                await lose(worker, client)
            for client in reversed(clients):
                await stack.enter_async_context(back(address, client, token=ALICE))
            assert len(worker.sessions.attached) == 4


async def test_they_are_bounded_over_all_tokens(tokens: Path) -> None:
    async with running_worker(token_file=tokens, max_detached=3) as (worker, address):
        async with resuming_client(address, token=BOB) as bob:
            await lose(worker, bob)
        for count in (2, 3, 3, 3):
            async with resuming_client(address, token=ALICE) as client:
                await client.lose()
                await until(lambda: not worker.sessions.attached)
            assert len(worker.sessions.detached) == count
        async with resuming_client(address, token=BOB, hello=bob.resumption()) as again:
            assert again.hello.session != bob.hello.session
