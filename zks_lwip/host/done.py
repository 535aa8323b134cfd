"""The steps of a host that have been done: what is undone at its end, or by ``recover``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from .apply import undo_all
from .journal import Journal, JournalError
from .plan.step import Step

__all__ = ["DoneSteps"]

_log = logging.getLogger(__name__)


class DoneSteps:
    """Steps in the order in which they were done, each once, as the journal has them.

    Not for use by two threads at a time.
    """

    def __init__(self) -> None:
        self._journal: Journal | None = None
        self._unwritten = False  # something that is not in the journal was done
        self._steps: list[Step] = []

    @property
    def journaled(self) -> bool:
        """The journal is open."""
        return self._journal is not None

    @property
    def remain(self) -> bool:
        """Something may be left for ``recover``."""
        return self._journal is not None or bool(self._steps)

    def open_journal(
        self, directory: Path, inode: int, cookie: int, *, netns: str | None, tun: str
    ) -> None:
        """Have steps written down before they are done; see :class:`~.journal.Journal`.

        :raises HostError: another instance lives in this namespace.
        :raises JournalError: there can be no journal.
        """
        journal = Journal(directory, inode, cookie)
        try:
            journal.begin(netns, tun)
        except JournalError:
            journal.close()
            raise
        self._journal = journal

    def add(self, step: Step) -> bool:
        """Note a step that is about to be done, to be undone at the end.

        :returns: whether that is new.
        :raises JournalError: it cannot be written down, and must not be done without.
        """
        step = step.recorded()
        if step in self._steps:
            return False
        try:
            if self._journal is not None:  # without one, only what closes is done
                self._journal.append(step)
        except JournalError as error:
            if step.in_journal_only:
                raise
            # What bears our name, or vanishes with the TUN, is found without a journal.
            if not self._unwritten:
                self._unwritten = True
                _log.error("%s; `recover` will look for what is not in it", error)
        self._steps.append(step)
        return True

    def remove(self, step: Step) -> None:
        """Note that a step was not done after all: there is nothing to undo."""
        self._steps.remove(step.recorded())

    def undo_all(self, undo: Callable[[Step], None]) -> list[str]:
        """Undo all, the last one first, then what an instance that died has left in the journal.

        Without a journal nothing is: another instance may hold it.

        :returns: what could not be undone, and why.
        """
        if self._journal is None:
            return []
        record = self._journal.record
        old = () if record is None else record.steps
        return undo_all([*old, *self._steps], undo)

    def close_journal(self, *, keep: bool) -> None:
        """Close the journal, if there is one.

        :param keep: leave what it says for ``recover``; otherwise it is emptied.
        """
        journal, self._journal = self._journal, None
        if journal is None:
            return
        if keep:
            journal.close()
        else:
            journal.finish()
