"""The firewall's table takes the place of an earlier one without a moment between."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading

import pytest

from tests.kits.netns.child import until
from tests.kits.netns.containers import container
from tests.kits.netns.lab import FAR4, Lab, Namespace
from tests.unit.host.test_plan import CASES, RECORDED
from zks_lwip.host.plan.make import make_plan
from zks_lwip.host.plan.steps import Nftables

INTO_THE_TUNNEL = {"default": "198.51.100.7", "only": "198.51.100.7", "gateway": "198.51.100.7"}
# Of an earlier version, for the same wishes as "gateway".
EARLIER = (RECORDED / "earlier-ruleset.txt").read_text()


def ruleset(name: str) -> str:
    [rules] = [step for step in make_plan(*CASES[name]).steps if isinstance(step, Nftables)]
    return rules.ruleset


def load(net: Namespace, text: str) -> None:
    argv = ["nsenter", f"--net={net.path}", "nft", "-f", "-"]
    subprocess.run(argv, input=text, text=True, check=True, timeout=60)


def seen(wire: socket.socket, address: str) -> int:
    """How many IPv4 packets to ``address`` have left since the last look."""
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            count += wire.recv(2000)[16:20] == socket.inet_aton(address)
    return count


@pytest.mark.parametrize("name", INTO_THE_TUNNEL)
def test_no_packet_passes_while_it_is_replaced(net: Lab, name: str) -> None:
    """By itself, or (``gateway``) by turns with that of an earlier version."""
    texts = [ruleset(name)]
    if name == "gateway":
        texts.insert(0, EARLIER)
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
                load(host, texts[turn % len(texts)])
                if turn == 0:
                    sender.start()
                assert seen(wire, address) == 0, f"a packet got out at reload {turn}"
        finally:
            done.set()
            if sender.ident is not None:
                sender.join()


def test_what_an_earlier_version_let_out_ends(net: Lab) -> None:
    """A container's flow to a port that is let in was marked as a caller's, for as long as it
    lasted: its mark does not count any more.
    """
    host = net.add_host()
    with (
        container(host, 1) as inner,
        inner.entered(),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flow,
        host.entered(),
        socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3)) as wire,
    ):
        wire.bind(("up0", 3))
        wire.setblocking(False)
        flow.connect((FAR4, 443))
        load(host, EARLIER)
        flow.send(b"x")
        until(lambda: seen(wire, FAR4) == 1, message=lambda: "the detector does not detect")
        load(host, ruleset("gateway"))
        for _ in range(5):
            with contextlib.suppress(OSError):
                flow.send(b"x")
        until(lambda: refused(host) >= 5)
        assert seen(wire, FAR4) == 0


def refused(host: Namespace) -> int:
    argv = ["nft", "list", "counter", "inet", "zks_lwip", "refused"]
    argv = ["nsenter", f"--net={host.path}", *argv]
    text = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout
    return int(text.split("packets ")[1].split()[0])
