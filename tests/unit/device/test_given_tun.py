"""A descriptor that was handed over, and is no TUN."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("descriptors are not Windows'", allow_module_level=True)

from zks_lwip.device import FdDevice, GivenTun, adopt_tun
from zks_lwip.errors import ConfigError, DeviceError


def test_what_is_no_tun(tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb") as file, socket.socket() as sock, open(os.devnull) as null:
        for fd in (file.fileno(), sock.fileno(), null.fileno()):
            with pytest.raises(DeviceError, match=f"descriptor {fd} is no TUN device: "):
                adopt_tun(fd)


@pytest.mark.parametrize("fd", [1048575, -1, 1 << 40])
def test_what_is_not_open(fd: int) -> None:
    with pytest.raises(ConfigError, match=f"there is no descriptor {fd} .*not close-on-exec"):
        adopt_tun(fd)


def test_an_mtu_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="out of range"):
        adopt_tun(0, mtu=500)


def test_it_is_a_device() -> None:
    assert isinstance(GivenTun(5, 1400, "raw"), FdDevice)
