"""A worker in several processes: sessions stay with theirs, which die, are reloaded and end."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import fields
from pathlib import Path

import psutil
import pytest
import trio
import trio.testing
import trustme
from trio.testing import MockClock, lockstep_stream_pair
from trio_websocket import ConnectionClosed

from tests.kits.until import until
from tests.kits.worker import RawClient, echo, raw_client, resuming_client, tcp_server
from zks_lwip.carrier.http import HttpRequest
from zks_lwip.errors import ConfigError
from zks_lwip.protocol import Connect, Data, Error, GoAway
from zks_lwip.worker import WorkerConfig
from zks_lwip.worker.auth import Principal
from zks_lwip.worker.grants import UNLIMITED, Grant
from zks_lwip.worker.handover import Handover, decode_request, encode_request
from zks_lwip.worker.processes import Supervisor
from zks_lwip.worker.processes.child import LINE
from zks_lwip.worker.stats import TokenStats, WorkerStats

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it needs unix sockets")

ALICE = "alice-" + "a" * 30
BOB = "bob-" + "b" * 30
COUNT = 2
OPENED = 'sessions_begun_total{how="opened"}'


class Running:
    """A worker that was started as a user does."""

    def __init__(self, process: trio.Process, address: tuple[str, int], log: Path) -> None:
        self.process = process
        self.address = address
        self.log = log

    @property
    def children(self) -> list[psutil.Process]:
        """The processes that serve."""
        return psutil.Process(self.process.pid).children()

    async def stats(self) -> str:
        """What it counts, as Prometheus reads it."""
        found = re.search(r"metrics at http://127\.0\.0\.1:(\d+)/", self.log.read_text())
        assert found is not None
        async with await trio.open_tcp_stream("127.0.0.1", int(found[1])) as stream:
            await stream.send_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            return b"".join([bytes(piece) async for piece in stream]).decode()

    async def stats_of(self, count: int) -> str:
        """The same, once so many processes have told their own in time: one that is busy may not
        have."""
        while f"zks_lwip_worker_processes {count}.0" not in (text := await self.stats()):
            await trio.sleep(0.3)
        return text

    async def stats_of_all(self) -> str:
        """The same, once each process has told its own."""
        return await self.stats_of(COUNT)


@asynccontextmanager
async def running(
    tmp_path: Path, *options: str, on_start: Callable[[trio.Process], None] = lambda process: None
) -> AsyncIterator[Running]:
    tokens = tmp_path / "tokens"
    if not tokens.exists():
        write(tokens, f"alice {ALICE}\nbob {BOB} rate=10M\n")
    command = [sys.executable, "-m", "zks_lwip", "worker", "--listen", "127.0.0.1:0", "-v"]
    command += ["--processes", str(COUNT), "--token-file", str(tokens), "--metrics", "0"]
    command += ["--allow", "127.0.0.0/8", *options]
    log = tmp_path / "log"
    with log.open("wb") as stderr:
        process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, stderr=stderr)
    assert process.stdout is not None
    async with process.stdout:
        try:
            on_start(process)
            with trio.fail_after(60):
                line = bytes(await process.stdout.receive_some())
            found = re.fullmatch(rb"listening on 127\.0\.0\.1:(\d+)\n", line)
            assert found is not None, (line, log.read_text())
            children = psutil.Process(process.pid).children()
            assert len(children) == COUNT
            yield Running(process, ("127.0.0.1", int(found[1])), log)
        finally:
            if process.returncode is None:
                process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
                await until(lambda: not any(map(alive, children)))  # they end with it


def alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def write(tokens: Path, text: str) -> None:
    tokens.write_text(text)
    tokens.chmod(0o600)


def counted(text: str, metric: str) -> float:
    """One number of what Prometheus reads."""
    found = re.search(rf"^zks_lwip_worker_{re.escape(metric)} (\S+)$", text, re.MULTILINE)
    assert found is not None, text
    return float(found[1])


def home(client: RawClient) -> str:
    """The process of a client's session."""
    assert client.hello.session is not None
    return client.hello.session.partition(".")[0]


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ssl.SSLContext | None]:
    if request.param == "plain":
        yield None
        return
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    yield context


