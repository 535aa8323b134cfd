"""The folder of journals, the control socket and logs: for root, or for administrators, alone."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["make_state_directory"]


def make_state_directory(directory: Path) -> None:
    """Make the folder, closed to others, unless it is there.

    :raises OSError: it cannot be made.
    :raises HostError: on Windows, it is there and another user's.
    """
    if sys.platform == "win32":
        import ctypes

        from .windows.security import Security

        kernel = ctypes.CDLL("kernel32.dll", use_last_error=True)
        advapi = ctypes.CDLL("advapi32.dll", use_last_error=True)
        Security(kernel, advapi).make_directory(directory)
    else:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
