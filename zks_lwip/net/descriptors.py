"""File descriptors, and what else the system runs out of: limit, budgets, what to do without.

Without descriptors a single operation fails, or is done later; the program goes on.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = [
    "Descriptors",
    "ScarcityLog",
    "descriptor_limit",
    "is_scarcity",
    "raise_descriptor_limit",
    "scarcity_in",
    "warn_of_scarcity",
]

_log = logging.getLogger(__name__)

MAX_DESCRIPTORS = 1 << 20
"""As many as Linux allows a process by default (fs.nr_open)."""
_OPEN_MAX = 10240  # of macOS, which may refuse to take more
_WARN_EVERY = 60.0  # seconds between two warnings: the cause of one is that of the next hundred

_SCARCE = frozenset(
    # EAGAIN: fork(2) at the limit of processes.
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN}
)


def raise_descriptor_limit() -> int:
    """Allow this process as many descriptors as it may have; return how many that are.

    It is the soft limit (RLIMIT_NOFILE) that is raised, to the hard one: its usual 1024 is there
    for programs that use select(2), which this one does not.
    """
    if sys.platform == "win32":  # there is no such limit on sockets
        return MAX_DESCRIPTORS
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, MAX_DESCRIPTORS) if hard != resource.RLIM_INFINITY else MAX_DESCRIPTORS
    for most in (wanted, min(wanted, _OPEN_MAX)):
        if soft == resource.RLIM_INFINITY or soft >= most:
            break
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
        except (OSError, ValueError) as error:
            _log.info("the limit of descriptors stays at %d, not %d: %s", soft, most, error)
    return MAX_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def descriptor_limit() -> int:
    """Return how many descriptors this process is allowed now."""
    if sys.platform == "win32":
        return MAX_DESCRIPTORS
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


class Descriptors:
    """A budget of file descriptors, so that what is there keeps working when too much is asked.

    :param parent: the budget that this one is a share of.
    """

    __slots__ = ("_parent", "free", "total")

    def __init__(self, total: int, parent: Descriptors | None = None) -> None:
        self.total = total
        self.free = total
        self._parent = parent

    def resize(self, total: int) -> None:
        """Make it ``total``; what is taken beyond that stays taken until it is given back."""
        self.free += total - self.total
        self.total = total

    def take(self) -> None:
        """Count one more.

        :raises OSError: (EMFILE) when none is left.
        """
        if self.free <= 0:
            raise OSError(errno.EMFILE, "no descriptor is left for it")
        if self._parent is not None:
            self._parent.take()
        self.free -= 1

    def give(self) -> None:
        """Give one back."""
        self.free += 1
        if self._parent is not None:
            self._parent.give()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Take one for the length of a ``with`` block.

        :raises OSError: as :meth:`take`.
        """
        self.take()
        try:
            yield
        finally:
            self.give()


def is_scarcity(error: BaseException) -> bool:
    """Return whether an error, or what caused it, is a want of descriptors, memory or processes.

    It passes by itself, so what failed is to be tried again, or refused once.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _SCARCE:
            return True
        cause = cause.__cause__
    return False


def scarcity_in(text: str) -> OSError | None:
    """The same in what another program has said, in the C locale; None: it was something else."""
    for number in _SCARCE:
        if os.strerror(number) in text:
            return OSError(number, os.strerror(number))
    return None


class ScarcityLog:
    """Warns at most once a minute; ``clock`` is in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._warned = -math.inf
        self._untold = 0

    def warn(self, what: str, error: BaseException) -> None:
        """Log that ``what`` had to be put off or refused, and how many were since the last time."""
        now = self._clock()
        if now - self._warned < _WARN_EVERY:
            self._untold += 1
            return
        again = f" ({self._untold} more since the last time)" if self._untold else ""
        self._warned, self._untold = now, 0
        number = getattr(error, "errno", None)
        _log.warning(
            "%s: %s%s; if this goes on, raise the limit of descriptors (`ulimit -n`, with systemd "
            "LimitNOFILE=), or give this machine more memory",
            what,
            os.strerror(number) if number else str(error),
            again,
        )


warn_of_scarcity = ScarcityLog().warn
