"""A client's TCP connection to the proxy, until a relay has it."""

from __future__ import annotations

import errno
import socket

import trio

from ..net.names import join_host_port
from ..net.sockets import end_in_order, end_in_reset

__all__ = ["ProxyClient"]

_DRAIN = 1.0
"""Seconds that a client has to close after a refusal; what it still sends is dropped."""
_PIECE = 4096
_KEEPALIVE_IDLE = 60
"""Seconds; a client that vanished is noticed within some ten minutes."""


class ProxyClient:
    """One client.

    :param sock: non-blocking, as it was accepted.
    :raises OSError: it was reset already.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        """The relay's, once there is one."""
        self.peer = _host_port(sock.getpeername())
        """Address and port, an IPv4 one as IPv4."""
        self.local = _host_port(sock.getsockname())
        """Of our end."""
        self.name = ""
        """Who it is, where there are passwords."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # An urgent byte stays in its place (RFC 6093 §4), where recv() would leave it out.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE)
        self.stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))

    def __str__(self) -> str:
        where = join_host_port(*self.peer)
        return f"{self.name}@{where}" if self.name else where

    async def receive(self) -> bytes:
        """Return what has come, at most 4 KiB; empty at the end.

        :raises trio.BrokenResourceError: the client has reset the connection.
        """
        return bytes(await self.stream.receive_some(_PIECE))

    async def refuse(self, answer: bytes, *, drain: bool = True) -> None:
        """Send an answer, or nothing more, and close in order.

        :param drain: what the client still sends is read for a moment: closing over it would reset
            the connection, and the client might never see the answer.
        """
        try:
            end_in_order(self.sock)
            with trio.move_on_after(_DRAIN):
                await self.stream.send_all(answer)
                await self.stream.send_eof()
                while drain and await self.receive():
                    pass
        except (OSError, trio.BrokenResourceError):
            pass  # it has closed over what was sent, as it may
        self.close()

    def end_in_reset(self) -> None:
        """Let the end of this process, or :meth:`close`, be a reset for the client.

        Holds until :meth:`refuse`.

        :raises OSError: the client has reset the connection.
        """
        end_in_reset(self.sock)

    def close(self) -> None:
        """Close the socket; harmless a second time."""
        self.stream.socket.close()


def _host_port(address: tuple[str, int] | tuple[str, int, int, int]) -> tuple[str, int]:
    if not address:
        raise OSError(errno.ENOTCONN, "the client has gone")
    return address[0].removeprefix("::ffff:") if "." in address[0] else address[0], address[1]
