"""Runs of UDP frames, handled many at a time (PROTOCOL.md §5): found in a message, cut, read.

A run is whole UDP frames, back to back, for IP literals. C looks through it; a Python object for
each datagram is made only by who iterates over :class:`~.events.DatagramsReceived`.
"""

from __future__ import annotations

import functools
from typing import Any

from .events import DatagramsReceived
from .frames import Buffer

__all__ = ["MAX_RUN_ASSOCIATIONS", "MAX_RUN_FRAMES", "RunScanner", "cut_frames"]

MAX_RUN_FRAMES = 256
"""Frames of a run that was found in a message: what follows is another one."""
MAX_RUN_ASSOCIATIONS = 64
"""Associations that the frames of a run are of."""


@functools.cache
def _native() -> tuple[Any, Any]:
    """Load the compiled part when it is needed: what reads options imports this package, too."""
    from .._lwip import ffi, lib

    return ffi, lib


class RunScanner:
    """Finds runs in one message. Not for use by two threads at a time."""

    def __init__(self, message: memoryview) -> None:
        self._ffi, self._lib = ffi, _ = _native()
        self._message = message
        self._ids = ffi.new("uint32_t[]", MAX_RUN_ASSOCIATIONS)
        self._run = ffi.new("struct zks_udp_run *")

    def run_at(
        self, position: int, associations: int = MAX_RUN_ASSOCIATIONS
    ) -> DatagramsReceived | None:
        """Return the run that begins at ``position``.

        :param associations: that it may have, 1 to 64.
        :returns: None: no sound UDP frame for an IP literal is there.
        """
        run = self._run
        size = len(self._message) - position
        # (Kept in the object, it might be collected after its memoryview, which breaks.)
        message = self._ffi.from_buffer("uint8_t[]", self._message)
        if not self._lib.zks_udp_scan(
            message + position, size, MAX_RUN_FRAMES, self._ids, associations, run
        ):
            return None
        return DatagramsReceived(
            self._message[position : position + run.size],
            run.frames,
            run.payload,
            tuple(self._ffi.unpack(self._ids, run.associations)),
        )


def cut_frames(frames: Buffer, size: int, *, at_least: bool = False) -> tuple[int, int]:
    """Return how many bytes the first frames of a run have, and their number.

    :param size: the bytes that they may have; ``at_least``: that they have to have.
    """
    ffi, lib = _native()
    count = ffi.new("uint32_t *")
    bytes_ = ffi.from_buffer("uint8_t[]", frames)
    length = lib.zks_udp_cut(bytes_, len(frames), size, at_least, count)
    return length, count[0]