@contextmanager
def accepting(worker: Running, number: int) -> Iterator[None]:
    """One process alone accepts: which of several does so is up to the kernel."""
    others = worker.children
    others.pop(number % COUNT)
    for process in others:
        process.suspend()
    try:
        yield
    finally:
        for process in others:
            process.resume()


async def test_a_session_is_found_whichever_process_is_asked(
    tmp_path: Path, tls: ssl.SSLContext | None
) -> None:
    options = () if tls is None else ("--tls-cert", str(tmp_path / "pem"))
    async with running(tmp_path, *options) as worker, tcp_server(echo) as port:
        homes: Counter[str] = Counter()
        for number in range(8):
            async with AsyncExitStack() as stack:
                with accepting(worker, number):
                    client = await stack.enter_async_context(
                        resuming_client(worker.address, token=ALICE, context=tls)
                    )
                await client.open(1, "127.0.0.1", port)
                await client.send(Data(1, b"before"))
                assert await client.data(1, 6) == b"before"
                homes[home(client)] += 1
                hello = client.resumption()
                await client.lose()
            async with resuming_client(
                worker.address, token=ALICE, hello=hello, context=tls
            ) as again:
                assert again.hello.session == client.hello.session
                await again.send(Data(1, b"after"))
                assert await again.data(1, 5) == b"after"
        assert homes == {"0": 4, "1": 4}
        text = await worker.stats_of_all()
        total = sum(homes.values())
        assert f'zks_lwip_worker_sessions_begun_total{{how="opened"}} {total}.0' in text
        assert f'zks_lwip_worker_sessions_begun_total{{how="resumed"}} {total}.0' in text
        assert f'bytes_total{{direction="up",token="alice"}} {11 * total}.0' in text


async def test_a_token_with_limits_of_its_own_is_served_by_one(tmp_path: Path) -> None:
    async with running(tmp_path) as worker, AsyncExitStack() as stack:
        homes = set()
        for _ in range(8):
            client = await stack.enter_async_context(raw_client(worker.address, token=BOB))
            homes.add(home(client))
        assert len(homes) == 1
        # whose address and bytes are the client's own, though another may have accepted it
        await until(lambda: "a session of bob from 127.0.0.1 began" in worker.log.read_text())


async def test_one_that_dies_is_started_again_and_takes_no_other_along(tmp_path: Path) -> None:
    with trio.fail_after(120):
        async with running(tmp_path) as worker, AsyncExitStack() as stack:
            clients: dict[str, RawClient] = {}
            for number in range(COUNT):
                with accepting(worker, number):
                    client = await stack.enter_async_context(
                        raw_client(worker.address, token=ALICE)
                    )
                clients[home(client)] = client
            assert len(clients) == COUNT
            assert counted(await worker.stats_of_all(), OPENED) == COUNT
            first, second = worker.children
            first.kill()
            await until(lambda: "is started again" in worker.log.read_text())
            await until(lambda: len(worker.children) == COUNT)
            assert alive(second) and not alive(first) and first not in worker.children
            # the sessions of the other one go on
            going_on = 0
            for client in clients.values():
                with suppress(ConnectionClosed):
                    await client.send(Connect(3, "127.0.0.1", 1))
                    going_on += (await client.expect(Error)).stream == 3
            assert going_on == 1
            # what the one that died had counted is counted
            assert counted(await worker.stats_of_all(), OPENED) == COUNT
            for client in clients.values():  # the new one takes what is given to it, too
                async with raw_client(worker.address, token=ALICE, hello=client.resumption()):
                    pass


