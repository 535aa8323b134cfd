"""Our command line, told from outside to say what cannot be seen from there.

``python -m tests.soak.watched worker ...`` is ``python -m zks_lwip worker ...``; SIGUSR2 has it
print a line of JSON on stderr: the tasks of trio, and the bytes of the C heap that are in use (what
Python, OpenSSL and our own C have from malloc; not Python's arenas of small objects).
"""

from __future__ import annotations

import ctypes
import json
import signal
import sys

import trio

from zks_lwip.__main__ import main

__all__ = ["PREFIX"]

PREFIX = "watched: "


class _Mallinfo2(ctypes.Structure):
    """``struct mallinfo2`` of glibc 2.33 and later."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
        )
    ]


def _heap() -> int:
    """Return the bytes that are in use."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _Mallinfo2
    info = mallinfo2()
    return int(info.uordblks + info.hblkhd)


def _tell(*_: object) -> None:
    """Say it, from the thread that trio runs in."""
    told = {"tasks": trio.lowlevel.current_statistics().tasks_living, "heap": _heap()}
    print(PREFIX + json.dumps(told), file=sys.stderr, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR2, _tell)
    main(prog_name="python -m zks_lwip")
