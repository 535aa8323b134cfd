"""Programs that know nothing of it, on hosts in memory."""

from __future__ import annotations

import errno
import random
import socket
import ssl
import time
from functools import partial

import pytest
import trio
import trio.testing
import trustme

from zks_lwip.testing import network

HOSTS = {
    "server.example": ["192.0.2.1", "2001:db8::1"],
    "client.example": ["192.0.2.2", "2001:db8::2"],
    "old.example": "192.0.2.3",
}


async def shout(stream: trio.abc.Stream) -> None:
    """A server that any program might have."""
    async for data in stream:  # type: ignore[attr-defined]
        await stream.send_all(data.upper())


async def ask(host: str, port: int, text: bytes = b"hello") -> bytes:
    """A client that any program might have."""
    stream = await trio.open_tcp_stream(host, port)
    async with stream:
        await stream.send_all(text)
        await stream.send_eof()
        return b"".join([data async for data in stream])


async def test_two_machines_in_ten_lines() -> None:
    async with network({"server": "192.0.2.1", "client": "192.0.2.2"}) as net:
        async with trio.open_nursery() as nursery:
            with net.host("server"):
                await nursery.start(trio.serve_tcp, shout, 80)
            with net.host("client"):
                assert await ask("server", 80) == b"HELLO"
                with pytest.raises(OSError):
                    await ask("client", 80)
            nursery.cancel_scope.cancel()


async def test_names_resolve_and_others_do_not() -> None:
    async with network(HOSTS) as net:
        found = await trio.socket.getaddrinfo("Server.example.", 80, type=socket.SOCK_STREAM)
        assert [each[4][0] for each in found] == ["192.0.2.1", "2001:db8::1"]
        found = await trio.socket.getaddrinfo("server.example", "http", socket.AF_INET6)
        assert {each[4][:2] for each in found} == {("2001:db8::1", 80)}
        with pytest.raises(socket.gaierror):
            await trio.socket.getaddrinfo("python.org", 80)
        with pytest.raises(socket.gaierror):
            await trio.socket.getaddrinfo("old.example", 80, socket.AF_INET6)
        assert await trio.socket.getnameinfo(("192.0.2.1", 80), 0) == ("server.example", "http")
        assert net.addresses("old.example") == ["192.0.2.3"]
    real = trio.socket.socket()
    with real:
        assert type(real).__name__ == "_SocketType"  # as before


async def test_delay_passes_at_once_by_a_mock_clock(autojump_clock: trio.testing.MockClock) -> None:
    began = time.monotonic()
    async with network(HOSTS, delay=30.0) as net, trio.open_nursery() as nursery:
        with net.host("server.example"):
            listeners = await trio.open_tcp_listeners(80)
            nursery.start_soon(trio.serve_listeners, shout, listeners)
        net.link("client.example", "server.example").delay = 2.0
        with net.host("client.example"):
            start = trio.current_time()
            stream = await trio.open_tcp_stream("server.example", 80, happy_eyeballs_delay=60)
            assert trio.current_time() - start == pytest.approx(4.0, abs=0.3)
            start = trio.current_time()
            await stream.send_all(b"hello")
            assert await stream.receive_some() == b"HELLO"
            assert trio.current_time() - start == pytest.approx(4.0, abs=0.3)
        nursery.cancel_scope.cancel()
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("seed", [1, 2])
async def test_what_is_lost_is_sent_again(
    seed: int, autojump_clock: trio.testing.MockClock
) -> None:
    data = random.Random(3).randbytes(300_000)
    async with network(HOSTS, delay=0.01, loss=0.05, seed=seed) as net:
        async with trio.open_nursery() as nursery:
            with net.host("server.example"):
                await nursery.start(trio.serve_tcp, shout, 80)
            with net.host("client.example"):
                stream = await trio.open_tcp_stream("192.0.2.1", 80)
                received = bytearray()

                async def receive() -> None:
                    async for piece in stream:
                        received.extend(piece)

                async with trio.open_nursery() as both:
                    both.start_soon(receive)
                    await stream.send_all(data)
                    await stream.send_eof()
                assert received == data.upper()
            nursery.cancel_scope.cancel()


