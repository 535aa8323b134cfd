"""TUN devices of macOS: a utun is a socket of the kernel's own control for them.

Only what makes a device: number, MTU, a non-blocking descriptor. Addresses and routes are the
business of :mod:`zks_lwip.host`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from ..errors import ConfigError, DeviceError, PrivilegeError
from ..net.darwin import (
    AF_SYSTEM,
    CTL_INFO,
    CTLIOCGINFO,
    IFREQ_MTU,
    SIOCSIFMTU,
    SYSPROTO_CONTROL,
    UTUN_CONTROL_NAME,
    UTUN_OPT_IFNAME,
)
from .options import DeviceOptions

__all__ = ["UtunControl", "UtunDevice", "open_utun", "utun_name"]

_NAME = re.compile(r"utun([0-9]{0,4})\Z")


@dataclass(slots=True)
class UtunDevice:
    """An open utun; it vanishes from the system when closed.

    Every read gives one IP packet, every write takes one, each behind its address family.
    """

    fd: int
    """Non-blocking, close-on-exec; -1 once closed."""
    name: str
    """The name of the interface, such as ``utun5``."""
    mtu: int
    """Bytes, 1280 to 65535."""

    @property
    def framing(self) -> Literal["utun"]:
        """How packets lie on the descriptor (:class:`zks_lwip.device.FdDevice`)."""
        return "utun"

    def close(self) -> None:
        """Close the descriptor, and so remove the interface; twice is harmless."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> UtunDevice:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class UtunControl(Protocol):
    """A socket of the kernel's control for utun devices. Each method may raise OSError."""

    def find(self, name: str) -> int:
        """Return the number of the kernel control of a name."""
        ...

    def connect(self, control: int, unit: int) -> None:
        """Make the device.

        :param unit: of the device, one more than the number in its name; 0: the first free one.
        """
        ...

    def interface(self) -> str:
        """Return the name of the device's interface."""
        ...

    def set_mtu(self, interface: str, mtu: int) -> None:
        """Set an interface's MTU."""
        ...

    def detach(self) -> int:
        """Give the descriptor away."""
        ...

    def close(self) -> None:
        """Close what has not been given away."""
        ...


class _Control:
    """The kernel's."""

    def __init__(self) -> None:
        self._socket = socket.socket(AF_SYSTEM, socket.SOCK_DGRAM, SYSPROTO_CONTROL)
        self._socket.setblocking(False)

    def find(self, name: str) -> int:
        info = fcntl.ioctl(self._socket, CTLIOCGINFO, CTL_INFO.pack(0, name.encode()))
        return int(CTL_INFO.unpack(info)[0])

    def connect(self, control: int, unit: int) -> None:
        self._socket.connect((control, unit))

    def interface(self) -> str:
        name = self._socket.getsockopt(SYSPROTO_CONTROL, UTUN_OPT_IFNAME, 16)
        return name.partition(b"\0")[0].decode()

    def set_mtu(self, interface: str, mtu: int) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, SIOCSIFMTU, IFREQ_MTU.pack(interface.encode(), mtu))

    def detach(self) -> int:
        return self._socket.detach()

    def close(self) -> None:
        self._socket.close()


def utun_name(name: str) -> int | None:
    """Return the number in the name of a utun; None: ``utun``, the first free one.

    :raises ConfigError: it is no such name.
    """
    match = _NAME.match(name)
    if match is None:
        raise ConfigError(
            f"{name!r} cannot be an interface on macOS: give utun, or utun with a number", "tun"
        )
    return int(match[1]) if match[1] else None


def open_utun(
    name: str = "utun", *, mtu: int = 1500, open_control: Callable[[], UtunControl] = _Control
) -> UtunDevice:
    """Make a utun, without addresses.

    :param name: ``utun`` with its number, or without: the first free one.
    :param mtu: bytes, 1280 to 65535.
    :param open_control: opens the socket that becomes the device.
    :raises ConfigError: name or MTU cannot be used.
    :raises PrivilegeError: this is not root.
    :raises DeviceError: the number is taken, or the kernel refuses for another reason.
    """
    DeviceOptions(tun=name, mtu=mtu)
    number = utun_name(name)
    control = None
    try:
        control = open_control()
        control.connect(control.find(UTUN_CONTROL_NAME), 0 if number is None else number + 1)
        made = control.interface()
        control.set_mtu(made, mtu)
        return UtunDevice(control.detach(), made, mtu)
    except OSError as error:
        raise _explain(name, error) from error
    finally:
        if control is not None:
            control.close()


def _explain(name: str, error: OSError) -> DeviceError | PrivilegeError:
    if error.errno in (errno.EBUSY, errno.EADDRINUSE):
        return DeviceError(
            f"the interface {name} is taken, by another VPN perhaps (`ifconfig {name}`); leave its "
            "number out (`tun` utun) and a free one is found"
        )
    if error.errno in (errno.EPERM, errno.EACCES):
        return PrivilegeError(
            f"the interface {name} may not be made ({error.strerror}): that needs root"
        )
    return DeviceError(f"the interface {name} cannot be made: {error.strerror}")
