"""The firewall's table takes the place of an earlier one without a moment between."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading

import pytest

from tests.netns.child import until
from tests.netns.lab import Lab
from tests.unit.host.test_plan import CASES
from zks_lwip.host.plan import make_plan
from zks_lwip.host.steps import Nftables

INTO_THE_TUNNEL = {"default": "198.51.100.7", "only": "198.51.100.7"}


def seen(wire: socket.socket, address: str) -> int:
    """How many IPv4 packets to ``address`` have left since the last look."""
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            count += wire.recv(2000)[16:20] == socket.inet_aton(address)
    return count


@pytest.mark.parametrize("name", INTO_THE_TUNNEL)
def test_no_packet_passes_while_it_is_replaced(net: Lab, name: str) -> None:
    [rules] = [step for step in make_plan(*CASES[name]).steps if isinstance(step, Nftables)]
    address = INTO_THE_TUNNEL[name]
    host = net.add_host()
    done = threading.Event()

    def send(sock: socket.socket) -> None:
        while not done.is_set():
            with contextlib.suppress(OSError):  # refused
                sock.send(b"x")

    with (
        host.entered(),
        socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3)) as wire,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        wire.bind(("up0", 3))  # ETH_P_ALL: what leaves, too
        wire.setblocking(False)
        sock.connect((address, 9999))
        sock.send(b"x")
        # (It leaves when the router's address is known.)
        until(lambda: seen(wire, address) == 1, message=lambda: "the detector does not detect")
        sender = threading.Thread(target=send, args=(sock,))
        try:
            for turn in range(150):
                load = ["nft", "-f", "-"]
                subprocess.run(load, input=rules.ruleset, text=True, check=True, timeout=60)
                if turn == 0:
                    sender.start()
                assert seen(wire, address) == 0, f"a packet got out at reload {turn}"
        finally:
            done.set()
            if sender.ident is not None:
                sender.join()
