"""The composition: device, host, stack, gateway, DNS and tunnel, put together by :func:`open_vpn`.

- ``open`` brings the parts about, and ``join`` joins them to a :class:`Vpn` (``vpn``), which tells
  of itself (``stats``) and opens what a program asks for (``streams``); :func:`run_command`
  (``command``) runs one behind it.
- ``running_proxy`` joins a proxy and a tunnel, without any of the others.
- ``local_end``: where packets come from, a device that is given or the host (``capture``), whose
  firewall lets ``allowed_addresses`` out; ``lookups`` finds addresses of names meanwhile.
- ``worker_end``: the worker elsewhere, or one of our own (``embedded_worker``), whose process
  (``worker_process``) may begin before all else.
- ``roaming`` moves the tunnel with the network; ``loop_detector`` finds its packets in itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from .capture import Capture
    from .command import run_command
    from .local_end import OnCaptured
    from .open import open_vpn
    from .running_proxy import RunningProxy, open_proxy
    from .stats import SessionInfo, VpnState, VpnStats, WorkerInfo
    from .streams import VpnTcpStream, VpnUdpSocket
    from .vpn import Vpn

__all__ = [
    "Capture",
    "OnCaptured",
    "RunningProxy",
    "SessionInfo",
    "Vpn",
    "VpnState",
    "VpnStats",
    "VpnTcpStream",
    "VpnUdpSocket",
    "WorkerInfo",
    "open_proxy",
    "open_vpn",
    "run_command",
]

if not TYPE_CHECKING:  # type checkers read the imports above
    __getattr__ = lazy_names(
        __name__,
        {
            "capture": "Capture",
            "command": "run_command",
            "local_end": "OnCaptured",
            "open": "open_vpn",
            "running_proxy": "RunningProxy open_proxy",
            "stats": "SessionInfo VpnState VpnStats WorkerInfo",
            "streams": "VpnTcpStream VpnUdpSocket",
            "vpn": "Vpn",
        },
    )
