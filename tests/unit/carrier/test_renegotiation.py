"""A second handshake in the midst of a connection, which TLS 1.2 has: with openssl's server."""

from __future__ import annotations

import os
import re
import shutil
import signal
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme
from wsproto import ConnectionType

from zks_lwip.carrier.masking import make_protocol
from zks_lwip.carrier.transport import Wire
from zks_lwip.net.tls import client_context
from zks_lwip.worker.listen import tls_context

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="streams alone are used on Windows"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="it needs openssl(1)"),
]


class Server:
    """openssl's, which begins another handshake when it is told so."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None and process.stdout is not None
        self.process, self.stdin, self.stdout = process, process.stdin, process.stdout
        self.said = ""

    async def says(self, pattern: str) -> re.Match[str]:
        """Wait until it has said that."""
        with trio.fail_after(30):
            while (found := re.search(pattern, self.said)) is None:
                piece = await self.stdout.receive_some()
                assert piece, self.said
                self.said += piece.decode(errors="replace")
        return found


@asynccontextmanager
async def openssl_server(folder: Path) -> AsyncIterator[tuple[Server, ssl.SSLContext, int]]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(folder / "pem")
    process = await trio.lowlevel.open_process(
        ["openssl", "s_server", "-accept", "127.0.0.1:0", "-tls1_2", "-cert", str(folder / "pem")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    server = Server(process)
    async with server.stdin, server.stdout:
        try:
            port = int((await server.says(r"ACCEPT 127\.0\.0\.1:(\d+)"))[1])
            yield server, client_context("http/1.1", folder / "ca"), port
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


@asynccontextmanager
async def renegotiating(folder: Path) -> AsyncIterator[tuple[Server, Wire, trio.Nursery]]:
    """A client's wire on which something is to be sent, while its server, which is stopped, has
    asked for another handshake."""
    async with openssl_server(folder) as (server, context, port), trio.open_nursery() as nursery:
        tcp = await trio.open_tcp_stream("127.0.0.1", port)
        stream = trio.SSLStream(tcp, context, server_hostname="127.0.0.1", https_compatible=True)
        await stream.send_all(b"opened\n")
        await server.says("opened")
        wire = Wire(stream, make_protocol(ConnectionType.CLIENT, 1 << 20))
        wire.opened()
        await server.stdin.send_all(b"r\n")
        await trio.lowlevel.wait_readable(tcp.socket)  # it says HelloRequest
        server.process.send_signal(signal.SIGSTOP)
        nursery.start_soon(wire.receive)
        await trio.testing.wait_all_tasks_blocked()  # it has read what came before
        assert not wire.begin((b"sent meanwhile\n",)) and wire.sending
        yield server, wire, nursery
        nursery.cancel_scope.cancel()
        await trio.aclose_forcefully(stream)


async def test_what_is_sent_meanwhile_waits_until_it_is_over(tmp_path: Path) -> None:
    async with renegotiating(tmp_path) as (server, wire, _):
        server.process.send_signal(signal.SIGCONT)
        with trio.fail_after(30):
            await wire.finish()
        assert wire.begin((b"and afterwards\n",)) and wire.bytes_sent == 30
        await server.says("(?s)sent meanwhile\n.*and afterwards\n")


async def test_one_that_is_never_over_ends_the_connection(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    async with renegotiating(tmp_path) as (_, wire, nursery):
        ended = trio.Event()

        async def finish() -> None:
            with pytest.raises(trio.BrokenResourceError, match="renegotiate, and has not finished"):
                await wire.finish()
            ended.set()

        nursery.start_soon(finish)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(60)
        await ended.wait()
        assert wire.dead


def test_the_worker_takes_none_from_clients(tmp_path: Path) -> None:
    trustme.CA().issue_cert("h").private_key_and_cert_chain_pem.write_to_path(tmp_path / "pem")
    assert tls_context(tmp_path / "pem", None).options & ssl.OP_NO_RENEGOTIATION
