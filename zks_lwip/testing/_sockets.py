"""Sockets in memory, with the interface and the errors of trio's."""

from __future__ import annotations

import builtins
import contextlib
import errno
import ipaddress
import itertools
import os
import random
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import trio

from ..errors import StackError
from ..stack import Stack, TcpListener, TcpStream, UdpSocket, open_tcp_stream, open_udp
from ._links import MachineDevice

__all__ = ["LOOPBACKS", "Machine", "MemorySocket"]

_LOOP = {socket.AF_INET: "198.19.255.254", socket.AF_INET6: "fdb5:7a6b:7300:fffe::1"}
"""What stands for 127.0.0.1 and ::1 in packets, which no stack takes from outside."""
LOOPBACKS = {each: ipaddress.ip_address(each).packed for each in _LOOP.values()}
_SHOWN = {_LOOP[socket.AF_INET]: "127.0.0.1", _LOOP[socket.AF_INET6]: "::1"}
_ANY = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}
_EPHEMERAL = (49152, 65535)
_CHUNK = 1 << 16
_numbers = itertools.count(1 << 24)  # no descriptor of this process


@dataclass(frozen=True, eq=False)
class Machine:
    """A host of a network in memory."""

    name: str
    addresses: tuple[str, ...]
    stack: Stack
    device: MachineDevice

    def source_for(self, address: str) -> str:
        """Return the address that this host sends from.

        :raises OSError: it has none of that family.
        """
        if address in self.addresses or address in LOOPBACKS:
            return address
        for own in self.addresses:
            if (":" in own) is (":" in address):
                return own
        raise _error(errno.ENETUNREACH)


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@contextlib.contextmanager
def _as_socket() -> Iterator[None]:
    """Raise what a socket would."""
    try:
        yield
    except trio.BrokenResourceError:
        raise _error(errno.ECONNRESET) from None
    except StackError as error:
        raise OSError(errno.EADDRINUSE, str(error)) from None


