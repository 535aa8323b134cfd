"""TCP through the worker: real sockets on loopback, a real WebSocket client."""

from __future__ import annotations

import errno
import hashlib
import os
import select
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import dns.message
import pytest
import trio
import trio.testing

from tests.kits.ports import SHORTEST_QUEUE, refused_port
from tests.kits.session import came, drain, feed
from tests.kits.until import until
from tests.kits.worker import (
    FakeNameServer,
    LateReader,
    echo,
    far_sockets,
    raw_client,
    running_worker,
    tcp_server,
    zone,
)
from zks_lwip.net.readiness import Readiness, TaskReadiness, make_readiness
from zks_lwip.net.sockets import close_in_order
from zks_lwip.protocol import (
    Close,
    Connect,
    Connected,
    Data,
    DnsQuery,
    DnsResponse,
    Eof,
    Error,
    Frame,
    Hello,
    Role,
    Session,
    Settings,
    Window,
)
from zks_lwip.worker import Limits
from zks_lwip.worker.client import Client
from zks_lwip.worker.limits import Account, QueryBudget

both_kinds = pytest.mark.parametrize("readiness", [make_readiness, TaskReadiness])
Make = Callable[[], Readiness]


@both_kinds
async def test_echo(readiness: Make) -> None:
    async with running_worker(readiness=readiness) as (_, address), tcp_server(echo) as port:
        async with raw_client(address) as client:
            await client.open(1, "127.0.0.1", port)
            for payload in (b"x", b"y" * 70_000):
                await client.send(Data(1, payload))
                assert await client.data(1, len(payload)) == payload
            await client.send(Eof(1))
            assert (await client.expect(Eof)).stream == 1
            await client.silent()


@both_kinds
async def test_bulk_both_ways_at_once(readiness: Make) -> None:
    size = 8 << 20
    sent = os.urandom(1 << 20) * 8

    async with running_worker(readiness=readiness) as (_, address), tcp_server(echo) as port:
        async with raw_client(address) as client, trio.open_nursery() as nursery:
            await client.open(1, "127.0.0.1", port)
            client.credit[1] = client.hello.window

            async def send() -> None:
                offset = 0
                while offset < size:
                    room = min(client.credit[1], 1 << 16, size - offset)
                    if not room:
                        await trio.sleep(0.001)
                        continue
                    client.credit[1] -= room
                    await client.send(Data(1, sent[offset : offset + room]))
                    offset += room
                await client.send(Eof(1))

            nursery.start_soon(send)
            received = await client.data(1, size)
            assert hashlib.sha256(received).digest() == hashlib.sha256(sent).digest()
            await client.expect(Eof)


async def test_many_streams_in_one_message() -> None:
    async with running_worker() as (worker, address), tcp_server(echo) as port:
        async with raw_client(address) as client:
            ids = range(1, 101)
            await client.send(*(Connect(i, "127.0.0.1", port) for i in ids))
            await client.send(*(Data(i, b"%d" % i) for i in ids), *(Eof(i) for i in ids))
            got = dict.fromkeys(ids, b"")
            ended = set()
            while len(ended) < 100:
                frame = await client.receive()
                if isinstance(frame, Data):
                    got[frame.stream] += bytes(frame.payload)
                elif isinstance(frame, Eof):
                    ended.add(frame.stream)
                else:
                    assert isinstance(frame, Connected)
            assert got == {i: b"%d" % i for i in ids}
            await until(lambda: far_sockets(worker) == 0)


@both_kinds
async def test_half_close_by_the_far_end_first(readiness: Make) -> None:
    result: list[bytes] = []
    done = trio.Event()

    async def far(stream: trio.SocketStream) -> None:
        await stream.send_all(b"greeting")
        await stream.send_eof()
        await trio.sleep(0.05)
        result.append(b"".join([bytes(piece) async for piece in stream]))
        done.set()

    async with running_worker(readiness=readiness) as (_, address), tcp_server(far) as port:
        async with raw_client(address) as client:
            await client.open(1, "127.0.0.1", port)
            assert await client.data(1, 8) == b"greeting"
            await client.expect(Eof)
            await client.send(Data(1, b"late "))
            await trio.sleep(0.02)
            await client.send(Data(1, b"words"), Eof(1))
            with trio.fail_after(30):
                await done.wait()
            assert result == [b"late words"]


