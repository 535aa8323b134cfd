"""TLS of a client (RFC 8446): what it verifies, and a stream for many small records.

Nothing in here turns certificate verification off.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import cast

import trio

from .._util import open_file
from ..errors import ConfigError

__all__ = ["TlsStream", "client_context", "trust"]

_CHUNK = 65536


def client_context(alpn: str, ca_file: Path | None = None) -> ssl.SSLContext:
    """Return a context that verifies: TLS 1.2 or later.

    :param alpn: the one protocol that is offered.
    :param ca_file: certificates that are trusted besides the system's (PEM).
    :raises ConfigError: the file holds none.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([alpn])
    if ca_file is not None:
        trust(context, ca_file)
    return context


def trust(context: ssl.SSLContext, ca_file: Path) -> None:
    """Trust the certificates in a file (PEM), too.

    :raises ConfigError: it holds none, or cannot be read.
    """
    try:
        with open_file(ca_file):  # OpenSSL waits for pipes, and its errors tell no directory
            pass
        context.load_verify_locations(cafile=ca_file)
    except OSError as error:  # that of OpenSSL is one, too
        why = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
        raise ConfigError(
            f"{ca_file}: {why}. Give a PEM file of certificates.", "ca_file"
        ) from None


class TlsStream(trio.abc.Stream):
    """A TLS client on a stream, for many small records.

    :class:`trio.SSLStream` gives one TLS record at a time, each with a turn of the scheduler;
    servers write an answer's headers and body as two. This stream gives all that has come at once,
    and costs half as much for each query. It does not negotiate an end.

    One task may send while another one receives. What goes wrong with TLS is raised as
    :class:`trio.BrokenResourceError`, with the :class:`ssl.SSLError` as its cause.

    :param context: what is verified, such as of :func:`client_context`.
    :param name: the host name or address that the certificate must be for.
    """

    def __init__(self, transport: trio.abc.Stream, context: ssl.SSLContext, name: str) -> None:
        self._transport = transport
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self._plain = memoryview(bytearray(_CHUNK))
        self._sending = trio.Lock()
        self._broken = False

    @property
    def alpn(self) -> str | None:
        """The protocol that was agreed on in the handshake."""
        return self._tls.selected_alpn_protocol()

    async def do_handshake(self) -> None:
        """Shake hands, and verify the server."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except (ssl.SSLError, ssl.CertificateError) as error:
                await self._give_up(error)
            else:
                await self._flush()
                return

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send."""
        if self._broken:
            raise trio.BrokenResourceError("the TLS stream is broken")
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            await self._give_up(error)
        await self._flush()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until more can be sent."""
        await self._transport.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what has come: at least one byte, or nothing at the end (orderly or not).

        :param max_bytes: a hint.
        """
        while True:
            filled, room = 0, min(max_bytes or _CHUNK, _CHUNK)
            ended = False
            try:
                while filled < room and not ended:
                    # (With a buffer it returns how many bytes it has put there.)
                    count = cast("int", self._tls.read(room - filled, self._plain[filled:]))
                    ended = not count
                    filled += count
            except ssl.SSLWantReadError:
                # Nothing more has come; what TLS itself may have to say is sent.
                ended = False
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                ended = True
            except ssl.SSLError as error:
                if not filled:
                    await self._give_up(error)
            if self._outgoing.pending:
                try:
                    await self._flush()
                except trio.BrokenResourceError:
                    # The server is gone; what it said before is still worth having.
                    ended = True
            if filled or ended:
                return bytes(self._plain[:filled])
            await self._fill()

    async def aclose(self) -> None:
        """Close the connection at once."""
        self._broken = True
        await self._transport.aclose()

    async def _fill(self) -> None:
        data = await self._transport.receive_some(_CHUNK)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        if self._sending.locked():
            await self._sending.acquire()
        else:
            self._sending.acquire_nowait()  # without the pass through the scheduler: 10 µs sooner
        try:
            data = self._outgoing.read()
            if data:
                await self._transport.send_all(data)
        finally:
            self._sending.release()

    async def _give_up(self, error: Exception) -> None:
        """Send the alert that TLS has made, if the server still takes it, and end."""
        self._broken = True
        try:
            await self._flush()
        except trio.BrokenResourceError as gone:
            raise trio.BrokenResourceError(str(gone)) from error
        raise trio.BrokenResourceError(str(error)) from error
