"""The tunnel's own connections are known when they come back."""

from __future__ import annotations

import pytest
import trio

from zks_lwip.tunnel.tcp_path import open_tcp
from zks_lwip.vpn.loop_detector import LoopDetector


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", "4"), ("::1", "6")])
async def test_a_socket_is_known_while_it_lives(
    host: str, family: str, caplog: pytest.LogCaptureFixture
) -> None:
    loops = LoopDetector()
    try:
        (listener,) = await trio.open_tcp_listeners(0, host=host)
    except OSError:
        pytest.skip(f"no IPv{family} here")
    async with listener:
        port = listener.socket.getsockname()[1]
        stream = await open_tcp([host], port, configure=loops.watch)
        own = stream.socket.getsockname()[1]
        assert loops.is_loop(("192.0.2.9", own), (host, port)), "whatever its address became"
        assert loops.is_loop(("192.0.2.9", own), (host, port))
        assert caplog.text.count("a loop: ") == 1, "each one is reported"
        assert not loops.is_loop(("192.0.2.9", own + 1), (host, port))
        assert not loops.is_loop(("192.0.2.9", own), (host, port + 1))
        assert not loops.is_loop(("192.0.2.9", own), ("192.0.2.1", port))
        await stream.aclose()
        assert not loops.is_loop(("192.0.2.9", own), (host, port))


async def test_it_is_known_before_it_is_connected() -> None:
    loops = LoopDetector()
    with trio.socket.socket() as sock:
        loops.watch(sock, "192.0.2.1", 443)
        own = sock.getsockname()[1]
        assert own and loops.is_loop(("198.18.0.1", own), ("192.0.2.1", 443))
