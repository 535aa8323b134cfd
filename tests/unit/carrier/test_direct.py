"""TLS that is read and written directly, against a client that speaks TLS 1.3 as it likes."""

from __future__ import annotations

import os
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from zks_lwip.carrier.direct import DirectSocket, direct

pytestmark = pytest.mark.skipif(os.name == "nt", reason="streams alone are used on Windows")
PIECE = 64 * 1024
HANDSHAKE, DATA = 22, 23
REQUESTED = b"\x18\x00\x00\x01\x01"
"""KeyUpdate that asks for one in return (RFC 8446 §4.6.3)."""


class Records:
    """Makes the records of a TLS 1.3 client (RFC 8446 §5.2), from the secret of its traffic."""

    def __init__(self, secret: bytes) -> None:
        self.use(secret)

    def use(self, secret: bytes) -> None:
        self.secret, self.count = secret, 0
        self.key, self.iv = AESGCM(self.expand("key", 32)), self.expand("iv", 12)

    def expand(self, label: str, length: int) -> bytes:
        name = b"tls13 " + label.encode()
        info = struct.pack("!HB", length, len(name)) + name + b"\0"
        return HKDFExpand(SHA384(), length, info).derive(self.secret)

    def record(self, kind: int, content: bytes) -> bytes:
        header = struct.pack("!BHH", DATA, 0x0303, len(content) + 17)
        nonce = int.from_bytes(self.iv, "big") ^ self.count
        self.count += 1
        inner = content + bytes((kind,))
        return header + self.key.encrypt(nonce.to_bytes(12, "big"), inner, header)

    def key_update(self) -> bytes:
        record = self.record(HANDSHAKE, REQUESTED)
        self.use(self.expand("traffic upd", 48))
        return record


@dataclass
class Peer:
    """A server's socket that is used directly, and its client."""

    sock: DirectSocket
    client: trio.SSLStream[trio.SocketStream]
    records: Records

    async def send(self, data: bytes) -> None:
        """Send records of TLS, or parts of them."""
        with trio.fail_after(60):
            await self.client.transport_stream.send_all(data)


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Peer]:
    near, far = trio.socket.socketpair()
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("h").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    client.keylog_filename = str(directory / "keys")
    ours = trio.SSLStream(trio.SocketStream(near), server, server_side=True)
    theirs = trio.SSLStream(trio.SocketStream(far), client, server_hostname="h")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.send_all, b"opened")
        assert await theirs.receive_some() == b"opened"
    assert theirs.cipher()[0] == "TLS_AES_256_GCM_SHA384"
    words = [line.split() for line in (directory / "keys").read_text().splitlines()]
    (secret,) = (bytes.fromhex(x[2]) for x in words if x[0] == "CLIENT_TRAFFIC_SECRET_0")
    sock = direct(ours)
    assert sock is not None
    try:
        yield Peer(sock, theirs, Records(secret))
    finally:
        near.close()
        far.close()


def read(sock: DirectSocket, size: int = 1 << 19) -> bytes | None:
    """All that one read gives; None: nothing now."""
    buffer = bytearray(size)
    count = sock.read_into(memoryview(buffer))
    return None if count is None else bytes(buffer[:count])


async def test_others_have_their_turns_while_tls_alone_is_spoken(tmp_path: Path) -> None:
    """A read ends, though more has come than it looks at, and all is read in the end."""
    async with opened(tmp_path) as peer:
        sock, records = peer.sock, peer.records
        flood = b"".join(records.key_update() for _ in range(2 * PIECE // 27 + 100))
        flood += records.record(DATA, b"at last")
        got: list[bytes | None] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.send, flood)
            with trio.fail_after(60):
                while not got or got[-1] is None:
                    await trio.testing.wait_all_tasks_blocked()
                    got.append(read(sock))
        assert len(got) >= 3 and got[-1] == b"at last"


async def test_what_a_peer_has_tls_answer_and_does_not_read_is_bounded(tmp_path: Path) -> None:
    async with opened(tmp_path) as peer:
        sock, records = peer.sock, peer.records
        rest = sock.write((bytes(8 << 20),))  # more than the kernel takes
        assert rest
        with pytest.raises(trio.BrokenResourceError, match="reads nothing"):
            for _ in range(10):
                await peer.send(b"".join(records.key_update() for _ in range(1000)))
                read(sock)


async def test_a_peer_that_reads_gets_all_behind_answers_of_tls(tmp_path: Path) -> None:
    """Between what is written, and while the kernel takes nothing."""
    async with opened(tmp_path) as peer:
        sock, records = peer.sock, peer.records
        data = os.urandom(1 << 20)
        rest = sock.write((data,))
        assert rest
        await peer.send(records.key_update() + records.record(DATA, b"asked"))
        assert read(sock) == b"asked"
        got = b""
        with trio.fail_after(60):
            while len(got) < len(data):
                got += await peer.client.receive_some()
                rest = rest and sock.write(rest)
        assert got == data


async def test_the_end_of_tls_needs_no_end_of_tcp(tmp_path: Path) -> None:
    async with opened(tmp_path) as peer:
        sock, records = peer.sock, peer.records
        await peer.send(records.record(DATA, b"the last") + records.record(21, b"\x01\x00"))
        assert read(sock) == b"the last"
        assert sock.may_have_more
        assert read(sock) == b""


async def test_a_broken_record_is_told_behind_what_came_before_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as peer:
        sock, records = peer.sock, peer.records
        broken = bytearray(records.record(DATA, b"good") + records.record(DATA, b"bad"))
        broken[-1] ^= 1
        await peer.send(bytes(broken))
        assert read(sock) == b"good"
        assert sock.may_have_more
        with pytest.raises(trio.BrokenResourceError, match="TLS"):
            read(sock)
