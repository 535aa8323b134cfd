"""Network devices: where IP packets come from and go to."""

from __future__ import annotations

import sys

if sys.platform == "linux":
    from zks_lwip.device._linux import Offload, TunDevice, open_tun

    __all__ = ["Offload", "TunDevice", "open_tun"]
