"""Network devices: where IP packets come from and go to.

A stack takes each kind: :class:`FdDevice`, a descriptor that the C pump reads and writes,
:class:`RingDevice`, a session of Wintun, whose rings it works on, or :class:`PacketDevice`, which
trio tasks pump. ``_linux``, ``_macos`` and ``_windows`` (by ``_wintun``) make TUN devices, ``_fd``
takes one that another program has made, ``_memory`` has wires for tests and programs without one.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from ._abc import FdDevice, PacketDevice, RingDevice, WintunRing
    from ._fd import GivenTun, adopt_tun
    from ._macos import UtunControl, UtunDevice, open_utun, utun_name
    from ._memory import MemoryDevice, memory_device_pair
    from ._queue import queue_length_for
    from ._windows import WintunDevice, WintunFile, WintunLibrary, load_wintun, open_wintun

    if sys.platform == "linux":
        from ._linux import TUN_NODE, Offload, TunDevice, open_tun, set_offloads

__all__ = [
    "FdDevice",
    "GivenTun",
    "MemoryDevice",
    "PacketDevice",
    "RingDevice",
    "UtunControl",
    "UtunDevice",
    "WintunDevice",
    "WintunFile",
    "WintunLibrary",
    "WintunRing",
    "adopt_tun",
    "load_wintun",
    "memory_device_pair",
    "open_utun",
    "open_wintun",
    "queue_length_for",
    "utun_name",
]

if sys.platform == "linux":
    __all__ += ["TUN_NODE", "Offload", "TunDevice", "open_tun", "set_offloads"]

if not TYPE_CHECKING:  # type checkers read the imports above
    _names = {
        "_abc": "FdDevice PacketDevice RingDevice WintunRing",
        "_fd": "GivenTun adopt_tun",
        "_macos": "UtunControl UtunDevice open_utun utun_name",
        "_memory": "MemoryDevice memory_device_pair",
        "_queue": "queue_length_for",
        "_windows": "WintunDevice WintunFile WintunLibrary load_wintun open_wintun",
    }
    if sys.platform == "linux":
        _names["_linux"] = "TUN_NODE Offload TunDevice open_tun set_offloads"
    __getattr__ = lazy_names(__name__, _names)
