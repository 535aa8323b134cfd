"""What this process may do, asked before anything is begun."""

from __future__ import annotations

import sys
from pathlib import Path

from zks_lwip.errors import PrivilegeError

__all__ = ["check_net_admin"]

_CAP_NET_ADMIN = 12  # linux/capability.h


def check_net_admin(command: str = "connect") -> None:
    """Raise :class:`PrivilegeError` unless this process may change the network (Linux)."""
    if sys.platform != "linux":
        return
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").split("\n"):
        if line.startswith("CapEff:") and not int(line.split()[1], 16) >> _CAP_NET_ADMIN & 1:
            raise PrivilegeError(
                f"{command} needs root or CAP_NET_ADMIN, to change devices and routes: run it "
                "with sudo. `zks-lwip run -- COMMAND` needs neither."
            )