async def test_what_was_sent_before_both_ends_closed_is_delivered_slowly() -> None:
    """EOF has gone both ways, the session is over, and the far end has still to read."""
    far, size = LateReader(ends=True), 8_000_000
    async with running_worker(window=16 << 20) as (worker, address), tcp_server(far.serve) as port:
        async with raw_client(address) as client:
            await client.open(1, "127.0.0.1", port)
            await client.expect(Eof)
            await client.send_data(1, size)
            await client.send(Eof(1))
            await trio.sleep(0.05)
        assert sum(account.held for account in worker.accounts.values()) > 0
        far.begin.set()
        await until(lambda: far.came)
        assert far.came == [size]


async def test_data_before_connected_is_held() -> None:
    names = {"slow.example": ["127.0.0.1"]}
    server = FakeNameServer(zone(names))
    async with server.running(), tcp_server(echo) as port:
        async with (
            running_worker(resolvers=(server.server,)) as (_, address),
            raw_client(address) as client,
        ):
            await client.send(Connect(1, "slow.example", port), Data(1, b"early"))
            await client.send(Data(1, b" bird"), Eof(1))
            await client.expect(Connected)
            assert await client.data(1, 10) == b"early bird"
            await client.expect(Eof)


async def test_refused_reset_and_hang() -> None:
    async def resetting(stream: trio.SocketStream) -> None:
        await stream.receive_some(1)
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")

    async with running_worker() as (worker, address), tcp_server(resetting) as port:
        async with raw_client(address) as client:
            with refused_port() as refused:
                await client.send(Connect(1, "127.0.0.1", refused))
                error = await client.expect(Error)
            assert (error.stream, error.code) == (1, 111)
            await client.open(2, "127.0.0.1", port)
            await client.send(Data(2, b"!"))
            error = await client.expect(Error)
            assert (error.stream, error.code) == (2, 104)
            worker.dialer.seconds = 0.2
            with socket.socket() as listener, socket.socket() as filler:
                listener.bind(("127.0.0.1", 0))
                listener.listen(SHORTEST_QUEUE)
                filler.connect(listener.getsockname())
                with socket.socket() as second:
                    second.setblocking(False)
                    second.connect_ex(listener.getsockname())
                    await client.send(Connect(3, *listener.getsockname()))
                    error = await client.expect(Error)
                    assert (error.stream, error.code) == (3, 110)


async def test_reset_after_the_far_end_closed_its_half() -> None:
    async def far(stream: trio.SocketStream) -> None:
        await stream.send_eof()
        await stream.receive_some(1)
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")

    async with running_worker() as (_, address), tcp_server(far) as port:
        async with raw_client(address) as client:
            await client.open(1, "127.0.0.1", port)
            await client.expect(Eof)
            await client.send(Data(1, b"!"))
            assert (await client.expect(Error)).code == 104


@both_kinds
async def test_what_came_before_a_reset_is_delivered(readiness: Make) -> None:
    """The far end answers, closes without reading our upload, and so resets."""

    async def far(stream: trio.SocketStream) -> None:
        await stream.send_all(b"413 too large")
        await trio.sleep(0.05)
        # Linux resets over what is unread; macOS has to be told.
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")

    async with running_worker(readiness=readiness) as (_, address), tcp_server(far) as port:
        # no credit for the client's direction until its upload has failed
        async with raw_client(address, hello=Hello(window=1)) as client:
            await client.open(1, "127.0.0.1", port)
            await client.send(Data(1, bytes(1000)))
            assert bytes((await client.expect(Data)).payload) == b"4"
            await trio.sleep(0.1)
            await client.send(Data(1, bytes(1000)))
            await client.send(Window(1, 100))
            assert await client.data(1, 12) == b"13 too large"
            assert (await client.expect(Error)).code == 104


