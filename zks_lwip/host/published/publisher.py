"""All published ports of one command, for as long as it runs."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any

import trio

from ..._util import single_error
from ...errors import HostError
from ...net.descriptors import is_scarcity, warn_of_scarcity
from ...net.names import join_host_port
from ...net.readiness import make_readiness
from ...net.sockets import connect, family_of, reset
from .connection import PublishedConnection
from .datagrams import PublishedDatagrams, UdpCounters
from .inside import SocketMaker, addresses_inside
from .listeners import Listener, bind_all
from .ports import PublishedPort, Transport

__all__ = ["DRAIN", "MAX_CONNECTIONS", "Publisher", "TcpCounters"]

_log = logging.getLogger(__name__)

MAX_CONNECTIONS = 1024
"""TCP connections of all published ports at a time; more are reset at once."""
DRAIN = 10.0
"""Seconds in which clients can take what the command had sent when it ended."""
_STILL = 1.0
"""Seconds without a byte after which they do not take it."""
_GLANCE = 0.05
"""Seconds between two looks at that."""
_BATCH = 64
"""Connections that are accepted before others have their turn."""
_SCARCE = 0.1
"""Seconds until the next attempt to accept where a descriptor lacks."""


@dataclass
class TcpCounters:
    """Of all published ports."""

    accepted: int = 0
    connected: int = 0
    refused: int = 0
    """Reset at once: nothing listens in the namespace."""
    too_many: int = 0
    """Reset at once: :data:`MAX_CONNECTIONS` are open."""
    bytes_in: int = 0
    """To the command."""
    bytes_out: int = 0


class Publisher:
    """Binds the ports when it is made; as a context manager its end gives them back.

    :raises ConfigError: a port is in use, or its address is not this machine's.
    :raises PrivilegeError: a port needs privilege.
    """

    def __init__(self, ports: Sequence[PublishedPort]) -> None:
        self._readiness = make_readiness()
        try:
            self._bound = bind_all(ports)
        except BaseException:
            self._readiness.close()
            raise
        self._tcp = TcpCounters()
        self._udp = UdpCounters()
        self._connections: set[PublishedConnection] = set()
        self._count = 0  # connections, with those that are being made
        self._datagrams: list[PublishedDatagrams] = []

    @property
    def ports(self) -> list[PublishedPort]:
        """What is published, with the ports that it really has."""
        return [replace(port, port=listeners[0].port.port) for port, listeners in self._bound]

    @property
    def _listeners(self) -> list[Listener]:
        return list(chain.from_iterable(listeners for _, listeners in self._bound))

    def stats(self) -> dict[str, Any]:
        """Return the counters."""
        return {"tcp": asdict(self._tcp), "udp": asdict(self._udp)}

    def listen(self) -> None:
        """Let clients connect; until then they are refused. To be called once.

        :raises ConfigError: another program has taken a port since it was bound.
        """
        for listener in self._listeners:
            listener.listen()

    @asynccontextmanager
    async def serving(self, sockets: SocketMaker, *, ipv6: bool) -> AsyncIterator[None]:
        """Serve clients inside: to be entered before the command starts, left when it has ended.

        Then what it has sent is delivered, within :data:`DRAIN` seconds, and the rest is reset.
        Left by an exception, all of it is.

        :param ipv6: the namespace has IPv6.
        """
        with single_error():
            async with trio.open_nursery() as nursery:
                await nursery.start(self._readiness.run)
                nursery.start_soon(self._serve, sockets, ipv6)
                yield
                await self._drain()
                nursery.cancel_scope.cancel()

    def close(self) -> None:
        """Stop listening; twice is harmless."""
        for listener in self._listeners:
            listener.socket.close()
        self._readiness.close()

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    async def _serve(self, sockets: SocketMaker, ipv6: bool) -> None:
        try:
            with single_error():
                async with trio.open_nursery() as nursery:
                    for listener in self._listeners:
                        if listener.transport is Transport.TCP:
                            nursery.start_soon(self._accept_all, listener, sockets, ipv6)
                            continue
                        port = PublishedDatagrams(
                            listener, sockets, self._readiness, self._udp, ipv6=ipv6
                        )
                        self._datagrams.append(port)
                        nursery.start_soon(port.run)
        except HostError as error:
            for listener in self._listeners:
                listener.socket.close()
            _log.error("%s: they are closed now, the command runs on", error)

    # TCP

    async def _accept_all(self, listener: Listener, sockets: SocketMaker, ipv6: bool) -> None:
        async with trio.open_nursery() as nursery:
            while listener.socket.fileno() >= 0:  # else the command has ended meanwhile
                try:
                    await trio.lowlevel.wait_readable(listener.socket)
                    for _ in range(_BATCH):
                        client, address = listener.socket.accept()
                        self._tcp.accepted += 1
                        if self._count >= MAX_CONNECTIONS:
                            self._tcp.too_many += 1
                            reset(client)
                            continue
                        self._count += 1
                        nursery.start_soon(self._relay, listener, client, address, sockets, ipv6)
                except BlockingIOError:
                    continue
                except trio.ClosedResourceError:
                    break  # the command has ended; what is connected goes on
                except OSError as error:
                    if is_scarcity(error):
                        warn_of_scarcity("a connection to a published port waits", error)
                        await trio.sleep(_SCARCE)
                # More wait, or one that waited has gone (ECONNABORTED).
                await trio.lowlevel.checkpoint()

    async def _relay(
        self,
        listener: Listener,
        client: socket.socket,
        address: tuple[Any, ...],
        sockets: SocketMaker,
        ipv6: bool,
    ) -> None:
        name = f"published {listener.port}: {join_host_port(*address[:2])}"
        why = "the command has ended"
        connection: PublishedConnection | None = None
        try:
            client.setblocking(False)
            program = await self._connect(listener.port.inside, address[0], sockets, ipv6)
            connection = PublishedConnection(client, program, self._readiness, self._add)
            self._tcp.connected += 1
            self._connections.add(connection)
            _log.debug("%s is connected", name)
            await connection.run()
            why = connection.why
        except ConnectionRefusedError:
            self._tcp.refused += 1
            why = f"reset: in the namespace nothing listens on port {listener.port.inside}"
        except OSError as error:
            why = f"reset: {error.strerror}"
            if is_scarcity(error):
                warn_of_scarcity("a connection to a published port was reset", error)
        finally:
            if connection is None:
                reset(client)
            else:
                self._connections.discard(connection)
            self._count -= 1
            _log.debug("%s: %s", name, why)

    async def _connect(
        self, port: int, client: str, sockets: SocketMaker, ipv6: bool
    ) -> socket.socket:
        """Connect to the command, at the first address where something listens.

        :raises ConnectionRefusedError: at none.
        :raises OSError: it does not connect.
        :raises HostError: no more sockets of the namespace are to be had.
        """
        targets = addresses_inside(client, ipv6=ipv6)
        for target in targets:
            sock = await sockets.open(family_of(target), socket.SOCK_STREAM)
            try:
                await connect(sock, (target, port))
            except BaseException as error:
                sock.close()
                if isinstance(error, ConnectionRefusedError) and target != targets[-1]:
                    continue
                raise
            return sock
        raise AssertionError("unreachable")

    def _add(self, to_command: int, from_command: int) -> None:
        self._tcp.bytes_in += to_command
        self._tcp.bytes_out += from_command

    # the end

    async def _drain(self) -> None:
        """Let clients take what the command has sent; then end all of them."""
        for listener in self._listeners:
            if listener.transport is Transport.TCP and listener.socket.fileno() >= 0:
                trio.lowlevel.notify_closing(listener.socket)
                listener.socket.close()
        for port in self._datagrams:
            port.finish()
        moved, since = -1, trio.current_time()
        with trio.move_on_after(DRAIN):
            while not all(connection.delivered for connection in self._connections):
                now = sum(connection.moved for connection in self._connections)
                if now != moved:
                    moved, since = now, trio.current_time()
                elif trio.current_time() - since > _STILL:
                    break
                await trio.sleep(_GLANCE)
        for connection in tuple(self._connections):
            connection.finish()
