"""TUN devices of Linux (Documentation/networking/tuntap.rst).

Only what makes a device: name, MTU, queue length, offloads, a non-blocking descriptor. Addresses,
routes and "up" are the business of :mod:`zks_lwip.host`.
"""

from __future__ import annotations

import enum
import errno
import fcntl
import os
import platform
import socket
import struct
from dataclasses import dataclass, field
from typing import Literal

from ..errors import DeviceError, PrivilegeError
from ..net.netns import run_in_netns
from ._queue import queue_length_for
from .options import DeviceOptions

__all__ = ["TUN_NODE", "Offload", "TunDevice", "open_tun", "set_offloads"]

TUN_NODE = "/dev/net/tun"
"""The character device that makes TUN devices."""
VNET_HEADER_SIZE = 10
"""Bytes of ``struct virtio_net_hdr``, without ``num_buffers``."""


class Offload(enum.IntFlag):
    """What the kernel may leave undone in the packets it gives (linux/if_tun.h, ``TUN_F_``)."""

    NONE = 0
    CSUM = 0x01
    """Checksums of TCP and UDP."""
    TSO4 = 0x02
    """Segmentation of TCP over IPv4."""
    TSO6 = 0x04
    """Segmentation of TCP over IPv6."""
    TSO_ECN = 0x08
    """Segmentation of TCP with ECN (RFC 3168)."""
    USO4 = 0x20
    """Cutting of what a program sends as several UDP datagrams at once, over IPv4 (Linux 6.2)."""
    USO6 = 0x40
    """The same over IPv6; the kernel grants both or neither."""


TCP_OFFLOADS = Offload.CSUM | Offload.TSO4 | Offload.TSO6 | Offload.TSO_ECN
ALL_OFFLOADS = TCP_OFFLOADS | Offload.USO4 | Offload.USO6

_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
# Refuse a device that exists, instead of joining it.
_IFF_TUN_EXCL = 0x8000
_SIOCSIFMTU = 0x8922
_SIOCSIFTXQLEN = 0x8943


def _iow(number: int, size: int) -> int:
    """Return ``_IOW('T', number, size)`` (asm/ioctl.h).

    Some architectures number the direction differently.
    """
    write = 4 << 29 if platform.machine().startswith(("mips", "ppc", "sparc", "alpha")) else 1 << 30
    return write | size << 16 | ord("T") << 8 | number


_TUNSETIFF = _iow(202, 4)
_TUNSETOFFLOAD = _iow(208, 4)
_TUNSETVNETHDRSZ = _iow(216, 4)


