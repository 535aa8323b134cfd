"""The console of Windows: when its window is closed, or the machine ends, there are seconds left.

Ctrl-C and Ctrl-Break come as signals. What else Windows tells of the console, its C library would
take for Ctrl-Break, and the process would be over before the host is as it was.
"""

from __future__ import annotations

import _thread
import ctypes
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = [
    "CTRL_BREAK_EVENT",
    "CTRL_CLOSE_EVENT",
    "CTRL_C_EVENT",
    "CTRL_LOGOFF_EVENT",
    "CTRL_SHUTDOWN_EVENT",
    "ending_console",
    "make_handler",
]

CTRL_C_EVENT, CTRL_BREAK_EVENT, CTRL_CLOSE_EVENT = 0, 1, 2
CTRL_LOGOFF_EVENT, CTRL_SHUTDOWN_EVENT = 5, 6


def make_handler(stop: Callable[[], object], wait: Callable[[], object]) -> Callable[[int], bool]:
    """Return what Windows is to call, in a thread of its own.

    :param stop: has the program end.
    :param wait: returns when it has, or never: when the handler returns, the process is ended.
    """

    def handle(event: int) -> bool:
        if event in (CTRL_CLOSE_EVENT, CTRL_SHUTDOWN_EVENT):
            stop()
            wait()
            return True
        # That any user logs off, services are told: it does not concern us.
        return event == CTRL_LOGOFF_EVENT

    return handle


@contextmanager
def ending_console() -> Iterator[None]:
    """Have the end of the console be a SIGTERM, for the length of a ``with``; nothing elsewhere."""
    if sys.platform != "win32":
        yield
        return
    kernel: Any = ctypes.CDLL("kernel32.dll")
    never = threading.Event()
    handle = make_handler(lambda: _thread.interrupt_main(signal.SIGTERM), never.wait)
    callback = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_uint32)(handle)
    kernel.SetConsoleCtrlHandler(callback, 1)
    try:
        yield
    finally:
        kernel.SetConsoleCtrlHandler(callback, 0)