async def test_all_are_reloaded_and_end_in_time(tmp_path: Path) -> None:
    async with running(tmp_path) as worker, AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(raw_client(worker.address, token=ALICE))
            for _ in range(6)
        ]
        write(tmp_path / "tokens", f"bob {BOB}\n")
        worker.process.send_signal(signal.SIGHUP)
        for client in clients:
            assert await client.closed() == (1008, "the token was removed")
        async with raw_client(worker.address, token=BOB):
            began = trio.current_time()
            worker.process.terminate()
            with trio.fail_after(30):
                assert await worker.process.wait() == 0
            assert trio.current_time() - began < 20
    with pytest.raises(OSError):
        await trio.open_tcp_stream(*worker.address)


async def test_the_end_does_not_wait_for_the_numbers_of_a_busy_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        await told.bind(path)
        async with running(tmp_path) as worker:
            slow, first = worker.children[0], psutil.Process(worker.process.pid)
            slow.suspend()
            try:
                first.suspend()  # so that it sees both signals at once
                worker.process.send_signal(signal.SIGUSR1)
                worker.process.terminate()
                first.resume()
                with trio.fail_after(60):
                    while b"STOPPING=1" not in await told.recv(4096):
                        pass
                assert "sessions_opened" not in worker.log.read_text()
            finally:
                slow.resume()
            with trio.fail_after(60):
                assert await worker.process.wait() == 0


async def test_streams_that_another_process_relays_go_on_at_the_end_too(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)

    def connections(number: int) -> int:
        tcp = worker.children[number].net_connections("tcp4")
        return sum(each.laddr == worker.address and bool(each.raddr) for each in tcp)

    async def accept_one(number: int, task_status: trio.TaskStatus[None]) -> None:
        before = connections(number)
        with accepting(worker, number):
            task_status.started()
            await until(lambda: connections(number) > before)

    async with (
        running(tmp_path, "--tls-cert", str(tmp_path / "pem")) as worker,
        tcp_server(echo) as port,
        trio.open_nursery() as nursery,
        AsyncExitStack() as stack,
    ):
        clients = []
        for number in range(COUNT):  # the session is at the same one, whichever accepts
            await nursery.start(accept_one, number)
            client = await stack.enter_async_context(
                raw_client(worker.address, token=BOB, context=context)
            )
            await client.open(1, "127.0.0.1", port)
            clients.append(client)
        worker.process.terminate()
        for client in clients:
            await client.expect(GoAway)
        await trio.sleep(1)
        for client in clients:
            await client.send(Data(1, b"still"))
            assert await client.data(1, 5) == b"still"


async def test_they_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    async with running(tmp_path) as worker:
        children = worker.children
        worker.process.kill()
        await worker.process.wait()
        await until(lambda: not any(map(alive, children)))


@pytest.fixture
def clock() -> MockClock:
    """Time passes when nothing else happens."""
    return MockClock(autojump_threshold=0.02)


