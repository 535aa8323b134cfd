"""The access log: who was served from where, when, and how much; who was refused, and why.

One line an entry, ``TIME EVENT key=value ...``, in UTC. What a peer chose stands in double quotes,
in which line ends and quotes are escaped, so that no entry can be forged. The loop never waits for
the file: lines pass through a bounded queue to a thread, and what that cannot take is counted.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import trio

from ..errors import ConfigError

__all__ = ["AccessLog", "format_entry", "timestamp"]

_log = logging.getLogger(__name__)

_MAX_LINES = 10_000
"""Lines that wait for the file; over it new ones are lost, and counted."""
_FLUSH = 1.0
"""Seconds that the last lines may take at the end."""
_PLAIN = re.compile(r"[A-Za-z0-9_.:/%+@,\[\]-]+")
_MODE = 0o640


def timestamp(when: float | None = None) -> str:
    """Return a moment in seconds since 1970 (none: now) as RFC 3339 has it, in UTC."""
    moment = datetime.fromtimestamp(time.time() if when is None else when, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def format_entry(event: str, values: dict[str, object], when: float | None = None) -> str:
    """Return one line, without its end.

    :param when: seconds since 1970; none: now.
    """
    words = [timestamp(when), event]
    for key, value in values.items():
        text = f"{value:.3f}" if isinstance(value, float) else str(value)
        words.append(f"{key}={text if _PLAIN.fullmatch(text) else json.dumps(text)}")
    return " ".join(words)


class AccessLog:
    """Lines for a file, or for standard output; :meth:`run` must be running.

    :param path: None: standard output.
    :raises ConfigError: it cannot be opened.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lines: deque[str] = deque()
        #: Lines that were lost since the start.
        self.lost_in_all = 0
        #: Lines that neither queue nor file took, and that no entry has told yet.
        self.lost = 0
        self._reopen = False
        self._wake = trio.Event()
        self._failing = False
        self._file = _File(path)
        # One thread at a time, apart from those of others: a file that hangs is ours alone.
        self._limiter = trio.CapacityLimiter(1)

    def entry(self, event: str, **values: object) -> None:
        """Write one entry. Never blocks."""
        if len(self._lines) >= _MAX_LINES:
            self._lose(1)
            return
        self._lines.append(format_entry(event, values))
        self._wake.set()

    def _lose(self, lines: int) -> None:
        self.lost += lines
        self.lost_in_all += lines

    def reopen(self) -> None:
        """Close the file and open it anew, as after a rotation (logrotate(8)); soon after."""
        self._reopen = True
        self._wake.set()

    async def run(self) -> None:
        """Write until cancelled; what waits then is still written, for a second at most."""
        try:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                await self._write()
        finally:
            with trio.move_on_after(_FLUSH, shield=True):
                await self._write()
            self._file.end()

    async def _write(self) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()  # before anything is taken from the queue
        reopen, self._reopen = self._reopen, False
        lines = list(self._lines)
        self._lines.clear()
        told, self.lost = self.lost, 0
        if told:
            lines.append(format_entry("lost", {"lines": told}))
        if not lines and not reopen:
            return
        # What was in the file's queue before the rotation may go to either.
        data = "".join(f"{line}\n" for line in lines).encode()
        error, lost = await trio.to_thread.run_sync(
            partial(self._file.write, data, reopen),
            abandon_on_cancel=True,
            limiter=self._limiter,
        )
        if told and lost:  # its entry is the last of them
            self.lost += told
            lost -= 1
        self._lose(lost)
        if error is None:
            self._failing = False
        elif not self._failing:
            self._failing = True
            name = "standard output" if self._path is None else self._path
            _log.error("the access log %s cannot be written: %s", name, error.strerror)


_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)


class _File:
    """The log's file, written by one thread at a time and ended by another.

    :raises ConfigError: it cannot be opened.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._fd = _open(path)
        self._lock = threading.Lock()  # of the next two
        self._writing = False
        self._ended = False

    def write(self, data: bytes, reopen: bool) -> tuple[OSError | None, int]:
        """Write, and return what went wrong and how many lines were lost by it."""
        with self._lock:
            if self._ended:
                return OSError(errno.EBADF, os.strerror(errno.EBADF)), data.count(b"\n")
            self._writing = True
        try:
            return self._write(data, reopen)
        finally:
            with self._lock:
                self._writing = False
                if self._ended:
                    self._close()

    def end(self) -> None:
        """Close the file: a write that goes on, cancelled or not, does so when it has ended."""
        with self._lock:
            self._ended = True
            if not self._writing:
                self._close()

    def _write(self, data: bytes, reopen: bool) -> tuple[OSError | None, int]:
        failed = None
        if reopen and self._path is not None:
            try:
                old, self._fd = self._fd, os.open(self._path, _FLAGS, _MODE)
                os.close(old)
            except OSError as error:  # the old one is better than none
                failed = error
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            return error, data.count(b"\n", len(data) - len(view))
        return failed, 0

    def _close(self) -> None:
        if self._path is not None:
            os.close(self._fd)


def _open(path: Path | None) -> int:
    if path is None:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        return 1
    try:
        return os.open(path, _FLAGS, _MODE)
    except OSError as error:
        why = f"{path}: {error.strerror}; give a file that can be written"
        raise ConfigError(why, "access_log") from None
