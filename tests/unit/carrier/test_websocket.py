"""A WebSocket of ours against an implementation that is not: trio-websocket's."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
import trustme
from trio_websocket import (
    ConnectionClosed,
    WebSocketConnection,
    wrap_client_stream,
    wrap_server_stream,
)

from zks_lwip.carrier.link import SessionLink
from zks_lwip.carrier.upgrade import Accept, accept_websocket, upgrade_websocket
from zks_lwip.carrier.websocket import WebSocketClosed, WsConnection
from zks_lwip.net.rounds import ROUND
from zks_lwip.protocol import Ping, Role, Session, Settings

LARGE = 24 << 20
"""Bytes of a message that no kernel takes at once."""
ROLES = pytest.mark.parametrize(
    "role", ["client", "server", "client over TLS", "server over TLS", "client over TLS 1.2"]
)


def over_tls(role: str, near: Any, far: Any) -> tuple[trio.abc.Stream, trio.abc.Stream]:
    """Put TLS over both ends, of which the far one is the client if the role is a server's."""
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("h").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    if "1.2" in role:
        client.maximum_version = ssl.TLSVersion.TLSv1_2
    ends = trio.SocketStream(near), trio.SocketStream(far)
    if role.startswith("client"):
        return (
            trio.SSLStream(ends[0], client, server_hostname="h"),
            trio.SSLStream(ends[1], server, server_side=True),
        )
    return (
        trio.SSLStream(ends[0], server, server_side=True),
        trio.SSLStream(ends[1], client, server_hostname="h"),
    )


@asynccontextmanager
async def pair(role: str) -> AsyncIterator[tuple[WsConnection, WebSocketConnection]]:
    """A connection of ours in a role, and the other end of it."""
    near, far = trio.socket.socketpair()
    here: trio.abc.Stream = trio.SocketStream(near)
    there: trio.abc.Stream = trio.SocketStream(far)
    if "TLS" in role:
        here, there = over_tls(role, near, far)
    theirs: list[WebSocketConnection] = []
    async with trio.open_nursery() as nursery:
        ours: WsConnection | None = None
        if role.startswith("client"):

            async def serve() -> None:
                request = await wrap_server_stream(nursery, there, max_message_size=LARGE)
                theirs.append(await request.accept())

            nursery.start_soon(serve)
            ours = await upgrade_websocket(nursery, here, host="h", path="/")
        else:

            async def ask() -> None:
                theirs.append(
                    await wrap_client_stream(nursery, there, "h", "/", max_message_size=LARGE)
                )

            nursery.start_soon(ask)
            ours = await accept_websocket(nursery, here, authorize=lambda _: Accept())
        assert ours is not None
        with trio.fail_after(60):
            while not theirs:
                await trio.sleep(0.001)
        yield ours, theirs[0]
        await ours.aclose()
        far.close()
        nursery.cancel_scope.cancel()


async def together(*parts: Callable[[], Awaitable[Any]]) -> None:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for part in parts:
                nursery.start_soon(part)


SIZES = [0, 1, 125, 126, 4095, 4096, 65535, 65536, 400_000]


@ROLES
async def test_messages_of_every_length_of_header(role: str) -> None:
    """Those that leave in two parts, too, and those that the kernel takes bit by bit."""
    messages = [bytes((size + n) & 0xFF for n in range(size)) for size in SIZES]
    async with pair(role) as (ours, theirs):
        assert ours.carrier is not None
        ours.carrier.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)

        async def echo() -> None:
            for _ in messages:
                await theirs.send_message(await theirs.get_message())

        async def send() -> None:
            for message in messages:
                await ours.send_message(bytearray(message))

        got: list[bytes] = []

        async def receive() -> None:
            for _ in messages:
                got.append(await ours.receive_message())

        await together(echo, send, receive)
        assert got == messages