class MemorySocket(trio.socket.SocketType):
    """A TCP or UDP socket of a host in memory; made by ``trio.socket.socket``.

    Options are remembered, and have no effect but IPV6_V6ONLY.

    :param host: whose it is; None: that of the address that it is bound to, or ``here``.
    """

    def __init__(
        self,
        family: int,
        type: int,
        proto: int,
        host: Machine | None,
        here: Machine,
        find: Mapping[str, Machine],
    ) -> None:
        super().__init__()
        self._family = socket.AddressFamily(family)
        kind = type & ~(getattr(socket, "SOCK_NONBLOCK", 0) | getattr(socket, "SOCK_CLOEXEC", 0))
        if kind not in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            raise _error(errno.EPROTONOSUPPORT)
        self._type = socket.SocketKind(kind)
        self._proto = proto
        self._host = host
        self._here = here
        self._find = find
        self._number = next(_numbers)
        self._options: dict[tuple[int, int], Any] = {}
        self._local: tuple[str, int] | None = None  # as in packets
        self._remote: tuple[str, int] | None = None
        self._listener: TcpListener | None = None
        self._stream: TcpStream | None = None
        self._udp: UdpSocket | None = None
        self._early = b""  # received, and not taken by the program
        self._eof = False
        self._sent_eof = False

    # what it is

    @property
    def family(self) -> socket.AddressFamily:
        return self._family

    @property
    def type(self) -> socket.SocketKind:
        return self._type

    @property
    def proto(self) -> int:
        return self._proto

    @property
    def did_shutdown_SHUT_WR(self) -> bool:
        return self._sent_eof

    def __repr__(self) -> str:
        name = "no host yet" if self._host is None else (self._host.name or "the unnamed host")
        return f"<MemorySocket {self._type.name} of {name}, {self._local} to {self._remote}>"

    def fileno(self) -> int:
        return self._number

    def detach(self) -> int:
        raise _error(errno.EOPNOTSUPP)

    def dup(self) -> trio.socket.SocketType:
        raise _error(errno.EOPNOTSUPP)

    def get_inheritable(self) -> bool:
        return False

    def set_inheritable(self, inheritable: bool) -> None:
        if inheritable:
            raise _error(errno.EOPNOTSUPP)

    def getsockname(self) -> Any:
        self._check_open()
        return self._shown(self._local or (_ANY[self._family], 0))

    def getpeername(self) -> Any:
        self._check_open()
        if self._remote is None:
            raise _error(errno.ENOTCONN)
        return self._shown(self._remote)

    def _shown(self, address: tuple[str, int]) -> tuple[Any, ...]:
        host, port = _SHOWN.get(address[0], address[0]), address[1]
        if self._family == socket.AF_INET:
            return (host, port)
        return (host if ":" in host else f"::ffff:{host}", port, 0, 0)

    def getsockopt(self, level: int, optname: int, buflen: int | None = None) -> Any:
        self._check_open()
        if level == socket.SOL_SOCKET:
            if optname == socket.SO_ACCEPTCONN:
                return int(self._listener is not None)
            if optname == socket.SO_TYPE:
                return int(self._type)
        return self._options.get((level, optname), 0 if buflen is None else bytes(buflen))

    def setsockopt(self, level: int, optname: int, value: Any, optlen: int | None = None) -> None:
        self._check_open()
        self._options[level, optname] = value

    # life

    def __enter__(self) -> MemorySocket:
        return self

    def __exit__(
        self,
        exc_type: builtins.type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._number = -1
        if self._early and self._stream is not None:
            self._stream.abort()  # as a kernel where bytes are unread
        for part in (self._stream, self._listener, self._udp):
            if part is not None:
                part.close_nowait()

    def shutdown(self, flag: int) -> None:
        self._check_open()
        if self._stream is None:
            raise _error(errno.ENOTCONN)
        if flag in (socket.SHUT_WR, socket.SHUT_RDWR):
            self._sent_eof = True
            self._stream.flow.send_eof()
        if flag in (socket.SHUT_RD, socket.SHUT_RDWR):
            self._eof = True

    def _check_open(self) -> None:
        if self._number < 0:
            raise _error(errno.EBADF)

    # addresses

    async def _resolve(self, address: Any, *, local: bool) -> tuple[str, int]:
        """Return an address as in packets; it may have a name."""
        if not isinstance(address, tuple) or len(address) < 2:
            raise ValueError("an address is (host, port)")
        host, port = address[:2]
        if host in ("", None) and local:
            return _ANY[self._family], int(port)
        flags = socket.AI_PASSIVE if local else 0
        flags |= getattr(socket, "AI_V4MAPPED", 0) if self._family == socket.AF_INET6 else 0
        found = await trio.socket.getaddrinfo(
            host, port, self._family, self._type, self._proto, flags
        )
        plain = ipaddress.ip_address(str(found[0][4][0]).partition("%")[0])
        if isinstance(plain, ipaddress.IPv6Address):
            plain = plain.ipv4_mapped or plain
        if plain.is_loopback or (plain.is_unspecified and not local):
            six = isinstance(plain, ipaddress.IPv6Address)
            return _LOOP[socket.AF_INET6 if six else socket.AF_INET], int(port)
        return str(plain), int(port)

    def _machine(self) -> Machine:
        if self._host is None:
            self._host = self._here
        return self._host

    async def bind(self, address: Any) -> None:
        self._check_open()
        host, port = await self._resolve(address, local=True)
        if self._local is not None:
            raise _error(errno.EINVAL)
        if self._host is None:
            self._host = self._find.get(host, self._here)
        known = (*self._host.addresses, *LOOPBACKS, *_ANY.values())
        if host not in known:
            raise _error(errno.EADDRNOTAVAIL)
        if self._type == socket.SOCK_DGRAM:
            self._bind_udp(host, port)
        else:
            self._local = host, port or random.randint(*_EPHEMERAL)

    def _binding(self, host: str) -> str | None:
        """Return what the stack takes for an address: ``::`` is for IPv4, too, unless told."""
        v6only = self._options.get((socket.IPPROTO_IPV6, socket.IPV6_V6ONLY), 0)
        return None if host == "::" and not v6only else host

    def _bind_udp(self, host: str, port: int) -> None:
        with _as_socket():
            self._udp = open_udp(self._machine().stack, self._binding(host), port, queue=1024)
        self._local = host, self._udp.port

    # TCP

    def listen(self, backlog: int = 128) -> None:
        self._check_open()
        if self._type != socket.SOCK_STREAM:
            raise _error(errno.EOPNOTSUPP)
        if self._stream is not None:
            raise _error(errno.EINVAL)
        if self._listener is not None:
            return
        host, port = self._local or (_ANY[self._family], 0)
        stack = self._machine().stack
        with _as_socket():
            self._listener = TcpListener(
                stack, self._binding(host), port, backlog=max(1, min(backlog, 4096))
            )
        assert self._listener.port is not None
        self._local = host, self._listener.port

    async def accept(self) -> tuple[MemorySocket, Any]:
        self._check_open()
        if self._listener is None:
            raise _error(errno.EINVAL)
        with _as_socket():
            stream = await self._listener.accept()
        taken = MemorySocket(
            self._family, self._type, self._proto, self._host, self._here, self._find
        )
        taken._stream, taken._local, taken._remote = stream, stream.destination, stream.source
        return taken, taken.getpeername()

    async def connect(self, address: Any) -> None:
        self._check_open()
        if self._stream is not None or self._listener is not None:
            raise _error(errno.EISCONN if self._stream is not None else errno.EINVAL)
        host, port = await self._resolve(address, local=False)
        machine = self._machine()
        if self._type == socket.SOCK_DGRAM:
            if self._udp is None:
                self._bind_udp(_ANY[self._family], 0)
            assert self._local is not None
            self._remote = host, port
            if self._local[0] in _ANY.values():
                self._local = machine.source_for(host), self._local[1]
            return
        own, own_port = self._local or (None, 0)
        if own is None or own in _ANY.values():
            own = machine.source_for(host)
        with _as_socket():
            self._stream = await open_tcp_stream(machine.stack, host, port, source=(own, own_port))
        self._local, self._remote = self._stream.destination, self._stream.source

    def _connected(self) -> TcpStream:
        self._check_open()
        if self._stream is None:
            raise _error(errno.ENOTCONN)
        return self._stream

    # sending

    async def send(self, data: Any, flags: int = 0, /) -> int:
        if self._type == socket.SOCK_DGRAM:
            if self._remote is None:
                raise _error(errno.EDESTADDRREQ)
            return await self._send_to(data, self._remote)
        stream = self._connected()
        if self._sent_eof:
            raise _error(errno.EPIPE)
        with memoryview(data).cast("B") as view:
            before = stream.bytes_sent
            try:
                with _as_socket():
                    await stream.send_all(view[:_CHUNK])
            except trio.Cancelled:
                if stream.bytes_sent == before:
                    raise  # otherwise part of it is on its way, which must be told
            return stream.bytes_sent - before

    async def sendto(self, *args: Any) -> int:
        data, address = args[0], args[-1]
        if self._type != socket.SOCK_DGRAM:
            raise _error(errno.EISCONN)
        self._check_open()
        return await self._send_to(data, await self._resolve(address, local=False))

    async def sendmsg(
        self,
        buffers: Iterable[Any],
        ancdata: Iterable[tuple[int, int, Any]] = (),
        flags: int = 0,
        address: Any = None,
        /,
    ) -> int:
        if list(ancdata):
            raise _error(errno.EOPNOTSUPP)
        data = b"".join(bytes(each) for each in buffers)
        return await (self.send(data) if address is None else self.sendto(data, address))

    async def _send_to(self, data: Any, to: tuple[str, int]) -> int:
        await trio.lowlevel.checkpoint()
        self._check_open()
        if self._udp is None:
            self._bind_udp(_ANY[self._family], 0)
        assert self._udp is not None and self._local is not None
        payload = bytes(data)
        if len(payload) > 65507:
            raise _error(errno.EMSGSIZE)
        host = self._local[0]
        if host in _ANY.values():
            host = self._machine().source_for(to[0])
        with _as_socket():  # a full queue loses it, as a network may
            self._machine().stack.send_datagram((host, self._local[1]), to, payload)
        return len(payload)

    async def wait_writable(self) -> None:
        self._check_open()
        if self._stream is not None:
            with _as_socket():
                await self._stream.wait_send_all_might_not_block()
        else:
            await trio.lowlevel.checkpoint()

    # receiving

    async def recv(self, buflen: int, flags: int = 0, /) -> bytes:
        if self._type == socket.SOCK_DGRAM:
            return (await self.recvfrom(buflen, flags))[0]
        stream = self._connected()
        if not self._early:
            if self._eof or not buflen:
                await trio.lowlevel.checkpoint()
                return b""
            with _as_socket():
                data = await stream.receive_some(max(buflen, 1))
            self._eof = not data
            if not flags & socket.MSG_PEEK:
                return data
            self._early = data
        else:
            await trio.lowlevel.checkpoint()
        data = self._early[:buflen]
        if not flags & socket.MSG_PEEK:
            self._early = self._early[buflen:]
        return data

    async def recvfrom(self, bufsize: int, flags: int = 0, /) -> tuple[bytes, Any]:
        self._check_open()
        if self._type == socket.SOCK_STREAM:
            return await self.recv(bufsize, flags), None
        if self._udp is None:
            self._bind_udp(_ANY[self._family], 0)
        assert self._udp is not None
        while True:
            try:
                with _as_socket():
                    data, source = await self._udp.receive()
            except OSError as error:
                if error.filename is None or self._remote is not None:
                    raise _error(error.errno or errno.EIO) from None
                continue  # of what an unconnected one has sent: it is not told, as on Linux
            if self._remote in (None, source):  # a connected one hears its peer alone
                return data[:bufsize], self._shown(source)

    async def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        return (await self.recvfrom_into(buffer, nbytes, flags))[0]

    async def recvfrom_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
        with memoryview(buffer).cast("B") as view:
            data, source = await self.recvfrom(nbytes or len(view), flags)
            view[: len(data)] = data
        return len(data), source

    async def recvmsg(
        self, bufsize: int, ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[bytes, list[tuple[int, int, bytes]], int, object]:
        data, source = await self.recvfrom(bufsize, flags)
        return data, [], 0, source

    async def recvmsg_into(
        self, buffers: Iterable[Any], ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[int, list[tuple[int, int, bytes]], int, object]:
        views = [memoryview(each).cast("B") for each in buffers]
        data, source = await self.recvfrom(sum(map(len, views)), flags)
        rest = memoryview(data)
        for view in views:
            part = rest[: len(view)]
            view[: len(part)] = part
            rest = rest[len(part) :]
        return len(data), [], 0, source

    def is_readable(self) -> bool:
        self._check_open()
        if self._stream is None:
            return False
        if not self._early and not self._eof:
            buffer = bytearray(_CHUNK)
            count = self._stream.flow.pull_into(buffer)
            self._eof = count is None
            self._early = bytes(buffer[: count or 0])
        return bool(self._early) or self._eof or self._stream.flow.gone
