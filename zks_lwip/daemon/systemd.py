"""systemd's side of a service: its state told (sd_notify(3)), its sockets taken over
(sd_listen_fds(3))."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time

from ..errors import ConfigError

__all__ = ["notify", "notify_reloading", "take_sockets"]

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


def notify_reloading() -> None:
    """Say that settings are read again; ``READY=1`` has to follow (``Type=notify-reload``)."""
    if sys.platform != "win32":
        usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        notify("RELOADING=1", f"MONOTONIC_USEC={usec}")


_FIRST = 3  # SD_LISTEN_FDS_START
_MAX_SOCKETS = 256


def take_sockets() -> list[tuple[int, str]]:
    """Return the descriptors of sockets that the service manager has opened for this process.

    Children of this process do not take them for theirs: the variables are removed.

    :returns: each with its name, which is empty where it has none.
    :raises ConfigError: the variables are not as they should be.
    """
    values = [os.environ.pop(f"LISTEN_{name}", "") for name in ("PID", "FDS", "FDNAMES")]
    pid, count, names = values
    if not pid or not count or pid != str(os.getpid()):
        return []
    if not (count.isascii() and count.isdigit() and int(count) <= _MAX_SOCKETS):
        raise ConfigError(f"LISTEN_FDS is {count!r}: a number of sockets was expected")
    fds = range(_FIRST, _FIRST + int(count))
    for fd in fds:
        os.set_inheritable(fd, False)
    split = names.split(":") if names else []
    named = [*split, *[""] * len(fds)]
    return [(fd, "" if name == "unknown" else name) for fd, name in zip(fds, named, strict=False)]
