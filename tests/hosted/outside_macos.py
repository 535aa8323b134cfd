"""An uplink of macOS that ends in this process: ``python -m tests.hosted.outside_macos TOKENS``.

Until SIGTERM the default route of IPv4 leads there.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import trio

from tests.hosted.outside import serve
from zks_lwip.device import open_utun
from zks_lwip.host.macos.read import read_next_hop
from zks_lwip.net.sockets import bind_to_uplink
from zks_lwip.net.uplinks import set_uplinks

OURS, GATEWAY = "192.0.2.1", "192.0.2.2"


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True, timeout=20).stdout


def lead_to(gateway: str) -> None:
    """Change the default route."""
    run("route", "-n", "delete", "-inet", "default")
    run("route", "-n", "add", "-inet", "default", gateway)


async def main(token_file: Path) -> None:
    gateway, _ = read_next_hop(run("route", "-n", "get", "-inet", "default"))
    with open_utun() as device, trio.open_signal_receiver(signal.SIGTERM) as signals:
        run("ifconfig", device.name, "inet", OURS, GATEWAY, "netmask", "255.255.255.252", "up")
        set_uplinks({4: socket.if_nametoindex(device.name)})
        lead_to(GATEWAY)
        try:
            async with trio.open_nursery() as nursery:
                bind = partial(bind_to_uplink, family=socket.AF_INET)
                nursery.start_soon(serve, device, device.name, bind, token_file)
                async for _ in signals:
                    nursery.cancel_scope.cancel()
        finally:
            lead_to(gateway)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