async def test_c_moves_bytes_as_soon_as_the_far_end_is_connected() -> None:
    async with running_worker() as (worker, _), trio.open_nursery() as nursery:
        session = Session(Role.WORKER, Settings())
        session.attach()
        client = Client(worker, session, Account(Limits(), worker.descriptors), nursery)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            for frame in (Settings().hello(Role.CLIENT), Connect(1, *listener.getsockname())):
                for event in feed(session, frame):
                    client.on_event(event)
                await until(lambda: drain(session))
            assert feed(session, Data(1, b"up")) == []
            with listener.accept()[0] as far:
                assert far.recv(100) == b"up"
        client.close()


async def test_what_came_before_a_reset_is_delivered_if_it_is_asked_for_first() -> None:
    """C could not push, and what the far end has sent is pulled before the session tells of that:
    other events come first, and may be many."""
    async with running_worker() as (worker, _), trio.open_nursery() as nursery:
        session = Session(Role.WORKER, Settings())
        session.attach()
        client = Client(worker, session, Account(Limits(), worker.descriptors), nursery)
        sent: list[Frame] = []

        def act(frame: Frame) -> None:
            for event in feed(session, frame):
                client.on_event(event)

        def said() -> list[Frame]:
            sent.extend(drain(session))
            return sent

        act(Settings().hello(Role.CLIENT))
        drain(session)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            for stream in (1, 2):
                act(Connect(stream, *listener.getsockname()))
                await until(said)
                assert sent.pop() == Connected(stream)
            far, other = (listener.accept()[0] for _ in "12")
        act(Data(1, b"first"))  # C pushes it
        session.unbind(2)  # what comes for it is an event
        with other:
            far.sendall(b"413 too large")
            far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            far.close()
            work = session.work_through(Data(2, b"other").encode() + Data(1, b"more").encode())
            first = next(work)
            assert first == came(2, b"other")
            for _ in range(1000):  # a kernel that is busy passes it on a little later
                session.mark_ready(1)
                if said():
                    break
                time.sleep(0.001)
            assert sent == [Data(1, b"413 too large")]
            for event in (first, *work):
                if event is not None:
                    client.on_event(event)
            await until(lambda: len(said()) == 2)
            assert isinstance(sent[1], Error) and sent[1].code == 104
            client.close()


async def test_close_resets_the_far_end() -> None:
    seen: list[str] = []

    async def far(stream: trio.SocketStream) -> None:
        try:
            while await stream.receive_some():
                pass
            seen.append("EOF")
        except trio.BrokenResourceError:
            seen.append("RST")

    async with running_worker() as (_, address), tcp_server(far) as port:
        async with raw_client(address) as client:
            await client.open(1, "127.0.0.1", port)
            await client.send(Close(1), Data(1, b"ignored"), Window(1, 5))
            await client.open(2, "127.0.0.1", port)
        await until(lambda: len(seen) == 2)  # the second by the end of the session
        assert seen == ["RST", "RST"]


@both_kinds
async def test_urgent_bytes_keep_their_place(readiness: Make) -> None:
    """Both ways: RFC 6093 §4. Without SO_OOBINLINE, recv() leaves such a byte out."""
    came: list[bytes] = []

    async def far(stream: trio.SocketStream) -> None:
        await stream.send_all(b"ab")
        for byte in (b"!", b"?"):
            await stream.socket.send(byte, socket.MSG_OOB)
            await trio.sleep(0.02)
        await stream.send_all(b"cd")
        await stream.socket.send(b".", socket.MSG_OOB)  # the last of all
        await stream.send_eof()
        came.append(b"".join([bytes(piece) async for piece in stream]))

    async with running_worker(readiness=readiness) as (_, address), tcp_server(far) as port:
        async with raw_client(address) as client:
            await client.open(1, "127.0.0.1", port)
            assert await client.data(1, 7) == b"ab!?cd."
            await client.expect(Eof)
            await client.send(Data(1, b"up"), Eof(1))
            await until(lambda: came == [b"up"])


