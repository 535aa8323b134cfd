"""One task at a time, as trio's streams promise."""

from __future__ import annotations

from types import TracebackType

import trio

__all__ = ["ConflictDetector"]


class ConflictDetector:
    """A context that only one task may be in; a second one gets :exc:`trio.BusyResourceError`."""

    __slots__ = ("_busy", "_message")

    def __init__(self, message: str) -> None:
        self._busy = False
        self._message = message

    def __enter__(self) -> None:
        if self._busy:
            raise trio.BusyResourceError(self._message)
        self._busy = True

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._busy = False