async def test_a_cable_that_is_out_is_a_timeout(autojump_clock: trio.testing.MockClock) -> None:
    async with network(HOSTS) as net:
        with net.host("client.example"):
            net.link("client.example", "old.example").up = False
            with pytest.raises(OSError, match="all attempts to connect"):
                await trio.open_tcp_stream("old.example", 80)
            sock = trio.socket.socket()
            with sock, pytest.raises(TimeoutError):
                await sock.connect(("old.example", 80))
        with pytest.raises(ValueError, match="one host"):
            net.link("old.example", "old.example")
        with pytest.raises(KeyError, match="there are: server.example"):
            net.link("old.example", "new.example")


async def test_errors_are_those_of_sockets() -> None:
    async with network(HOSTS) as net:
        with net.host("client.example"):
            for address, number in [
                (("192.0.2.1", 80), errno.ECONNREFUSED),
                (("198.51.100.1", 80), errno.EHOSTUNREACH),
            ]:
                sock = trio.socket.socket()
                with sock, pytest.raises(OSError) as caught:
                    await sock.connect(address)
                assert caught.value.errno == number
                assert sock.fileno() == -1
            with trio.socket.socket() as sock:
                with pytest.raises(OSError) as caught:
                    await sock.bind(("192.0.2.1", 80))
                assert caught.value.errno == errno.EADDRNOTAVAIL
                await sock.bind(("0.0.0.0", 80))
                assert sock.getsockname() == ("0.0.0.0", 80)
                sock.listen()
                with trio.socket.socket() as other:
                    await other.bind(("0.0.0.0", 80))
                    with pytest.raises(OSError) as caught:
                        other.listen()
                    assert caught.value.errno == errno.EADDRINUSE
            with pytest.raises(OSError) as caught:
                sock.getsockname()
            assert caught.value.errno == errno.EBADF


async def test_every_host_has_its_own_loopback_and_ports() -> None:
    async with network(HOSTS) as net, trio.open_nursery() as nursery:
        for name in ("server.example", "client.example"):
            with net.host(name):

                async def tell(stream: trio.SocketStream, name: str = name) -> None:
                    await stream.send_all(name.encode())

                await nursery.start(partial(trio.serve_tcp, tell, 8080, host="localhost"))
        for name in ("server.example", "client.example"):
            with net.host(name):
                stream = await trio.open_tcp_stream("localhost", 8080)
                async with stream:
                    assert stream.socket.getpeername()[:2] == ("127.0.0.1", 8080)
                    assert await stream.receive_some() == name.encode()
                with pytest.raises(OSError):
                    await ask("old.example", 8080)
        nursery.cancel_scope.cancel()


async def test_a_host_connects_to_its_own_address() -> None:
    async with network(HOSTS) as net, trio.open_nursery() as nursery:
        with net.host("server.example"):
            await nursery.start(trio.serve_tcp, shout, 80)
            assert await ask("server.example", 80) == b"HELLO"
            assert await ask("2001:db8::1", 80) == b"HELLO"
        nursery.cancel_scope.cancel()


async def test_programs_outside_of_any_host_reach_those_inside() -> None:
    async with network(HOSTS), trio.open_nursery() as nursery:
        # Bound to its address, so it is the server's.
        await nursery.start(partial(trio.serve_tcp, shout, 80, host="server.example"))
        assert await ask("server.example", 80) == b"HELLO"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
async def test_datagrams(family: socket.AddressFamily) -> None:
    server, client = (
        ("192.0.2.1", "192.0.2.2") if family == socket.AF_INET else ("2001:db8::1", "2001:db8::2")
    )
    async with network(HOSTS) as net:
        with net.host("server.example"):
            listening = trio.socket.socket(family, socket.SOCK_DGRAM)
            await listening.bind(("", 53))
        with net.host("client.example"):
            asking = trio.socket.socket(family, socket.SOCK_DGRAM)
            assert await asking.sendto(b"question", ("server.example", 53)) == 8
            data, address = await listening.recvfrom(100)
            assert (data, address[0]) == (b"question", client)
            await listening.sendto(b"answer", address)
            data, address = await asking.recvfrom(3)
            assert (data, address[:2]) == (b"ans", (server, 53))
            await asking.connect((server, 53))
            assert asking.getpeername()[:2] == (server, 53)
            await asking.send(b"again")
            assert await listening.recv(100) == b"again"
        listening.close()
        asking.close()
        with pytest.raises(OSError):
            await asking.recv(1)