@ROLES
async def test_a_message_that_may_be_changed_arrives_and_can_be_changed_back(role: str) -> None:
    """In parts, too; a client masks it in place where it need not be copied otherwise."""
    async with pair(role) as (ours, theirs):
        assert ours.carrier is not None
        ours.carrier.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        for size in SIZES:
            whole = bytes((size + n) & 0xFF for n in range(size))
            message = bytearray(whole)
            restores: list[Callable[[bytearray], None]] = []

            async def send(
                message: bytearray = message,
                restores: list[Callable[[bytearray], None]] = restores,
            ) -> None:
                if not ours.begin_message(message, restores.append):
                    await ours.finish_message()

            async def take(whole: bytes = whole) -> None:
                assert await theirs.get_message() == whole

            await together(send, take)
            assert bool(restores) is (message != whole)
            if role == "client" and size >= 4096 and os.name != "nt":
                assert restores
            for restore in restores:
                restore(message)
            assert message == whole


@pytest.mark.skipif(os.name == "nt", reason="streams alone are used on Windows")
@ROLES
async def test_what_leaves_at_once_needs_no_task(role: str) -> None:
    async with pair(role) as (ours, theirs):
        before = ours.bytes_sent
        assert ours.begin_message(b"at once")
        assert ours.bytes_sent > before and not ours.sending
        assert await theirs.get_message() == b"at once"


@ROLES
async def test_who_wants_to_send_waits_for_what_is_being_sent(role: str) -> None:
    async with pair(role) as (ours, theirs):
        large = bytes(LARGE)
        assert not ours.begin_message(large)
        assert ours.sending and not ours.delivered
        got: list[Any] = []

        async def take() -> None:
            for _ in range(2):
                got.append(await theirs.get_message())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.send_message, b"behind")
            nursery.start_soon(ours.read_ahead)
            await trio.testing.wait_all_tasks_blocked()
            await together(ours.finish_message, take)
            await ours.wait_for_turn()
            nursery.cancel_scope.cancel()
        assert got == [large, b"behind"]


@ROLES
async def test_pongs_and_pings_have_their_turn_between_messages(role: str) -> None:
    """Of one who has always another, which the kernel does not take at once."""
    async with pair(role) as (ours, theirs), trio.open_nursery() as nursery:
        nursery.start_soon(ours.read_ahead)
        answered: list[str] = []

        async def send() -> None:
            while len(answered) < 2:
                await ours.wait_for_turn()
                assert not ours.begin_message(bytes(1 << 20))
                await ours.finish_message()

        async def take() -> None:
            while True:
                await theirs.get_message()

        async def ask(name: str, ping: Callable[[], Awaitable[None]]) -> None:
            await ping()
            answered.append(name)

        nursery.start_soon(take)
        nursery.start_soon(ask, "theirs", theirs.ping)
        nursery.start_soon(ask, "ours", ours.ping)
        with trio.fail_after(60):
            await send()
        nursery.cancel_scope.cancel()


@ROLES
async def test_after_a_message_that_was_cut_nothing_is_sent(role: str) -> None:
    async with pair(role) as (ours, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.send_message, bytes(LARGE))
            while not ours.sending:
                await trio.sleep(0)
            nursery.cancel_scope.cancel()
        assert ours.closed_status == 1006 and not ours.delivered
        with pytest.raises(WebSocketClosed):
            await ours.send_message(b"more")
        with pytest.raises(WebSocketClosed):
            await ours.ping()


@ROLES
async def test_pings_both_ways(role: str) -> None:
    async with pair(role) as (ours, theirs), trio.open_nursery() as nursery:
        nursery.start_soon(ours.deliver, lambda message: None)
        sent: list[bool] = []
        await together(theirs.ping, lambda: ours.ping(lambda: sent.append(True)))
        assert sent == [True]
        nursery.cancel_scope.cancel()


@ROLES
async def test_a_connection_that_rests(role: str) -> None:
    """It sees that something comes, is read by no other task, and closes as ever."""
    async with pair(role) as (ours, theirs), trio.open_nursery() as nursery:
        await together(lambda: theirs.send_message(b"0"), ours.read_ahead)
        with trio.fail_after(60):
            await ours.rest()  # a message waits already
        assert await ours.receive_message() == b"0"
        for payload in (b"1", b"2"):
            await together(ours.rest, lambda payload=payload: theirs.send_message(payload))  # type: ignore[misc]
            assert await ours.receive_message() == payload
        nursery.start_soon(theirs.ping, b"!")
        with trio.fail_after(60):
            await ours.rest()
            nursery.start_soon(ours.read_ahead)
            await ours.ping()
        nursery.cancel_scope.cancel()


