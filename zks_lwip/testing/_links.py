"""Links between hosts in memory: packets that take their time, or are lost."""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import trio

from ..stack import Stack

__all__ = ["Link", "Links", "MachineDevice"]

MTU = 1500
MAX_WAITING = 16384
"""Packets on their way to one host; over it new ones are lost."""


@dataclass(slots=True)
class Link:
    """What lies between two hosts, the same in both directions. It may be changed at any time."""

    delay: float = 0.0
    """Seconds that a packet takes, 0 or more."""
    loss: float = 0.0
    """Which part of the packets is lost, 0 to 1."""
    up: bool = True
    """False: the cable is out, and everything is lost."""

    def __post_init__(self) -> None:
        if not 0 <= self.delay < math.inf:
            raise ValueError(f"a delay of {self.delay} s is none: give 0 or more")
        if not 0 <= self.loss <= 1:
            raise ValueError(f"a loss of {self.loss} is none: give 0 to 1")


class MachineDevice:
    """The device of one host's stack."""

    def __init__(self, links: Links) -> None:
        self.mtu = MTU
        self.stack: Stack | None = None
        self.in_flight = 0
        self._links = links
        self._inbox: deque[bytes] = deque()
        self._arrived = trio.lowlevel.ParkingLot()

    async def send(self, packets: list[bytes]) -> None:
        """Put packets on their way."""
        for packet in packets:
            self._links.carry(self, packet)
        await trio.lowlevel.checkpoint()

    def put(self, packet: bytes) -> None:
        """Take a packet that has arrived."""
        self._inbox.append(packet)
        self._arrived.unpark()

    def __aiter__(self) -> MachineDevice:
        return self

    async def __anext__(self) -> list[bytes]:
        await trio.lowlevel.checkpoint()
        while not self._inbox:
            await self._arrived.park()
        packets = list(self._inbox)
        self._inbox.clear()
        return packets


class Links:
    """All links of a network.

    :param find: returns the host that has an address, in network order; None: none.
    :param link_of: returns the link between two hosts.
    :param random: says which packets are lost.
    """

    def __init__(
        self,
        find: Callable[[MachineDevice, bytes], MachineDevice | None],
        link_of: Callable[[MachineDevice, MachineDevice], Link],
        random: random.Random,
    ) -> None:
        self._find = find
        self._link_of = link_of
        self._random = random
        self._flying: list[tuple[float, int, MachineDevice, bytes]] = []
        self._count = 0
        self._earlier = trio.Event()

    def carry(self, sender: MachineDevice, packet: bytes) -> None:
        """Send a packet to the host that it is for."""
        address = packet[16:20] if packet[0] >> 4 == 4 else packet[24:40]
        to = self._find(sender, address)
        if to is None or to.in_flight >= MAX_WAITING:
            return
        delay = 0.0
        if to is not sender:
            link = self._link_of(sender, to)
            if not link.up or (link.loss and self._random.random() < link.loss):
                return
            delay = link.delay
        to.in_flight += 1
        self._count += 1  # what takes as long arrives in the order in which it left
        entry = (trio.current_time() + delay, self._count, to, packet)
        heapq.heappush(self._flying, entry)
        if self._flying[0] is entry:
            self._earlier.set()

    async def run(self) -> None:
        """Deliver packets when it is time, until cancelled."""
        while True:
            now = trio.current_time()
            while self._flying and self._flying[0][0] <= now:
                _, _, to, packet = heapq.heappop(self._flying)
                to.in_flight -= 1
                to.put(packet)
            self._earlier = trio.Event()
            with trio.move_on_at(self._flying[0][0] if self._flying else math.inf):
                await self._earlier.wait()
