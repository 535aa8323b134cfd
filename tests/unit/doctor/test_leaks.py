"""What ``doctor`` says of leaks on a kernel that lacks something."""

from __future__ import annotations

import errno
import os
import socket
import sys
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("Linux only", allow_module_level=True)

from zks_lwip.daemon import no_status
from zks_lwip.doctor import leaks


def test_a_kernel_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with ``ipv6.disable=1``: a look at IPv4 alone, and no error."""
    made = socket.socket

    def without_ipv6(family: int = -1, *rest: Any, **options: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        return made(family, *rest, **options)

    monkeypatch.setattr(leaks.socket, "socket", without_ipv6)
    monkeypatch.setattr(leaks.socket, "if_nameindex", list)  # nothing is sent
    monkeypatch.setattr(leaks, "_addresses", lambda interface: set())
    told = no_status() | {"state": "connected", "interface": "zks0", "kill_switch": "strict"}
    found = list(leaks.examine_leaks(told))  # type: ignore[arg-type]
    assert len(found) == 2 and all("IPv4" in each.text for each in found), found
