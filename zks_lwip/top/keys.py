"""Single keys of a terminal, or of the console of Windows."""

from __future__ import annotations

import os
import re
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["ESCAPE", "ReadKey", "keys"]

ESCAPE = "\x1b"
ReadKey = Callable[[float], str]
"""Waits so many seconds for a key; returns it, or an empty text."""

_ARROWS = {"\x1b[A": "k", "\x1b[B": "j", "\x1bOA": "k", "\x1bOB": "j"}
_SEQUENCE = re.compile(r"\x1b[\[O][0-9;]*[A-Za-z~]")
"""Keys such as F5 or Home."""

if sys.platform == "win32":
    import msvcrt

    _LOOK = 0.05
    _CONSOLE_ARROWS = {"H": "k", "P": "j"}

    @contextmanager
    def keys() -> Iterator[ReadKey]:
        """Read single keys for the length of a ``with``."""

        def read_key(seconds: float) -> str:
            end = time.monotonic() + seconds
            while not msvcrt.kbhit():
                if time.monotonic() >= end:
                    return ""
                time.sleep(_LOOK)
            key = msvcrt.getwch()
            if key in "\0\xe0":  # an arrow, F5, Home: what follows says which
                return _CONSOLE_ARROWS.get(msvcrt.getwch(), "")
            return key

        yield read_key

else:
    import termios
    import tty

    @contextmanager
    def keys() -> Iterator[ReadKey]:
        """Read single keys for the length of a ``with``; at the end of the terminal ``q`` comes."""
        fd = sys.stdin.fileno()
        before = termios.tcgetattr(fd)
        waiting: list[str] = []

        def read_key(seconds: float) -> str:
            if not waiting:
                if not select.select([fd], [], [], seconds)[0]:
                    return ""
                try:
                    text = os.read(fd, 64).decode(errors="replace")
                except OSError:
                    return "q"  # the terminal has gone
                if not text:
                    return "q"
                for arrow, letter in _ARROWS.items():
                    text = text.replace(arrow, letter)
                waiting.extend(_SEQUENCE.sub("", text))  # other keys mean nothing here
            return waiting.pop(0) if waiting else ""

        tty.setcbreak(fd)
        try:
            yield read_key
        finally:
            termios.tcsetattr(fd, termios.TCSADRAIN, before)
