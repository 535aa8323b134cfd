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
from zks_lwip.doctor.finding import Level
from zks_lwip.doctor.leaks import examine_leaks


@pytest.mark.parametrize("state", ["dead-closed", "dead-open"])
def test_what_an_instance_that_died_has_left_is_said_once(state: str) -> None:
    """The problem of a status says what to do, too."""
    problem = "it is so. Start `connect` again, or open it with `zks-lwip recover`."
    told = no_status() | {"state": state, "problem": problem}
    (finding,) = examine_leaks(told)  # type: ignore[arg-type]
    assert finding.level is Level.FAILURE and finding.text == "it is so"
    assert finding.remedy == "start `connect` again, or open it with `zks-lwip recover`."


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
