"""An uplink of Windows that ends in this process: ``python -m tests.hosted.outside_windows FILE``.

While it runs the best default route of IPv4 leads there: the adapter goes with the process, however
that ends, and the route with the adapter.
"""

from __future__ import annotations

import ctypes
import socket
import sys
from functools import partial
from pathlib import Path

import trio

from tests.hosted.outside import serve
from zks_lwip.device import open_wintun
from zks_lwip.host.plan.windows.state import WindowsRoute
from zks_lwip.host.windows.iphelper import IpHelper
from zks_lwip.net.sockets import bind_to_uplink_of_windows
from zks_lwip.net.uplinks import set_uplinks

NAME, OURS, GATEWAY = "zks-outside", "192.0.2.1", "192.0.2.2"


async def main(token_file: Path) -> None:
    helper = IpHelper(ctypes.CDLL("iphlpapi.dll"))
    with open_wintun(NAME) as device:
        helper.set_ip_interface(device.luid, 4, mtu=device.mtu, metric=1)
        helper.add_address(device.luid, f"{OURS}/30")
        helper.add_route(WindowsRoute("0.0.0.0/0", GATEWAY, ""), device.luid)
        rows = {int(row.InterfaceLuid): int(row.InterfaceIndex) for row in helper.interfaces()}
        set_uplinks({4: rows[device.luid]})
        bind = partial(bind_to_uplink_of_windows, family=socket.AF_INET)
        await serve(device, device.name, bind, token_file)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
