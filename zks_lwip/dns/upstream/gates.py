"""Waiting for gates: a gate has no event, so one task looks at it for all queries that wait."""

from __future__ import annotations

import trio

from .resolver import Gate

__all__ = ["GateWatcher", "is_open"]

LOOK_INTERVAL = 0.05
"""Seconds between two looks at a gate."""


def is_open(gate: Gate) -> bool:
    """Return whether a gate is up, and something is heard through it."""
    return gate.up and not gate.silent


class GateWatcher:
    """Lets queries wait until a gate is open or hopeless."""

    def __init__(self) -> None:
        self._decided: dict[Gate, trio.Event] = {}

    async def wait(self, nursery: trio.Nursery, gate: Gate, seconds: float) -> None:
        """Wait until ``gate`` is open or hopeless, at most ``seconds``.

        :param nursery: runs the task that looks.
        """
        decided = self._decided.get(gate)
        if decided is None:
            decided = self._decided[gate] = trio.Event()
            nursery.start_soon(self._look, gate, decided)
        with trio.move_on_after(seconds):
            await decided.wait()

    async def _look(self, gate: Gate, decided: trio.Event) -> None:
        while not is_open(gate) and not gate.hopeless and decided.statistics().tasks_waiting:
            await trio.sleep(LOOK_INTERVAL)
        del self._decided[gate]
        decided.set()
