"""How a session tells its owner that it has output."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Wakeup"]


class Wakeup:
    """Calls the owner once when there is output, and again only after all of it was taken.

    :param enabled: whether output may leave; what comes before that calls nothing.
    :param told: the owner knows already, from the start, that there is output.
    """

    __slots__ = ("_call", "enabled", "told")

    def __init__(self, *, enabled: bool = False, told: bool = False) -> None:
        self._call: Callable[[], None] | None = None
        self.enabled = enabled
        self.told = told

    def attach(self, call: Callable[[], None] | None) -> None:
        """Tell this owner from now on.

        :param call: takes note, and does nothing else; None: the owner asks by itself.
        """
        self._call = call

    def __call__(self) -> None:
        """There is output."""
        if self.enabled and not self.told:
            self.told = True
            if self._call is not None:
                self._call()
