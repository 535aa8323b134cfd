"""What one process of a worker does with connections that belong to another one."""

from __future__ import annotations

import os
import socket
import ssl
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

from tests.kits.until import until
from tests.kits.worker import raw_client, running_worker
from zks_lwip.carrier.http import HttpRequest
from zks_lwip.protocol import Hello
from zks_lwip.worker.handover import Handover

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it needs unix sockets")

ALICE = "alice-" + "a" * 30
BOB = next(  # one whose process is the second, where a process has to be its alone
    token
    for token in (f"bob-{number:030}" for number in range(100))
    if int.from_bytes(sha256(token.encode()).digest()[:8]) % 2 == 1
)


class Neighbour:
    """The door of a second process, behind which no process is yet."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._paths = (folder / "0", folder / "1")
        mine, self.door = (
            stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) for _ in "12"
        )
        for sock, path in ((mine, self._paths[0]), (self.door, self._paths[1])):
            sock.bind(str(path))
        mine.listen()
        self._mine = mine

    def handover(self) -> Handover:
        """What the first process, which is tested, knows. It closes what it is given."""
        return Handover(0, self._paths, self._mine.dup().detach())


@pytest.fixture
def neighbour(short_path: Path) -> Iterator[Neighbour]:
    with ExitStack() as stack:
        yield Neighbour(short_path, stack)


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"alice {ALICE}\nbob {BOB} sessions=1\n")
    path.chmod(0o600)
    return path


async def ask(stream: trio.abc.Stream, token: str, session: str = "") -> bytes:
    """Ask for a WebSocket; the first line of the answer."""
    wanted = f"Zks-Session: {session}\r\n" if session else ""
    request = (
        "GET /tunnel HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        f"Sec-WebSocket-Protocol: zks-tunnel.v2\r\nAuthorization: Bearer {token}\r\n{wanted}\r\n"
    )
    await stream.send_all(request.encode())
    with trio.fail_after(30):
        return (await stream.receive_some()).split(b"\r\n")[0]


async def test_the_limits_of_a_token_hold_where_its_process_takes_nothing(
    neighbour: Neighbour, tokens: Path
) -> None:
    """The other process takes no connection: what it would count is counted nowhere else."""
    async with running_worker(token_file=tokens, handover=neighbour.handover()) as (worker, where):
        async with await trio.open_tcp_stream(*where) as stream:
            assert (await ask(stream, BOB)).startswith(b"HTTP/1.1 503 ")
        assert worker.stats().refused == {"the process of this token takes no connection": 1}
        # one without such limits is served, though its session is gone
        gone = Hello(window=1 << 20, session="1.abc", received=0)
        async with raw_client(where, token=ALICE, hello=gone) as client:
            assert client.hello.session is not None and client.hello.session.startswith("0.")
        assert sum(account.sessions for account in worker.accounts.values()) <= 1


async def test_relayed_connections_take_descriptors(
    neighbour: Neighbour, tokens: Path, tmp_path: Path
) -> None:
    """They are two of this process's each, for as long as they live."""
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    neighbour.door.listen()

    async def connect(where: tuple[str, int]) -> trio.abc.Stream:
        tcp = await trio.open_tcp_stream(*where)
        return trio.SSLStream(tcp, context, server_hostname="127.0.0.1", https_compatible=True)

    async with running_worker(
        token_file=tokens, tls_cert=tmp_path / "pem", handover=neighbour.handover()
    ) as (worker, where):
        free = worker.descriptors.free
        first = await connect(where)
        async with first, trio.open_nursery() as nursery:
            nursery.start_soon(ask_for_ever, first)
            await until(lambda: worker.descriptors.free == free - 2)
            taken, worker.descriptors.free = worker.descriptors.free - 1, 1
            async with await connect(where) as second:
                assert (await ask(second, ALICE, "1.abc")).startswith(b"HTTP/1.1 503 ")
            assert worker.descriptors.free == 1
            worker.descriptors.free += taken
            nursery.cancel_scope.cancel()
        await until(lambda: worker.descriptors.free == free)
        assert worker.stats().refused == {"too many connections": 1}


async def ask_for_ever(stream: trio.abc.Stream) -> None:
    await ask(stream, BOB)


async def test_a_connection_that_is_being_given_is_closed_when_that_is_cancelled(
    neighbour: Neighbour,
) -> None:
    """At once, not when its memory is taken back."""
    neighbour.door.listen()
    neighbour.door.setblocking(False)
    door = trio.socket.from_stdlib_socket(neighbour.door)
    ours, _ = trio.testing.memory_stream_pair()
    long = HttpRequest(  # more than the kernel holds: it is not sent at once
        "GET", "/", headers=(), peer=None, upgrade=True, subprotocols=(), rest=bytes(1 << 20)
    )
    handover = neighbour.handover()
    kept: list[BaseException] = []

    async def give() -> None:
        try:
            await handover.give(1, ours, long)
        except trio.Cancelled as error:
            kept.append(error)  # with all that it was raised through
            raise

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(give)
            taken, _ = await door.accept()
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        with taken, trio.fail_after(30):
            assert kept
            while await taken.recv(1 << 16):
                pass
    finally:
        os.close(handover.fd)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full queue refuses")
async def test_a_process_whose_queue_is_full_is_waited_for(neighbour: Neighbour) -> None:
    """Or the sessions of clients that all come back at once would be gone."""
    neighbour.door.listen(0)
    neighbour.door.setblocking(False)
    door = trio.socket.from_stdlib_socket(neighbour.door)
    ours, far = map(trio.socket.from_stdlib_socket, socket.socketpair())
    request = HttpRequest("GET", "/", headers=(), peer=None, upgrade=True, subprotocols=())
    handover = neighbour.handover()
    given: list[bool] = []

    async def give() -> None:
        given.append(await handover.give(1, trio.SocketStream(ours), request))

    try:
        with ours, far, socket.socket(socket.AF_UNIX) as before:
            before.connect(str(handover.paths[1]))  # which fills the queue
            async with trio.open_nursery() as nursery:
                nursery.start_soon(give)
                await trio.testing.wait_all_tasks_blocked()
                assert not given
                taken = [(await door.accept())[0] for _ in range(2)]
            for one in taken:
                one.close()
            assert given == [True]
    finally:
        os.close(handover.fd)
