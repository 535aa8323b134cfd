"""Network devices: where IP packets come from and go to."""

from __future__ import annotations

import sys

from zks_lwip.device._abc import FdDevice, PacketDevice
from zks_lwip.device._memory import MemoryDevice, memory_device_pair

__all__ = ["FdDevice", "MemoryDevice", "PacketDevice", "memory_device_pair"]

if sys.platform == "linux":
    from zks_lwip.device._linux import Offload, TunDevice, open_tun

    __all__ += ["Offload", "TunDevice", "open_tun"]
