"""Network namespaces of Linux: find one by name and run code in it.

A namespace belongs to a *thread*, and a thread that has moved can only come back with
CAP_SYS_ADMIN. So a thread that is shared (trio's cache, the main thread) never moves: code runs
either in a thread of its own that ends with it (:func:`run_in_netns`) or in a thread that stays
there for as long as it is needed (:class:`NamespaceThread`). Programs started from such a thread
run in the namespace too.
"""

from __future__ import annotations

import ctypes
import errno
import os
import queue
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from ..errors import ConfigError, HostError, PrivilegeError

__all__ = ["NamespaceThread", "namespace_cookie", "namespace_id", "namespace_path", "run_in_netns"]

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
_SO_NETNS_COOKIE = 71
# Where ip(8) keeps named namespaces.
_NAMED = Path("/run/netns")


def namespace_path(netns: str | None) -> Path:
    """Return the file that stands for a namespace.

    :param netns: a name of ``ip netns``, a path, or None for the caller's own.
    :raises ConfigError: it can be no name.
    """
    if netns is None:
        return Path("/proc/thread-self/ns/net")
    if "/" in netns:
        return Path(netns)
    if netns in ("", ".", ".."):
        raise ConfigError(f"{netns!r} is not the name of a network namespace")
    return _NAMED / netns


def namespace_id(netns: str | None) -> int:
    """Return the inode number of a network namespace: equal for two names of the same namespace.

    :returns: 0 on systems that have none.
    :raises ConfigError: there is no such namespace.
    """
    if sys.platform != "linux":
        if netns is not None:
            raise ConfigError(f"{netns}: only Linux has network namespaces; leave `netns` out")
        return 0
    path = namespace_path(netns)
    try:
        return path.stat().st_ino
    except OSError as error:
        raise _no_namespace(netns, error) from error


def namespace_cookie() -> int:
    """Return what tells this thread's network namespace from all others since the machine's start.

    An inode number is used again once its namespace has gone. 0 before Linux 5.14, and elsewhere.
    """
    if sys.platform != "linux":
        return 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        try:
            cookie = one.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        except OSError:
            return 0
    return int.from_bytes(cookie, sys.byteorder)


def enter(netns: str) -> None:
    """Move the *calling thread* into a namespace, for good.

    :raises PrivilegeError: CAP_SYS_ADMIN is missing.
    :raises ConfigError: there is no such namespace.
    :raises HostError: the file is none.
    """
    namespace_id(netns)
    try:
        fd = os.open(namespace_path(netns), os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _no_namespace(netns, error) from error
    try:
        if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            if code == errno.EPERM:
                raise PrivilegeError(
                    f"cannot enter the network namespace {netns}: {os.strerror(code)}; that needs "
                    "root "
                    "(CAP_SYS_ADMIN)"
                )
            raise HostError(f"cannot enter the network namespace {netns}: {os.strerror(code)}")
    finally:
        os.close(fd)


def run_in_netns(netns: str | None, function: Callable[..., T], *args: Any) -> T:
    """Call ``function(*args)`` in a network namespace and return what it returns; blocks.

    With None it is called right here. Raises what :func:`enter` and the function raise.
    """
    if netns is None:
        return function(*args)
    thread = NamespaceThread(netns)
    try:
        return thread.call(function, *args)
    finally:
        thread.close()


class NamespaceThread:
    """A thread that lives in one network namespace and runs what it is given, one job after
    another.

    With ``netns`` None it stays in the namespace of its maker, and is still of use: sockets, file
    descriptors and capabilities stay with one thread. Raises what :func:`enter` raises.
    """

    def __init__(self, netns: str | None = None) -> None:
        self.netns = netns
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=self._serve, name=f"zks-netns-{netns or 'own'}", daemon=True
        )
        self._thread.start()
        if netns is not None:
            try:
                self.call(enter, netns)
            except BaseException:
                self.close()
                raise

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _submit(
        self, function: Callable[..., T], args: tuple[Any, ...], done: Callable[[], None]
    ) -> _Outcome[T]:
        outcome = _Outcome(function, args, done)
        self._jobs.put(outcome)
        return outcome

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Run a job and wait for it; for callers outside trio."""
        done = threading.Event()
        outcome = self._submit(function, args, done.set)
        done.wait()
        return outcome.unwrap()

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Run a job and wait for it in trio. A job cannot be interrupted, so a cancellation is seen
        after it.
        """
        import trio  # here: commands that only ask an instance do without it

        done = trio.Event()
        token = trio.lowlevel.current_trio_token()
        outcome = self._submit(function, args, lambda: token.run_sync_soon(done.set))
        with trio.CancelScope(shield=True):
            await done.wait()
        return outcome.unwrap()

    def close(self) -> None:
        """End the thread after the jobs it has; twice is harmless."""
        self._jobs.put(None)
        self._thread.join()


class _Outcome(Generic[T]):
    """One job: called in the thread, its result or exception read by its caller after ``done``."""

    def __init__(
        self, function: Callable[..., T], args: tuple[Any, ...], done: Callable[[], None]
    ) -> None:
        self._function = function
        self._args = args
        self._done = done
        self._value: T | None = None
        self._error: BaseException | None = None

    def __call__(self) -> None:
        try:
            self._value = self._function(*self._args)
        except BaseException as error:  # carried over to the waiting thread
            self._error = error
        self._done()

    def unwrap(self) -> T:
        if self._error is not None:
            raise self._error
        return cast(T, self._value)


def _no_namespace(netns: str | None, error: OSError) -> ConfigError | HostError | PrivilegeError:
    if isinstance(error, PermissionError):
        return PrivilegeError(
            f"cannot open the network namespace {netns}: {error.strerror}; run it as root"
        )
    kind = ConfigError if isinstance(error, FileNotFoundError) else HostError
    return kind(
        f"there is no network namespace {netns} ({error.strerror}: {error.filename}); "
        "`ip netns list` shows the names, `ip netns add NAME` makes one"
    )