async def test_close_after_eof_takes_nothing_back() -> None:
    """The client wants nothing more; what it has sent before its EOF is delivered, in order."""
    far, size = LateReader(), 8_000_000
    async with running_worker(window=16 << 20) as (worker, address), tcp_server(far.serve) as port:
        async with raw_client(address) as client:
            await client.open(1, "127.0.0.1", port)
            await client.send_data(1, size)
            await client.send(Eof(1), Close(1))
            await client.open(2, "127.0.0.1", port)  # the others have been taken, too
            assert sum(account.held for account in worker.accounts.values()) > 0
            far.begin.set()
            await until(lambda: far.came)
        assert far.came[0] == size
        await until(lambda: far_sockets(worker) == 0)


@pytest.mark.slow
@pytest.mark.parametrize("reads", [True, False])
async def test_a_far_end_may_take_its_time_as_long_as_it_takes_something(reads: bool) -> None:
    far, size = LateReader(pause=0.04), 12_000_000
    async with running_worker(window=16 << 20) as (worker, address), tcp_server(far.serve) as port:
        worker.undelivered.patience = 2.0  # of some seven
        async with raw_client(address) as client:
            await client.open(1, "127.0.0.1", port)
            await client.send_data(1, size)
            await client.send(Eof(1), Close(1))
            await client.open(2, "127.0.0.1", port)  # the others have been taken, too
            if not reads:
                await until(lambda: not any(account.held for account in worker.accounts.values()))
            far.begin.set()
            await until(lambda: far.came)
        assert far.came[0] == (size if reads else None)


async def test_a_slow_far_end_holds_up_its_own_stream_only() -> None:
    stop = trio.Event()
    # A window grows to a quarter of that, however far away this client seems, which answers late
    limits = Limits(held=16 << 20)

    async def far(stream: trio.SocketStream) -> None:
        await stop.wait()

    async with (
        running_worker(limits=limits) as (worker, address),
        tcp_server(far) as stuck,
        tcp_server(echo) as port,
        raw_client(address) as client,
    ):
        await client.open(1, "127.0.0.1", stuck)
        credit = client.hello.window
        sent = 0
        while True:
            while credit:
                piece = min(credit, 1 << 16)
                await client.send(Data(1, bytes(piece)))
                credit -= piece
                sent += piece
            with trio.move_on_after(0.2):
                while not client.credit.get(1):
                    await client.silent(0.01)
            credit = client.credit.pop(1, 0)
            held = sum(account.held for account in worker.accounts.values())
            if held and not credit:
                break
        assert 0 < held <= (4 << 20) + client.hello.window
        assert sent < 32 << 20
        await client.open(2, "127.0.0.1", port)
        await client.send(Data(2, b"lively"))
        assert await client.data(2, 6) == b"lively"
        stop.set()


async def test_a_slow_client_holds_up_its_own_stream_only() -> None:
    sent = 0

    async def far(stream: trio.SocketStream) -> None:
        nonlocal sent
        while True:
            await stream.send_all(bytes(1 << 16))
            sent += 1 << 16

    async with (
        running_worker() as (_, address),
        tcp_server(far) as bulk,
        tcp_server(echo) as port,
        raw_client(address, hello=Hello(window=100_000)) as client,
    ):
        await client.open(1, "127.0.0.1", bulk)
        received = 0
        while received < 100_000:
            received += len((await client.expect(Data)).payload)
        assert received == 100_000
        await client.silent()
        assert sent < 32 << 20
        await client.open(2, "127.0.0.1", port)
        await client.send(Data(2, b"lively"))
        assert await client.data(2, 6) == b"lively"


