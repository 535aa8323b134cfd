"""Network devices: where IP packets come from and go to.

A stack takes either kind: :class:`FdDevice`, a descriptor that the C pump reads and writes, or
:class:`PacketDevice`, which trio tasks pump. ``_linux`` makes TUN devices, ``_memory`` wires for
tests and programs that have no device.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from .._util import lazy_names

if TYPE_CHECKING:
    from ._abc import FdDevice, PacketDevice
    from ._memory import MemoryDevice, memory_device_pair
    from ._queue import queue_length_for

    if sys.platform == "linux":
        from ._linux import TUN_NODE, Offload, TunDevice, open_tun, set_offloads

__all__ = ["FdDevice", "MemoryDevice", "PacketDevice", "memory_device_pair", "queue_length_for"]

if sys.platform == "linux":
    __all__ += ["TUN_NODE", "Offload", "TunDevice", "open_tun", "set_offloads"]

if not TYPE_CHECKING:  # type checkers read the imports above
    _names = {
        "_abc": "FdDevice PacketDevice",
        "_memory": "MemoryDevice memory_device_pair",
        "_queue": "queue_length_for",
    }
    if sys.platform == "linux":
        _names["_linux"] = "TUN_NODE Offload TunDevice open_tun set_offloads"
    __getattr__ = lazy_names(__name__, _names)
