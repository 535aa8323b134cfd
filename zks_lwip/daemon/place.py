"""Where the control socket of an instance is, and how long what is said there may be."""

from __future__ import annotations

import sys
from pathlib import Path

from ..net.netns import namespace_id

__all__ = ["MAX_ANSWER", "MAX_LINE", "OVER_LOOPBACK", "control_path"]

MAX_LINE = 65536
"""Bytes of a request."""
MAX_ANSWER = 16 << 20
"""Bytes of an answer."""
OVER_LOOPBACK = sys.platform == "win32"
"""Whether this system has :mod:`.loopback` in place of a socket."""


def control_path(directory: Path, netns: str | None) -> Path:
    """Return the path of the socket of the instance that captures a namespace:
    ``/run/zks_lwip/net-INODE.sock``.

    :param netns: a name of ``ip netns``; None: the namespace of this process.
    :raises ConfigError: there is no such namespace.
    """
    return directory / f"net-{namespace_id(netns)}.sock"