async def test_policy() -> None:
    names = {"inside.example": ["127.0.0.1"], "intranet.example": ["10.1.2.3", "fd00::1"]}
    server = FakeNameServer(zone(names))
    touched: list[int] = []

    async def far(stream: trio.SocketStream) -> None:
        touched.append(1)

    async with (
        server.running(),
        tcp_server(far) as port,
        running_worker(allow=(), resolvers=(server.server,)) as (_, address),
        raw_client(address) as client,
    ):
        hosts = (
            "127.0.0.1",
            "127.1",
            "2130706433",
            "::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "localhost",
            "inside.example",
            "intranet.example",
            "169.254.169.254",
            "0.0.0.0",
        )
        for stream, host in enumerate(hosts, 1):
            await client.send(Connect(stream, host, port))
            error = await client.expect(Error)
            assert (error.stream, error.code) == (stream, 403), host
            assert error.message.startswith("refused by policy"), host
    assert not touched


async def test_too_many_streams() -> None:
    limits = Limits(streams=3)
    async with running_worker(limits=limits) as (_, address), tcp_server(echo) as port:
        async with raw_client(address) as client, raw_client(address) as other:
            assert client.hello.streams == 3
            for stream in (1, 2):
                await client.open(stream, "127.0.0.1", port)
            await other.open(1, "127.0.0.1", port)
            await other.send(Connect(2, "127.0.0.1", port))  # the token has three in all
            assert (await other.expect(Error)).code == 429
            await client.send(Close(1))
            await client.open(3, "127.0.0.1", port)


async def test_too_many_new_connections_a_second() -> None:
    now = 0.0
    limits = Limits(connects=2)
    async with (
        running_worker(limits=limits, clock=lambda: now) as (_, address),
        tcp_server(echo) as port,
    ):
        async with raw_client(address) as client:
            for stream in range(1, 9):
                await client.open(stream, "127.0.0.1", port)
            await client.send(Connect(9, "127.0.0.1", port))
            assert (await client.expect(Error)).code == 429
            now += 0.55
            await client.open(10, "127.0.0.1", port)


async def test_too_many_streams_that_connect() -> None:
    server = FakeNameServer(lambda query, tcp: None)
    async with (
        server.running(),
        running_worker(limits=Limits(connecting=2), resolvers=(server.server,)) as (_, address),
        tcp_server(echo) as port,
        raw_client(address) as client,
    ):
        await client.send(
            Connect(1, "hangs.example", 80),
            Connect(2, "hangs.example", 80),
            Connect(3, "127.0.0.1", port),
        )
        error = await client.expect(Error)
        assert (error.stream, error.code) == (3, 429)
        await client.send(Close(1))
        await client.silent(0.05)
        await client.open(4, "127.0.0.1", port)