async def test_a_connected_socket_hears_that_nothing_listens() -> None:
    async with network(HOSTS) as net, trio.open_nursery() as nursery:
        with net.host("server.example"):
            busy = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            await busy.bind(("0.0.0.0", 54))
        with net.host("client.example"), trio.socket.socket(type=socket.SOCK_DGRAM) as asking:
            await asking.connect(("192.0.2.1", 53))
            await asking.send(b"question")
            with pytest.raises(ConnectionRefusedError), trio.fail_after(60):
                await asking.recv(100)
        with busy:
            nursery.cancel_scope.cancel()


async def test_tls_over_it() -> None:
    authority = trustme.CA()
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("server.example").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    async with network(HOSTS) as net, trio.open_nursery() as nursery:
        with net.host("server.example"):
            await nursery.start(
                partial(trio.serve_ssl_over_tcp, shout, 443, server_context, host="0.0.0.0")
            )
        with net.host("client.example"):
            stream = await trio.open_ssl_over_tcp_stream(
                "server.example", 443, ssl_context=client_context
            )
            await stream.send_all(b"hello")
            assert await stream.receive_some(100) == b"HELLO"
            await trio.aclose_forcefully(stream)
        nursery.cancel_scope.cancel()


async def test_trio_takes_its_sockets_for_streams() -> None:
    async with network(HOSTS) as net:

        async def make() -> tuple[trio.SocketStream, trio.SocketStream]:
            with net.host("server.example"):
                (listener,) = await trio.open_tcp_listeners(0, host="192.0.2.1")
            port = listener.socket.getsockname()[1]
            with net.host("client.example"):
                near = await trio.open_tcp_stream("192.0.2.1", port)
            async with listener:
                return near, await listener.accept()

        await trio.testing.check_half_closeable_stream(make, None)


async def test_a_full_window_holds_up_the_sender(autojump_clock: trio.testing.MockClock) -> None:
    async with network(HOSTS) as net:
        with net.host("server.example"):
            (listener,) = await trio.open_tcp_listeners(80, host="192.0.2.1")
        with net.host("client.example"):
            stream = await trio.open_tcp_stream("server.example", 80)
        with trio.move_on_after(5) as scope:
            await stream.send_all(bytes(10 << 20))
        assert scope.cancelled_caught
        taken = await listener.accept()
        assert len(await taken.receive_some(1 << 16)) > 0


async def test_a_readable_socket_says_so_and_loses_nothing() -> None:
    async with network(HOSTS) as net, trio.open_nursery() as nursery:
        with net.host("server.example"):
            await nursery.start(trio.serve_tcp, shout, 80)
        with net.host("client.example"):
            stream = await trio.open_tcp_stream("192.0.2.1", 80)
        assert not stream.socket.is_readable()
        await stream.send_all(b"hello")
        with trio.fail_after(60):
            while not stream.socket.is_readable():
                await trio.sleep(0.01)
        assert await stream.socket.recv(2, socket.MSG_PEEK) == b"HE"
        assert await stream.receive_some(4) == b"HELL"
        assert await stream.receive_some(4) == b"O"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("hosts", "options", "match"),
    [
        ({"a b": "192.0.2.1"}, {}, "host name"),
        ({"localhost": "192.0.2.1"}, {}, "taken"),
        ({"a": "192.0.2.1", "b": "192.0.2.1"}, {}, "taken"),
        ({"a": "127.0.0.1"}, {}, "no host's"),
        ({"a": "1.2.3"}, {}, "1.2.3"),
        ({}, {"loss": 2}, "loss"),
        ({}, {"delay": -1}, "delay"),
    ],
)
async def test_what_makes_no_network(
    hosts: dict[str, str], options: dict[str, float], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        async with network(hosts, **options):  # type: ignore[arg-type]
            pytest.fail("unreachable")


async def test_errors_come_out_as_they_are() -> None:
    with pytest.raises(KeyError, match="mine"):
        async with network(HOSTS):
            raise KeyError("mine")
