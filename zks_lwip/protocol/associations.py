"""The UDP associations that are open at a worker, and which of them is ended for another one
(PROTOCOL.md §5)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

__all__ = ["OpenAssociations"]

_NONE: Final[OrderedDict[int, None]] = OrderedDict()
"""What is open in every session that has opened none."""


class OpenAssociations:
    """The open associations of one session, ordered by their last use.

    :param most: see :attr:`most`.
    """

    __slots__ = ("_open", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        """How many may be open at a time."""
        self._open = _NONE  # the least recently used first

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, identifier: int) -> bool:
        return identifier in self._open

    def use(self, identifier: int) -> bool:
        """Note that an association is used; False: it is not open."""
        if identifier not in self._open:
            return False
        self._open.move_to_end(identifier)
        return True

    def use_all(self, identifiers: Iterable[int]) -> bool:
        """Note that associations are used, in this order, up to the first that is not open.

        :returns: False: one is not open.
        """
        for identifier in identifiers:
            if identifier not in self._open:
                return False
            self._open.move_to_end(identifier)
        return True

    def admit(self, identifier: int) -> int | None:
        """Open an association that is not open, where ``most`` is not 0.

        :returns: the least recently used one, if that was ended for it.
        """
        evicted = None
        if len(self._open) >= self.most:
            evicted, _ = self._open.popitem(last=False)
        if self._open is _NONE:
            self._open = OrderedDict()
        self._open[identifier] = None
        return evicted

    def end(self, identifier: int) -> bool:
        """End an association; False: it is not open."""
        return self._open.pop(identifier, 0) is None

    def clear(self) -> None:
        """End all of them."""
        self._open.clear()