async def test_dead_names_of_one_token_are_no_burden_to_another(tmp_path: Path) -> None:
    """Nor to its own addresses: they hold a part of its descriptors."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"alice {'a' * 40}\nbob {'b' * 40}\n")
    tokens.chmod(0o600)
    good = zone({"good.example": ["127.0.0.1"]})

    def respond(q: dns.message.Message, tcp: bool) -> bytes | list[bytes] | None:
        return None if "dead" in q.question[0].name.to_text() else good(q, tcp)

    server = FakeNameServer(respond)
    async with (
        server.running(),
        running_worker(token_file=tokens, resolvers=(server.server,)) as (worker, address),
        tcp_server(echo) as port,
        raw_client(address, token="a" * 40) as alice,
        raw_client(address, token="b" * 40) as bob,
    ):
        dead, began = 1200, trio.current_time()
        await alice.send(*(Connect(n, f"dead{n}.example", 80) for n in range(1, dead + 1)))
        await until(lambda: len(server.queries) > 100)
        account = max(worker.accounts.values(), key=lambda one: one.streams)
        assert account.queries.in_flight <= account.limits.queries
        assert account.queries.descriptors.free >= 0
        await bob.open(1, "good.example", port)
        await bob.send(DnsQuery(1, dns.message.make_query("good.example", "A").to_wire()))
        reply = dns.message.from_wire((await bob.expect(DnsResponse)).message)
        assert reply.rcode() == 0 and len(reply.answer) == 1
        codes = Counter()
        await alice.send(Connect(dead + 1, "127.0.0.1", port))
        while not isinstance(frame := await alice.receive(), Connected):
            assert isinstance(frame, Error)
            codes[frame.code] += 1
        assert frame.stream == dead + 1
        while codes.total() < dead:
            codes[(await alice.expect(Error)).code] += 1
        assert set(codes) == {110, 429}
        # Both families of a name are asked for; 4 s later at the earliest their places are free.
        rounds = 1 + (trio.current_time() - began) // 4
        assert codes[110] <= rounds * account.limits.queries // 2


async def test_one_token_cannot_take_every_descriptor(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("a" * 32 + "\n" + "b" * 32 + "\n")
    tokens.chmod(0o600)
    async with running_worker(token_file=tokens) as (worker, address), tcp_server(echo) as port:
        taken = worker.descriptors.free - 16
        worker.descriptors.total = worker.descriptors.free = 16
        async with (
            raw_client(address, token="a" * 32) as greedy,
            raw_client(address, token="b" * 32) as other,
        ):
            for stream in range(1, 12):
                await greedy.open(stream, "127.0.0.1", port)
            await greedy.send(Connect(12, "127.0.0.1", port))
            assert (await greedy.expect(Error)).code == 429
            await other.open(1, "127.0.0.1", port)
            # Alone, a token may have nearly all; and its streams keep no session of its own out.
            tokens.write_text("a" * 32 + "\n")
            worker.reload()
            async with raw_client(address, token="a" * 32) as more:
                await more.open(1, "127.0.0.1", port)
        worker.descriptors.total += taken
        worker.descriptors.free += taken


async def test_too_many_held_bytes() -> None:
    stop = trio.Event()

    async def far(stream: trio.SocketStream) -> None:
        await stop.wait()

    async with (
        running_worker(limits=Limits(held=100_000), window=16 << 20) as (worker, address),
        tcp_server(far) as stuck,
        tcp_server(echo) as port,
        raw_client(address) as client,
    ):
        await client.open(1, "127.0.0.1", stuck)
        with trio.move_on_after(5):
            for _ in range(200):
                await client.send(Data(1, bytes(60_000)))
        error = await client.expect(Error)
        assert (error.stream, error.code) == (1, 502)
        assert "holds too many bytes" in error.message
        await client.open(2, "127.0.0.1", port)
        stop.set()


async def test_no_descriptor_left() -> None:
    async with running_worker() as (worker, address), tcp_server(echo) as port:
        async with raw_client(address) as client:
            await client.open(1, "127.0.0.1", port)
            kept, worker.descriptors.free = worker.descriptors.free, 0
            await client.send(Connect(2, "127.0.0.1", port))
            assert (await client.expect(Error)).code == 429
            worker.descriptors.free = kept
            await client.open(3, "127.0.0.1", port)


async def test_close_while_connecting(tmp_path: Path) -> None:
    server = FakeNameServer(lambda query, tcp: None)
    async with (
        server.running(),
        running_worker(resolvers=(server.server,)) as (worker, address),
        raw_client(address) as client,
    ):
        await client.send(Connect(1, "hangs.example", 80), Data(1, b"held"))
        await until(lambda: sum(a.held for a in worker.accounts.values()) == 4)
        await client.send(Close(1))
        await until(lambda: not sum(a.streams + a.held for a in worker.accounts.values()))
        await client.silent(0.05)


@pytest.mark.parametrize("resolves", [True, False])
async def test_close_after_eof_while_connecting(resolves: bool) -> None:
    """As a client says it that has been without a WebSocket: what was sent is still delivered."""
    came: list[bytes] = []

    async def note(stream: trio.SocketStream) -> None:
        came.append(b"".join([piece async for piece in stream]))

    server = FakeNameServer(lambda query, tcp: None)
    async with (
        server.running(),
        running_worker(resolvers=(server.server,)) as (worker, address),
        tcp_server(note) as port,
        raw_client(address) as client,
    ):
        await client.send(Connect(1, "slow.example", port), Data(1, b"all"), Eof(1), Close(1))
        await client.send(Connect(2, "slow.example", port), Eof(2), Close(2))  # nothing to deliver
        await until(lambda: server.queries)
        assert sum(account.streams for account in worker.accounts.values()) == 1
        server.respond = zone({"slow.example": ["127.0.0.1"]} if resolves else {})
        await until(lambda: not sum(a.streams + a.held for a in worker.accounts.values()))
        if resolves:
            await until(lambda: came)
        assert came == [b"all"] * resolves
        await client.silent(0.05)


async def test_close_in_the_moment_of_being_connected() -> None:
    async with (
        running_worker() as (worker, address),
        tcp_server(echo) as port,
        raw_client(address) as client,
    ):
        real = worker.dialer.dial

        async def late(host: str, port: int, budget: QueryBudget) -> socket.socket:
            with trio.CancelScope(shield=True):  # connected, and nothing can cancel that any more
                sock = await real("127.0.0.1", port, budget)
                await trio.sleep(0.05)
                over.set()
                return sock

        over = trio.Event()

        worker.dialer.dial = late  # type: ignore[method-assign]
        await client.send(Connect(1, "far.example", port))
        await client.send(Close(1))
        with trio.fail_after(30):
            await over.wait()
        await until(lambda: far_sockets(worker) == 0)
        await client.silent(0.1)


@both_kinds
async def test_close_while_an_address_is_connected_to(readiness: Make) -> None:
    """Nothing waits for it, and nothing of it stays."""
    async with (
        running_worker(readiness=readiness) as (worker, address),
        raw_client(address) as client,
    ):
        with socket.socket() as listener, socket.socket() as filler, socket.socket() as second:
            listener.bind(("127.0.0.1", 0))
            listener.listen(SHORTEST_QUEUE)
            filler.connect(listener.getsockname())
            second.setblocking(False)
            second.connect_ex(listener.getsockname())
            await client.send(*(Connect(n, *listener.getsockname()) for n in (1, 2, 3)))
            await client.send(Data(1, b"early"))
            await until(lambda: sum(a.connecting for a in worker.accounts.values()) == 3)
            await client.send(Close(1), Eof(2), Close(2))
            await until(lambda: sum(a.connecting for a in worker.accounts.values()) == 1)
            await client.send(Close(3))
            await until(lambda: not sum(a.connecting + a.held for a in worker.accounts.values()))
            await until(lambda: far_sockets(worker) == 0)


async def test_eof_before_connected() -> None:
    async with running_worker() as (_, address), tcp_server(echo) as port:
        async with raw_client(address) as client:
            await client.send(Connect(1, "127.0.0.1", port), Eof(1))
            await client.expect(Connected)
            await client.expect(Eof)


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="elsewhere each has one (TaskReadiness)")
async def test_idle_streams_have_no_task() -> None:
    async with running_worker() as (_, address), tcp_server(echo) as port:
        async with raw_client(address) as client:
            await client.open(1, "127.0.0.1", port)
            await client.send(Data(1, b"x"))
            await client.data(1, 1)
            before = trio.lowlevel.current_statistics().tasks_living
            for stream in range(2, 52):
                await client.open(stream, "127.0.0.1", port)
            await trio.testing.wait_all_tasks_blocked(0.02)
            # each has one task here, at the far end; the worker adds none
            assert trio.lowlevel.current_statistics().tasks_living - before <= 50


class ResetSocket(socket.socket):
    """As macOS has them: one that the far end has reset takes no options any more."""

    def setsockopt(self, *arguments: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")


def test_a_socket_that_was_reset_is_closed_in_order() -> None:
    sock = ResetSocket()
    close_in_order(sock)
    assert sock.fileno() == -1