async def test_a_client_that_takes_nothing_is_not_relayed_for_ever(
    short_path: Path, clock: MockClock
) -> None:
    """The process that serves it has given it up meanwhile."""
    request = HttpRequest("GET", "/tunnel", (), None, True, ())
    client, _ = lockstep_stream_pair()
    with trio.fail_after(600), trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        await door.bind(str(short_path / "1"))
        door.listen()
        given = Handover(0, (short_path / "0", short_path / "1"), -1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(given.give, 1, client, request)
            owner, _ = await door.accept()
            await owner.recv(1 << 16)
            await owner.send(b"an answer")
            owner.close()
    with pytest.raises(trio.ClosedResourceError):
        await client.send_all(b"x")


async def test_on_macos_a_connection_is_open_here_until_it_has_been_taken(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    request = HttpRequest("GET", "/tunnel", (), None, True, ())
    near, far = trio.socket.socketpair()
    given = Handover(0, (short_path / "0", short_path / "1"), -1)
    done = trio.Event()

    async def give() -> None:
        assert await given.give(1, trio.SocketStream(near), request)
        done.set()

    with trio.fail_after(60), near, far:
        with trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
            await door.bind(str(short_path / "1"))
            door.listen()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(give)
                taker, _ = await door.accept()
                await trio.testing.wait_all_tasks_blocked(0.02)
                assert not done.is_set()
                taker.close()
                await done.wait()


def test_the_numbers_of_as_many_tokens_as_there_may_be_are_one_line() -> None:
    numbers = {each.name: 2**63 - 1 for each in fields(TokenStats) if each.name != "name"}
    one = TokenStats("\U0001f600" * 64, **numbers)
    assert 4096 * len(json.dumps(WorkerStats(tokens=[one]).to_json())) < LINE


async def test_a_process_that_answers_late_tells_what_is_true_then(tmp_path: Path) -> None:
    async with running(tmp_path) as worker, AsyncExitStack() as stack:
        slow = worker.children[0]
        with accepting(worker, 0):
            await stack.enter_async_context(raw_client(worker.address, token=ALICE))
        assert counted(await worker.stats_of_all(), OPENED) == 1
        await trio.sleep(0.3)
        slow.suspend()
        try:
            text = await worker.stats_of(COUNT - 1)
            # what is held there is not known, what was counted does not fall
            assert counted(text, 'sessions{token="alice"}') == 0
            assert counted(text, OPENED) == 1
        finally:
            slow.resume()
        await trio.sleep(0.3)  # an answer is given again for 0.2 s
        for number in range(COUNT):
            with accepting(worker, number):
                await stack.enter_async_context(raw_client(worker.address, token=ALICE))
        text = await worker.stats_of_all()
        assert counted(text, OPENED) == COUNT + 1


async def test_a_reload_before_they_are_ready_ends_none(tmp_path: Path) -> None:
    def started(process: trio.Process) -> None:
        end = time.monotonic() + 30
        while len(psutil.Process(process.pid).children()) < COUNT and time.monotonic() < end:
            time.sleep(0.005)
        process.send_signal(signal.SIGHUP)

    async with running(tmp_path, on_start=started) as worker:
        await until(lambda: worker.log.read_text().count("reloaded; 0 tokens") == COUNT)
        assert "is started again" not in worker.log.read_text()


def test_whose_a_request_is() -> None:
    paths = tuple(Path(str(number)) for number in range(4))
    alice = Principal("alice", bytes(31) + b"\x06")
    six = Principal("six", (6).to_bytes(8) + bytes(24))
    one = Handover(1, paths, 0)
    assert one.session_prefix == "1" and Handover(1, paths, 0, "eu").session_prefix == "eu.1"
    assert one.owner(b"3.abc", alice, UNLIMITED) == 3
    assert Handover(1, paths, 0, "eu").owner(b"eu.2.abc", alice, UNLIMITED) == 2
    # by no session that it makes up does a token have its limits in every process
    assert {one.owner(b"%d.abc" % n, six, Grant(sessions=1)) for n in range(4)} == {2}
    for odd in (None, b"", b"3", b"4.x", b"-1.x", b"99999999.x", b"\xb3.x", b"abc", b"..."):
        assert one.owner(odd, alice, UNLIMITED) == 1
        assert one.owner(odd, six, Grant(rate=10_000)) == 2


def test_a_request_is_the_same_on_the_other_side() -> None:
    request = HttpRequest(
        "GET",
        "/tunnel?x",
        ((b"host", b"a"), (b"odd", b"\xff\x00")),
        ("2001:db8::1", 5),
        True,
        ("zks-tunnel.v2",),
        "1.1",
        b"\x00rest\xff",
    )
    assert decode_request(encode_request(request)) == request
    for wrong in (b"", b"[]", b"{}", b'{"peer": 1, "headers": []}'):
        with pytest.raises(ValueError):
            decode_request(wrong)


@pytest.mark.parametrize("count", [0, 1, 65])
def test_how_many(count: int) -> None:
    with pytest.raises(ConfigError, match="give 1 to 64"):
        Supervisor(WorkerConfig(port=0), count, ["x"])


def test_a_pipe_is_for_one_process(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, ALICE.encode())
    os.close(writer)
    with pytest.raises(ConfigError, match="`token_file` has to be a file"):
        Supervisor(WorkerConfig(port=0, token_file=f"/dev/fd/{reader}"), 2, ["x"])
    os.close(reader)
