"""Where a worker listens: TCP addresses, unix sockets, and sockets that others have opened."""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError, PrivilegeError
from ..net.fast_open import accept_early_data
from ..net.listen import is_loopback, listen, parse_listen
from ..net.names import join_host_port

__all__ = [
    "BoundSocket",
    "InheritedSocket",
    "ListenAddress",
    "TcpAddress",
    "UnixAddress",
    "parse_listen_address",
]

_BACKLOG = 1024
_UNIX = "unix:"
_MAX_PATH = 107 if sys.platform == "linux" else 103  # struct sockaddr_un, without its end
"""Bytes of a path that struct sockaddr_un has room for, without the NUL."""


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """An IP address of this machine, and a port; 0: any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return join_host_port(self.host, self.port)


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A socket in the file system, for a front end on this machine. TLS is not spoken there."""

    path: Path
    mode: int = 0o660
    """Who may connect: owner and group, by default."""

    def __str__(self) -> str:
        return f"{_UNIX}{self.path}"


@dataclass(frozen=True, slots=True)
class InheritedSocket:
    """A listening socket that a service manager, or a parent, has opened.

    The worker takes the descriptor over, and closes it.
    """

    fd: int
    name: str = ""
    """As the service manager calls it (sd_listen_fds(3)); ``plain``: no TLS is spoken there."""
    checked: bool = False
    """It is known who reaches it: nothing is said of that any more."""

    def __str__(self) -> str:
        return f"descriptor {self.fd}{f' ({self.name})' if self.name else ''}"


ListenAddress = TcpAddress | UnixAddress | InheritedSocket


def parse_listen_address(text: str, mode: int = 0o660) -> ListenAddress:
    """Read ``ADDRESS:PORT``, ``[IPV6]:PORT`` or ``unix:PATH``.

    :param mode: of a unix socket.
    :raises ConfigError: it is none of them.
    """
    if not text.startswith(_UNIX):
        return TcpAddress(*parse_listen(text))
    path = text.removeprefix(_UNIX)
    if not path or "\0" in path or len(os.fsencode(path)) > _MAX_PATH:
        raise ConfigError(
            f"{text}: a path of 1 to {_MAX_PATH} bytes is needed; give for example "
            "unix:/run/zks-lwip/worker.sock",
            "listen",
        )
    return UnixAddress(Path(path), mode)


class BoundSocket:
    """A socket that listens, where that is, and what has to be cleared away at its end."""

    def __init__(self, address: ListenAddress, *, ipv6_only: bool = False) -> None:
        """Listen.

        :param ipv6_only: ``::`` leaves the addresses of IPv4 to another socket.
        :raises ConfigError: nothing can listen there.
        :raises PrivilegeError: the system forbids it.
        """
        self._own: tuple[Path, int, int] | None = None
        if isinstance(address, TcpAddress):
            self.socket, _ = listen(address.host, address.port, ipv6_only=ipv6_only)
        elif isinstance(address, InheritedSocket):
            self.socket = _adopt(address)
        else:
            self.socket = _listen_unix(address)
            status = address.path.lstat()
            self._own = address.path.absolute(), status.st_dev, status.st_ino
        if self.is_tcp:
            accept_early_data(self.socket)
        self.plain = isinstance(address, InheritedSocket) and address.name == "plain"
        """TLS is not wanted."""

    @property
    def is_tcp(self) -> bool:
        """Whether it is no unix socket."""
        return self.socket.family in (socket.AF_INET, socket.AF_INET6)

    @property
    def local(self) -> bool:
        """Whether only programs on this machine reach it."""
        return not self.is_tcp or is_loopback(self.address[0])

    @property
    def address(self) -> tuple[str, int]:
        """Address and port; of a unix socket, its path (empty: none) and 0."""
        name = self.socket.getsockname()
        if self.is_tcp:
            return name[0], name[1]
        return os.fsdecode(name), 0

    def __str__(self) -> str:
        return join_host_port(*self.address) if self.is_tcp else f"{_UNIX}{self.address[0]}"

    def close(self) -> None:
        """Close it; a unix socket of ours goes from the file system."""
        self.socket.close()
        if self._own is None:
            return
        path, device, inode = self._own
        self._own = None
        with suppress(OSError):  # it was cleared away, or is another's by now
            status = path.lstat()
            if (status.st_dev, status.st_ino) == (device, inode):
                path.unlink()


def _adopt(address: InheritedSocket) -> socket.socket:
    try:
        sock = socket.socket(fileno=address.fd)
    except OSError as error:
        raise ConfigError(f"{address} is no socket: {error.strerror}") from None
    if not _may_listen(sock) or sock.type != socket.SOCK_STREAM:
        sock.detach()
        raise ConfigError(
            f"{address} does not listen for connections; give ListenStream= in the .socket unit, "
            "and Accept=no"
        )
    sock.setblocking(False)
    sock.set_inheritable(False)
    return sock


def _may_listen(sock: socket.socket) -> bool:
    """Return whether it listens, as far as the system tells: macOS does not."""
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise
        return True


def _listen_unix(address: UnixAddress) -> socket.socket:
    if not hasattr(socket, "AF_UNIX"):
        raise ConfigError(f"{address}: this system has no unix sockets", "listen")
    path = os.fspath(address.path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        try:
            _bind(sock, path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            _remove_stale(address)
            _bind(sock, path)
        os.chmod(path, address.mode)  # until here it is the owner's alone
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        message = f"cannot listen on {address}: {error.strerror}"
        if error.errno in (errno.EACCES, errno.EPERM):
            raise PrivilegeError(f"{message}; its directory has to be writable") from None
        raise ConfigError(message) from None
    except BaseException:
        sock.close()
        raise
    return sock


def _bind(sock: socket.socket, path: str) -> None:
    old = os.umask(0o177)
    try:
        sock.bind(path)
    finally:
        os.umask(old)


def _remove_stale(address: UnixAddress) -> None:
    """Remove a socket that is left of a worker that died; never one that a process listens on."""
    if not stat.S_ISSOCK(address.path.lstat().st_mode):
        raise ConfigError(
            f"cannot listen on {address}: there is a file that is no socket; give `listen` another "
            "path"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(address.path))
        except ConnectionRefusedError:
            address.path.unlink(missing_ok=True)
            return
        except BlockingIOError:  # its queue is full
            pass
    raise ConfigError(
        f"cannot listen on {address}: another program listens there; end it, or give `listen` "
        "another path"
    )