@dataclass(slots=True)
class TunDevice:
    """An open TUN device; it vanishes from the system when closed.

    Every read gives one IP packet, every write takes one; with ``vnet_hdr`` each is preceded by a
    ``virtio_net_hdr`` of :attr:`vnet_header_size` bytes in the byte order of the machine.
    """

    fd: int
    """Non-blocking, close-on-exec; -1 once closed."""
    name: str
    """The name of the interface."""
    mtu: int
    """Bytes, 1280 to 65535."""
    vnet_hdr: bool = False
    """Packets carry a ``virtio_net_hdr``, in both directions."""
    offloads: Offload = Offload.NONE
    """What is left undone in packets from the kernel; NONE without ``vnet_hdr``."""
    vnet_header_size: int = field(default=0)
    """Bytes of that header; 0 without ``vnet_hdr``."""

    @property
    def framing(self) -> Literal["raw", "vnet"]:
        """How packets lie on the descriptor (:class:`zks_lwip.device.FdDevice`)."""
        return "vnet" if self.vnet_hdr else "raw"

    @property
    def cuts_datagrams(self) -> bool:
        """The kernel takes packets that are several UDP datagrams, and gives such ones."""
        return Offload.USO4 in self.offloads

    def close(self) -> None:
        """Close the descriptor, and so remove the interface; twice is harmless."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> TunDevice:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def open_tun(
    name: str = "zks0",
    *,
    mtu: int = 1500,
    netns: str | None = None,
    vnet_hdr: bool = False,
    queue_length: int | None = None,
    node: str = TUN_NODE,
) -> TunDevice:
    """Make a TUN device, down and without addresses, in a network namespace.

    :param name: of the interface: 1 to 15 letters, digits, ``-``, ``_`` or ``.``.
    :param mtu: bytes, 1280 to 65535.
    :param netns: a name of ``ip netns``, a path, or None: the caller's own.
    :param vnet_hdr: exchange packets with offloads. Those that the kernel does not know are left
        out (see :attr:`TunDevice.offloads`).
    :param queue_length: packets; None: enough for a burst.
    :param node: the character device to open.
    :raises ConfigError: name or MTU cannot be used.
    :raises PrivilegeError: CAP_NET_ADMIN is missing, or the node may not be opened.
    :raises DeviceError: no such node, the name is taken, or the kernel refuses for another reason.
    """
    DeviceOptions(tun=name, mtu=mtu)
    queue_length = queue_length_for(mtu) if queue_length is None else queue_length
    return run_in_netns(netns, _open_here, name, mtu, vnet_hdr, queue_length, node)


def _open_here(name: str, mtu: int, vnet_hdr: bool, queue_length: int, node: str) -> TunDevice:
    # The device is born in the namespace of the thread that opens the node, not of the one that
    # names it.
    try:
        fd = os.open(node, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _explain_open(node, error) from error
    device = TunDevice(fd, name, mtu)
    try:
        _create(device, vnet_hdr)
        _tune(device, queue_length)
    except BaseException:
        device.close()
        raise
    return device


def _create(device: TunDevice, vnet_hdr: bool) -> None:
    flags = _IFF_TUN | _IFF_NO_PI | _IFF_TUN_EXCL | (_IFF_VNET_HDR if vnet_hdr else 0)
    request = struct.pack("16sH22x", device.name.encode(), flags)
    try:
        fcntl.ioctl(device.fd, _TUNSETIFF, request)
    except OSError as error:
        raise _explain_create(device.name, error) from error
    if vnet_hdr:
        set_offloads(device)


def set_offloads(device: TunDevice) -> None:
    """Ask the kernel for offloads on a device made with ``IFF_VNET_HDR``; record what it granted.

    :raises DeviceError: the kernel refuses even none.
    """
    try:
        fcntl.ioctl(device.fd, _TUNSETVNETHDRSZ, struct.pack("i", VNET_HEADER_SIZE))
        device.vnet_hdr = True
        device.vnet_header_size = VNET_HEADER_SIZE
        for offloads in (ALL_OFFLOADS, TCP_OFFLOADS, Offload.CSUM, Offload.NONE):
            try:
                fcntl.ioctl(device.fd, _TUNSETOFFLOAD, int(offloads))
            except OSError as error:
                if error.errno != errno.EINVAL or offloads is Offload.NONE:
                    raise
            else:
                device.offloads = offloads
                return
    except OSError as error:
        raise DeviceError(f"cannot set the offloads of {device.name}: {error.strerror}") from error


def _tune(device: TunDevice, queue_length: int) -> None:
    settings = ((_SIOCSIFMTU, "MTU", device.mtu), (_SIOCSIFTXQLEN, "queue length", queue_length))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for request, what, value in settings:
            try:
                fcntl.ioctl(control, request, struct.pack("16si20x", device.name.encode(), value))
            except OSError as error:
                raise DeviceError(
                    f"cannot set the {what} of {device.name} to {value}: {error.strerror}"
                ) from error


def _explain_open(node: str, error: OSError) -> DeviceError | PrivilegeError:
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return DeviceError(
            f"{node} is not there ({error.strerror}): load the module (`modprobe tun`); in a "
            "container pass the device "
            "(`--device /dev/net/tun`)"
        )
    if error.errno == errno.EACCES:
        return PrivilegeError(
            f"{node} may not be opened ({error.strerror}): run it as root, or make the node usable "
            "for everybody, as "
            f"distributions do (`chmod 0666 {node}`)"
        )
    if error.errno == errno.EPERM:
        return PrivilegeError(
            f"{node} may not be opened ({error.strerror}): the container's device list forbids it; "
            "start it with "
            "`--device /dev/net/tun`"
        )
    return DeviceError(f"cannot open {node}: {error.strerror}")


def _explain_create(name: str, error: OSError) -> DeviceError | PrivilegeError:
    if error.errno in (errno.EBUSY, errno.EEXIST):
        return DeviceError(
            f"the interface name {name} is taken: is another instance running? (`ip link show "
            f"{name}`; "
            "another name with `tun` NAME)"
        )
    if error.errno == errno.EPERM:
        return PrivilegeError(
            f"the interface {name} may not be made ({error.strerror}): that needs root or "
            "CAP_NET_ADMIN (in a "
            "container `--cap-add NET_ADMIN`); `run -- COMMAND` needs neither"
        )
    if error.errno == errno.EINVAL:
        # An interface of another kind has the name already (the kernel looks for a TUN of that name
        # first).
        return DeviceError(
            f"the interface {name} cannot be made: is the name taken? (`ip link show {name}`)"
        )
    return DeviceError(f"the interface {name} cannot be made: {error.strerror}")
