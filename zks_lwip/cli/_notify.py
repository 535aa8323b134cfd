"""Tell systemd how far we are (sd_notify(3)), where it wants to know."""

from __future__ import annotations

import logging
import os
import socket

__all__ = ["notify"]

_log = logging.getLogger(__name__)


def notify(*assignments: str) -> None:
    """Send ``READY=1`` and the like to ``NOTIFY_SOCKET``; without one, do nothing.

    A service manager that cannot be told is a matter for the log, not a reason to stop.
    """
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")) or not hasattr(socket, "AF_UNIX"):
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto("\n".join(assignments).encode(), address)
    except OSError as error:
        _log.warning("the service manager at NOTIFY_SOCKET cannot be told: %s", error.strerror)
