"""Memory into which something is received, and out of which it is copied or sent on at once."""

from __future__ import annotations

import threading

__all__ = ["Scratch"]


class Scratch(threading.local):
    """One piece of memory for all of a thread, which holds nothing across an ``await``.

    Two threads, each with its trio, share none: a call that fills it lets the other one run.

    :param size: bytes.
    """

    def __init__(self, size: int) -> None:
        self.view = memoryview(bytearray(size))