async def test_a_connection_that_rests_is_closed_by_another_task() -> None:
    async with pair("server") as (ours, theirs), trio.open_nursery() as nursery:

        async def read() -> None:
            await ours.rest()
            await ours.read_ahead()

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await ours.receive_message()
        with pytest.raises(trio.BusyResourceError):
            await ours.rest()
        with trio.fail_after(60):
            await ours.aclose(4002, "over")
            with pytest.raises(ConnectionClosed) as caught:
                await theirs.get_message()
        assert caught.value.reason.code == 4002


@pytest.mark.parametrize("named", [False, True])
async def test_a_ping_waits_for_the_nursery_of_its_pong(named: bool) -> None:
    """As it does at a worker until the first message has said whose session it is."""
    async with pair("server") as (ours, theirs), trio.open_nursery() as nursery:
        ours.answer_pings(nursery if named else None)
        answered, came = trio.Event(), trio.Event()

        async def ping() -> None:
            await theirs.ping()
            answered.set()

        nursery.start_soon(ping)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ours.deliver, lambda _: came.set())
        with trio.fail_after(60):
            await theirs.send_message(b"behind it")
            await came.wait()
            if not named:
                assert not answered.is_set()
                ours.answer_pings(nursery)
            await answered.wait()
        nursery.cancel_scope.cancel()


@ROLES
async def test_their_close(role: str) -> None:
    async with pair(role) as (ours, theirs):

        async def close() -> None:
            await theirs.aclose(4001, "enough")

        async def see() -> None:
            with pytest.raises(WebSocketClosed, match=r"4001 \(enough\)"):
                await ours.receive_message()
            await ours.aclose(1000, "late")

        await together(close, see)
        assert (ours.closed_status, ours.closed_reason) == (4001, "enough")
        with pytest.raises(WebSocketClosed, match="4001"):
            await ours.ping()


@ROLES
async def test_our_close(role: str) -> None:
    async with pair(role) as (ours, theirs):

        async def see() -> None:
            with pytest.raises(ConnectionClosed) as caught:
                await theirs.get_message()
            assert (caught.value.reason.code, caught.value.reason.reason) == (4002, "over")

        await theirs.send_message(b"dropped")
        await together(see, lambda: ours.aclose(4002, "over"))
        assert (ours.closed_status, ours.closed_reason) == (4002, "over")


@ROLES
async def test_messages_before_and_during_delivery_keep_their_order(role: str) -> None:
    async with pair(role) as (ours, theirs):
        for n in range(3):
            await theirs.send_message(b"%d" % n)
        assert await ours.receive_message() == b"0"
        got: list[bytes] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.deliver, lambda message: got.append(bytes(message)))
            await theirs.send_message(b"3")
            with trio.fail_after(60):
                while len(got) < 3:
                    await trio.sleep(0.001)
            nursery.cancel_scope.cancel()
        assert got == [b"1", b"2", b"3"]


@ROLES
async def test_one_task_reads(role: str) -> None:
    async with pair(role) as (ours, _), trio.open_nursery() as nursery:
        nursery.start_soon(ours.read_ahead)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await ours.receive_message()
        nursery.cancel_scope.cancel()


async def test_a_link_sends_what_comes_while_something_else_is_being_sent() -> None:
    """Behind it, though a ping wakes no task when it has left; and without a writer before."""
    async with pair("client") as (ours, theirs), trio.open_nursery() as nursery:
        session = Session(Role.CLIENT, Settings(), clock=trio.current_time)
        link = SessionLink(ours, session)
        nursery.start_soon(link.run, lambda event: None)
        with trio.fail_after(60):
            assert await theirs.get_message()  # HELLO
            await theirs.send_message(Settings().hello(Role.WORKER).encode())
            while not session.ready:
                await trio.sleep(0.001)
            await trio.sleep(1.2)  # its writer has ended
            large = bytes(4 << 20)
            nursery.start_soon(ours.send_message, large)
            while not ours.sending:
                await trio.sleep(0)
            with ROUND:
                session.ping()
            assert await theirs.get_message() == large
            assert await theirs.get_message() == Ping().encode()
        link.close()
        nursery.cancel_scope.cancel()
