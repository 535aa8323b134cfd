"""Has a process of Python tell what cannot be seen from outside.

Python imports this at its start where the folder is in PYTHONPATH, also in the processes that ours
starts. SIGUSR2 then has it print a line of JSON on stderr: its id, the tasks of trio, and the bytes
of the C heap that are in use (what Python, OpenSSL and our own C have from malloc; not Python's
arenas of small objects).
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys

_PREFIX = "watched: "


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
    import trio  # here: this runs before the process has its module path

    tasks = trio.lowlevel.current_statistics().tasks_living
    told = {"pid": os.getpid(), "tasks": tasks, "heap": _heap()}
    # In one piece: several processes write to the same pipe.
    sys.stderr.write(f"{_PREFIX}{json.dumps(told)}\n")
    sys.stderr.flush()


signal.signal(signal.SIGUSR2, _tell)
