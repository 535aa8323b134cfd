"""Which sockets are ready: one task and one descriptor for all of them.

A trio task per socket costs kilobytes and two system calls a wake-up; a worker holds 16,000 idle
streams, the proxy thousands. On Linux all sockets are in one epoll instance, edge-triggered and
registered once; that instance is watched (:mod:`.watch`), and one call handles everything that is
ready.
Elsewhere a task waits per socket and direction, while that is asked for.

The rule that makes both the same: a callback is called at least once after each ``want_read`` or
``want_write`` and never before; after EAGAIN the owner asks again.
"""

from __future__ import annotations

import logging
import select
import socket
from collections.abc import Callable
from typing import Protocol

import trio

from .rounds import ROUND
from .watch import watch

__all__ = ["READ", "WRITE", "Callback", "Readiness", "make_readiness"]

_log = logging.getLogger(__name__)

READ = 1
WRITE = 2

#: Called with READ, WRITE or both. An error on the socket is both. Must not raise.
Callback = Callable[[int], None]

_BATCH = 1024

if hasattr(select, "epoll"):
    _READABLE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLERR | select.EPOLLHUP
    _WRITABLE = select.EPOLLOUT | select.EPOLLERR | select.EPOLLHUP


class Readiness(Protocol):
    """Watches sockets on behalf of callbacks, in the trio thread."""

    by_itself: bool
    """After EAGAIN it calls back without being asked, whichever call got that."""

    def add(self, sock: socket.socket, callback: Callback, *, writes: bool = True) -> None:
        """Watch a non-blocking socket, as if ``want_read`` was called.

        :param writes: False: ``want_write`` will never be.
        :raises OSError: the kernel watches no more.
        """

    def want_read(self, sock: socket.socket) -> None:
        """Call back when it can be read; for a socket that just gave EAGAIN."""

    def want_write(self, sock: socket.socket) -> None:
        """Call back when it can be written; for a socket that just gave EAGAIN."""

    def rearm(self, sock: socket.socket) -> None:
        """Call back again soon: it was left readable, so that others have their turn."""

    def remove(self, sock: socket.socket) -> None:
        """Stop watching; harmless for a socket that is not watched. Comes before its close."""

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch until cancelled."""

    def close(self) -> None:
        """Give everything back, when :meth:`run` has ended and nothing is watched any more."""


class EpollReadiness:
    """The edge-triggered one. After EAGAIN the next edge comes by itself, so asking is free."""

    by_itself = True

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callback] = {}
        self._reads = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
        self._events = self._reads | select.EPOLLOUT

    def add(self, sock: socket.socket, callback: Callback, *, writes: bool = True) -> None:
        fd = sock.fileno()
        self._epoll.register(fd, self._events if writes else self._reads)
        self._callbacks[fd] = callback

    def want_read(self, sock: socket.socket) -> None:
        pass  # registered for good

    def want_write(self, sock: socket.socket) -> None:
        pass  # registered for good

    def rearm(self, sock: socket.socket) -> None:
        self._epoll.modify(sock.fileno(), self._events)

    def remove(self, sock: socket.socket) -> None:
        fd = sock.fileno()
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await watch(self._epoll.fileno(), self._handle)

    def _handle(self) -> bool:
        callbacks = self._callbacks
        with ROUND:
            for fd, mask in self._epoll.poll(0, _BATCH):
                callback = callbacks.get(fd)
                if callback is None:  # one before it in this batch has removed it
                    continue
                ready = (READ if mask & _READABLE else 0) | (WRITE if mask & _WRITABLE else 0)
                try:
                    callback(ready)
                except Exception:  # a bug costs this socket, not every session
                    _log.exception("internal error in the handling of a socket")
                    if callbacks.pop(fd, None) is not None:
                        self._epoll.unregister(fd)
        return False

    def close(self) -> None:
        self._epoll.close()


class TaskReadiness:
    """The portable one: a small task per socket and direction, while it is waited for."""

    by_itself = False

    def __init__(self) -> None:
        self._nursery: trio.Nursery | None = None
        self._watched: dict[socket.socket, tuple[Callback, set[int]]] = {}

    def add(self, sock: socket.socket, callback: Callback, *, writes: bool = True) -> None:
        self._watched[sock] = (callback, set())
        self.want_read(sock)

    def want_read(self, sock: socket.socket) -> None:
        self._want(sock, READ)

    def want_write(self, sock: socket.socket) -> None:
        self._want(sock, WRITE)

    def rearm(self, sock: socket.socket) -> None:
        self._want(sock, READ)

    def _want(self, sock: socket.socket, direction: int) -> None:
        watched = self._watched.get(sock)
        if watched is None or direction in watched[1]:
            return
        if self._nursery is None:
            raise RuntimeError("run() is not running")
        watched[1].add(direction)
        self._nursery.start_soon(self._wait, sock, direction)

    async def _wait(self, sock: socket.socket, direction: int) -> None:
        watched = self._watched.get(sock)
        if watched is None:
            return
        callback, waiting = watched
        try:
            if direction == READ:
                await trio.lowlevel.wait_readable(sock)
            else:
                await trio.lowlevel.wait_writable(sock)
        except (trio.ClosedResourceError, OSError):
            return  # removed while it was waited for
        waiting.discard(direction)
        if self._watched.get(sock) is not watched:
            return
        try:
            callback(direction)
        except Exception:  # a bug costs this socket, not every session
            _log.exception("internal error in the handling of a socket")
            self._watched.pop(sock, None)

    def remove(self, sock: socket.socket) -> None:
        if self._watched.pop(sock, None) is not None:
            trio.lowlevel.notify_closing(sock)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def close(self) -> None:
        self._watched.clear()


def make_readiness() -> Readiness:
    """Return the best that this system has."""
    return EpollReadiness() if hasattr(select, "epoll") else TaskReadiness()
