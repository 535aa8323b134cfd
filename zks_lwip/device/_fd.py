"""A TUN device that another program has made, and hands over as a descriptor.

So do Android's VpnService, iOS's NEPacketTunnelProvider, and whatever starts this one with less
privilege than it takes to make a TUN. The one who made it has given it its addresses and routes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import sys
from dataclasses import dataclass
from typing import Literal

from ..errors import ConfigError, DeviceError
from ..net.darwin import SYSPROTO_CONTROL, UTUN_OPT_IFNAME
from .options import DeviceOptions

__all__ = ["GivenTun", "adopt_tun"]

_TUNGETIFF = 0x800454D2  # _IOR('T', 210, unsigned int) of linux/if_tun.h
_TUNGETVNETHDRSZ = 0x800454D7  # _IOR('T', 215, int)
_VNET_HEADER_SIZE = 10
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_IFREQ = struct.Struct("16sH22x")


@dataclass(frozen=True, slots=True)
class GivenTun:
    """A descriptor of a TUN; closing it is its maker's business."""

    fd: int
    """Made non-blocking when the stack takes it."""
    mtu: int
    """Bytes, 1280 to 65535."""
    framing: Literal["raw", "vnet", "utun"]
    """What precedes each packet (:class:`zks_lwip.device.FdDevice`)."""
    name: str = ""
    """Of the interface; empty where the system does not tell."""


def adopt_tun(fd: int, *, mtu: int = 1500) -> GivenTun:
    """Look at a descriptor that was handed over, and say how packets lie on it.

    :param fd: of a TUN: on Linux and Android made without packet information (``IFF_NO_PI``), on
        macOS and iOS a utun.
    :param mtu: of the interface, in bytes, 1280 to 65535.
    :raises ConfigError: the descriptor is not open, or the MTU out of range.
    :raises DeviceError: it is no such device.
    """
    DeviceOptions(mtu=mtu)
    try:
        mode = os.fstat(fd).st_mode
    except (OSError, OverflowError) as error:  # the latter: of a number that is no C int
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"there is no descriptor {fd} ({reason}): start the program with it open, and "
            "not close-on-exec"
        ) from None
    if sys.platform in ("darwin", "ios"):
        return GivenTun(fd, mtu, "utun", _utun(fd, mode))
    name, flags = _tun(fd, mode)
    if not flags & _IFF_TUN or not flags & _IFF_NO_PI:
        what = "it is a TAP" if not flags & _IFF_TUN else "its packets begin with four other bytes"
        raise DeviceError(f"descriptor {fd} ({name}): {what}; make it with IFF_TUN | IFF_NO_PI")
    if not flags & _IFF_VNET_HDR:
        return GivenTun(fd, mtu, "raw", name)
    size = int.from_bytes(fcntl.ioctl(fd, _TUNGETVNETHDRSZ, bytes(4)), sys.byteorder)
    if size != _VNET_HEADER_SIZE:
        raise DeviceError(
            f"descriptor {fd} ({name}): its headers have {size} bytes; set {_VNET_HEADER_SIZE} "
            "(TUNSETVNETHDRSZ), or make it without IFF_VNET_HDR"
        )
    return GivenTun(fd, mtu, "vnet", name)


def _tun(fd: int, mode: int) -> tuple[str, int]:
    """Return the name and the flags of a TUN of Linux."""
    try:
        if not stat.S_ISCHR(mode):
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        name, flags = _IFREQ.unpack(fcntl.ioctl(fd, _TUNGETIFF, bytes(_IFREQ.size)))
    except PermissionError:  # Android before 10 does not tell an app; VpnService makes only these
        return "", _IFF_TUN | _IFF_NO_PI
    except OSError as error:
        raise _no_tun(fd, error) from error
    return name.partition(b"\0")[0].decode(errors="replace"), flags


def _utun(fd: int, mode: int) -> str:
    """Return the name of a utun."""
    import socket

    try:
        if not stat.S_ISSOCK(mode):
            raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
        with socket.socket(fileno=os.dup(fd)) as same:
            name = same.getsockopt(SYSPROTO_CONTROL, UTUN_OPT_IFNAME, 16)
    except OSError as error:
        raise _no_tun(fd, error) from error
    return name.partition(b"\0")[0].decode(errors="replace")


def _no_tun(fd: int, error: OSError) -> DeviceError:
    return DeviceError(f"descriptor {fd} is no TUN device: {error.strerror}")
