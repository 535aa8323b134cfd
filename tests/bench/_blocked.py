"""A stack whose Python is away: 500 ms at a time, by turns asleep and holding the GIL.

Started in a namespace by the latency benchmark; prints the address that it answers pings at.
"""

from __future__ import annotations

import subprocess
import time

import trio

from zks_lwip.device import open_tun
from zks_lwip.stack import open_stack

KERNEL, STACK = "198.18.0.1", "198.18.0.2"
AWAY = 0.5


def hold_the_gil(seconds: float) -> None:
    """One call into C that does not let go of the interpreter, of about so many seconds."""
    probe = 1_000_000
    started = time.perf_counter()
    sum(range(probe))
    each = (time.perf_counter() - started) / probe
    sum(range(int(seconds / each)))


async def main() -> None:
    with open_tun("blocked0") as device:
        for command in ("addr add {}/30 dev {}", "link set {1} up"):
            argv = ["ip", *command.format(KERNEL, device.name).split()]
            subprocess.run(argv, check=True)
        async with open_stack(device, own_addresses=[STACK]):
            print(f"answers at {STACK}", flush=True)
            while True:
                await trio.sleep(0.05)
                time.sleep(AWAY)
                await trio.sleep(0.05)
                hold_the_gil(AWAY)


if __name__ == "__main__":
    trio.run(main)
