"""Small helpers of the whole package: conflicts, groups of exceptions, values of options, files,
this interpreter, text, empty queues.
"""

from __future__ import annotations

import enum
import errno
import os
import re
import stat
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, BinaryIO, Final, TypeVar

from .errors import ConfigError, ZksError

__all__ = [
    "EMPTY",
    "ConflictDetector",
    "choice",
    "leaves",
    "one_line",
    "open_file",
    "program",
    "single_error",
]

# `-m` would look in the working directory first, which any user may write to, and we may be root.
_RUN = (
    "import os, runpy, sys; "
    "sys.path[:] = sys.argv.pop(1).split(os.pathsep); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)

EMPTY: Final[deque[Any]] = deque(maxlen=0)
"""What a queue is while nothing waits in it: a deque of its own takes 760 bytes even then. Replace
it by one before something is appended; it takes nothing itself."""

_GIVEN = re.compile(r"/dev/(stdin|fd/[0-9]+)|/proc/(self|[0-9]+)/fd/[0-9]+")
_KINDS = ((stat.S_ISFIFO, "named pipe"), (stat.S_ISSOCK, "socket"))

_MAX_LINE = 200
"""Characters of a peer that :func:`one_line` keeps."""


class ConflictDetector:
    """A context that only one task may be in; a second one gets :exc:`trio.BusyResourceError`."""

    __slots__ = ("_busy", "_message")

    def __init__(self, message: str) -> None:
        self._busy = False
        self._message = message

    def __enter__(self) -> None:
        if self._busy:
            import trio  # here: the command line has its first words to say without it

            raise trio.BusyResourceError(self._message)
        self._busy = True

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._busy = False


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions that a (nested) group holds, or the error itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


_Choice = TypeVar("_Choice", bound=enum.Enum)


def choice(kind: type[_Choice], value: _Choice | str, option: str) -> _Choice:
    """Return a member of an enumeration that is given as such, or by its value.

    :param option: named in the error.
    :raises ConfigError: there is none.
    """
    try:
        return kind(value)
    except ValueError:
        values = [str(each.value) for each in kind]
        known = f"{', '.join(values[:-1])} or {values[-1]}"
        raise ConfigError(f"{value!r} is not known: give {known}.", option) from None


@contextmanager
def single_error() -> Iterator[list[BaseException]]:
    """Raise the first of the errors in a group, if all of them are ours or there is but one.

    A group with anything else in it (a bug, a cancellation, a Ctrl-C) is left as it is.

    Yield a list, for what a caller's block raises: where there is nothing else, that is raised as
    it was, also a group.
    """
    bodies: list[BaseException] = []
    try:
        yield bodies
    except BaseExceptionGroup as group:
        errors = list(leaves(group))
        for body in bodies:
            # Trio makes new groups on the way; what is in them stays the same.
            known = {id(error) for error in leaves(body)}
            if all(id(error) in known for error in errors):
                raise body from body.__cause__
        if len(errors) == 1 or all(isinstance(error, ZksError) for error in errors):
            first = errors[0]
            # The group is not the cause of the error, only how it travelled.
            raise first from first.__cause__
        raise


def open_file(path: str | os.PathLike[str], *, given: bool = False) -> BinaryIO:
    """Open a regular file, or the null device, to be read; never waits for the writer of a pipe.

    :param given: what this process was given as a descriptor (``/dev/stdin``, ``/dev/fd/N``, a
        shell's ``<(...)``) may be a pipe or a terminal, too. It can be read once only.
    :raises OSError: it cannot be opened, or is something else.
    """
    if sys.platform == "win32":  # there is nothing of the kind among its files
        return open(path, "rb")
    anything = given and _GIVEN.fullmatch(os.path.abspath(path)) is not None
    if not anything:
        _check_regular(path, os.stat(path))
    file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115  # the caller's to close
    try:
        if anything:
            os.set_blocking(file.fileno(), True)
        else:
            _check_regular(path, os.fstat(file.fileno()))
    except BaseException:
        file.close()
        raise
    return file


def _check_regular(path: str | os.PathLike[str], status: os.stat_result) -> None:
    """Refuse what a read could wait for; with the words of a system's error."""
    mode = status.st_mode
    if stat.S_ISREG(mode):
        return
    with suppress(OSError):  # there is none
        if os.path.samestat(status, os.stat(os.devnull)):
            return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    kind = next((name for holds, name in _KINDS if holds(mode)), "device")
    raise OSError(errno.EINVAL, f"it is a {kind}, no regular file", os.fspath(path))


def _open_at_once(path: str, flags: int) -> int:
    if sys.platform != "win32":
        flags |= os.O_NONBLOCK | os.O_NOCTTY
    return os.open(path, flags)


def program(module: str, *, executable: str = "") -> list[str]:
    """Return the command that runs ``module`` with the module path of this process, no other.

    :param executable: of Python; empty: the one of this process.
    """
    return [executable or sys.executable, "-P", "-c", _RUN, os.pathsep.join(sys.path), module]


def one_line(text: str) -> str:
    """Return at most 200 printable characters of a peer's text, fit for a log or a terminal.

    Others (line ends, escapes, marks of direction) become "?".
    """
    shown = text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)
    return shown if len(shown) <= _MAX_LINE else shown[: _MAX_LINE - 1] + "…"
