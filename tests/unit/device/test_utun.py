"""The TUN of macOS, whose kernel answers as ordered."""

from __future__ import annotations

import errno
import os
import sys

import pytest

if sys.platform == "win32":
    pytest.skip("descriptors are not Windows'", allow_module_level=True)

from zks_lwip.device import FdDevice, open_utun, utun_name
from zks_lwip.errors import ConfigError, DeviceError, PrivilegeError


class Control:
    """Stands for the kernel's control of utun devices."""

    def __init__(self, *, taken: tuple[int, ...] = (1, 2), fails: dict[str, int] | None = None):
        self.calls: list[tuple[object, ...]] = []
        self.taken = taken
        self.fails = fails or {}
        self.unit = 0
        self.closed = False

    def _fail(self, name: str) -> None:
        if name in self.fails:
            raise OSError(self.fails[name], os.strerror(self.fails[name]))

    def find(self, name: str) -> int:
        self._fail("find")
        self.calls.append(("find", name))
        return 4

    def connect(self, control: int, unit: int) -> None:
        self._fail("connect")
        if unit in self.taken:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        self.calls.append(("connect", control, unit))
        self.unit = unit or max(self.taken) + 1

    def interface(self) -> str:
        self._fail("interface")
        return f"utun{self.unit - 1}"

    def set_mtu(self, interface: str, mtu: int) -> None:
        self._fail("set_mtu")
        self.calls.append(("set_mtu", interface, mtu))

    def detach(self) -> int:
        return os.open(os.devnull, os.O_RDWR)

    def close(self) -> None:
        self.closed = True


def test_the_first_free_number() -> None:
    control = Control()
    with open_utun(mtu=1400, open_control=lambda: control) as device:
        assert (device.name, device.mtu, device.framing) == ("utun2", 1400, "utun")
        assert isinstance(device, FdDevice) and os.fstat(device.fd)
    assert device.fd == -1
    device.close()
    assert control.calls == [
        ("find", "com.apple.net.utun_control"),
        ("connect", 4, 0),
        ("set_mtu", "utun2", 1400),
    ]


def test_a_number_of_ones_own() -> None:
    control = Control()
    with open_utun("utun7", open_control=lambda: control) as device:
        assert device.name == "utun7" and ("connect", 4, 8) in control.calls


def test_a_number_that_is_taken() -> None:
    control = Control()
    with pytest.raises(DeviceError, match="utun1 is taken.*leave its number out"):
        open_utun("utun1", open_control=lambda: control)
    assert control.closed


@pytest.mark.parametrize("where", ["find", "connect", "interface", "set_mtu"])
@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [
        (errno.EPERM, PrivilegeError, "needs root"),
        (errno.ENOMEM, DeviceError, "cannot be made: Cannot allocate"),
    ],
)
def test_whatever_fails_nothing_is_left_open(
    where: str, number: int, kind: type[Exception], message: str
) -> None:
    control = Control(fails={where: number})
    with pytest.raises(kind, match=message):
        open_utun("utun7", open_control=lambda: control)
    assert control.closed


def test_the_control_itself_is_refused() -> None:
    def refuse() -> Control:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    with pytest.raises(PrivilegeError, match="needs root"):
        open_utun(open_control=refuse)


@pytest.mark.parametrize("name", ["zks0", "utun-1", "utun12345", "utunx", "utun 1", "tun0"])
def test_names_that_macos_does_not_have(name: str) -> None:
    with pytest.raises(ConfigError, match="interface"):
        open_utun(name, open_control=Control)


def test_numbers_in_names() -> None:
    assert utun_name("utun") is None and utun_name("utun12") == 12
