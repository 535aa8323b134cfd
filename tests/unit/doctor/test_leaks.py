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
from zks_lwip.doctor.leaks import examine_leaks


def test_a_kernel_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with ``ipv6.disable=1``: a look at IPv4 alone, and no error."""

    class WithoutIpv6(socket.socket):
        def __init__(self, family: int = -1, *rest: Any, **options: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
            super().__init__(family, *rest, **options)

    monkeypatch.setattr(socket, "socket", WithoutIpv6)
    monkeypatch.setattr(socket, "if_nameindex", list)  # nothing is sent
    told = no_status() | {"state": "connected", "interface": "none", "kill_switch": "strict"}
    found = list(examine_leaks(told))  # type: ignore[arg-type]
    assert len(found) == 2 and all("IPv4" in each.text for each in found), found
