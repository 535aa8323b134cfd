"""Questions that a worker answers under a request id: DNS_QUERY and ECHO (PROTOCOL.md §5)."""

from __future__ import annotations

from collections.abc import Callable

import trio

__all__ = ["Requests"]

_MOST_ID = 2**32 - 1


class _Waiting:
    __slots__ = ("answer", "channel", "task")

    def __init__(self, channel: object) -> None:
        self.channel = channel
        self.answer: bytes | None = None
        self.task: trio.lowlevel.Task | None = None


class Requests:
    """The requests of one kind that are in flight, over all channels."""

    def __init__(self) -> None:
        self._waiting: dict[int, _Waiting] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._waiting)

    async def ask(self, channel: object, send: Callable[[int], bool]) -> bytes | None:
        """Have ``send`` send a request with the id that it is given, and wait for the answer.

        None if ``send`` says that it was not sent, or ``channel`` is lost meanwhile. Cancel to
        give up; a late answer is then ignored.
        """
        identifier = self._last % _MOST_ID + 1
        while identifier in self._waiting:
            identifier = identifier % _MOST_ID + 1
        self._last = identifier
        waiting = self._waiting[identifier] = _Waiting(channel)

        def give_up(_raise_cancel: object) -> trio.lowlevel.Abort:
            waiting.task = None  # it goes on already: an answer in this moment comes too late
            return trio.lowlevel.Abort.SUCCEEDED

        try:
            if not send(identifier):
                return None
            waiting.task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(give_up)
            return waiting.answer
        finally:
            del self._waiting[identifier]

    def answered(self, identifier: int, answer: bytes) -> bool:
        """An answer came; False if nobody waits for it."""
        waiting = self._waiting.get(identifier)
        if waiting is None or waiting.task is None:
            return False
        waiting.answer = answer
        self._resume(waiting)
        return True

    def lost(self, channel: object) -> None:
        """Whoever waits for an answer on this channel gets None."""
        for waiting in self._waiting.values():
            if waiting.channel is channel and waiting.task is not None:
                self._resume(waiting)

    @staticmethod
    def _resume(waiting: _Waiting) -> None:
        task, waiting.task = waiting.task, None
        assert task is not None
        trio.lowlevel.reschedule(task)
