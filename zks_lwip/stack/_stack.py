"""The stack: lwIP on a device, in a nursery of the caller's."""

from __future__ import annotations

import errno
import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, cast

import trio

from .._lwip import ffi, lib
from .._util import single_error
from ..device import FdDevice, PacketDevice, RingDevice
from ..errors import DeviceError, StackError
from ..net.rounds import ROUND
from ..net.watch import is_direct, watch
from ._address import pack, pack_ends, unpack
from ._batch import Batch
from ._core import Core
from ._flow import FAILURES, Datagram, Flow, Reject
from ._frames import BoundDatagrams, DatagramFrames, DeliveredDatagrams, FramedDatagrams, FrameRules
from ._ports import EPHEMERAL, Ports
from ._pump import attach, pump_in_thread, start_tasks

__all__ = ["Stack", "lwip_version", "open_stack"]

_ANY_SOURCE = {4: "198.18.0.2", 6: "fdb5:7a6b:7301::2"}
"""Where a stack without addresses of its own sends from: what the TUN of a VPN leads to."""
_MAX_TRIES = 256  # of ephemeral ports
OnDatagramError = Callable[[tuple[str, int], tuple[str, int], int], None]

_SYN: int = lib.ZKS_EV_SYN
_DEVICE: int = lib.ZKS_EV_DEVICE
_BYTES = ffi.typeof("uint8_t[]")
_TURNS = 16
"""Batches of datagrams that are taken before other events, and other tasks, have their turn."""
_ENOUGH = 128 << 10
"""Bytes of frames after which they have it, too: what takes them has room for a mebibyte, and sends
in between."""


def lwip_version() -> str:
    """Return the release of lwIP that is compiled in."""
    return str(ffi.string(lib.zks_lwip_version()).decode())


class Stack:
    """lwIP between a device and the application's callbacks.

    It takes any destination address and port.

    :param device: a descriptor (:class:`FdDevice`: the pump is a C thread), or whatever gives and
        takes packets (:class:`PacketDevice`: the pump is trio tasks, and time is trio's).
    :param max_flows: TCP connections at a time, 1 to 2^20; over it the oldest held SYN, or the
        new one, is dropped; a sender that still wants it sends it again.
    :param max_held: SYNs that wait for accept at a time, 1 or more; over it the oldest is dropped.
    :param max_datagrams: bytes of UDP datagrams that wait for :attr:`on_datagrams`; over it the
        oldest are dropped, and counted.
    :param max_memory: bytes that connections may hold together, both ways: what they have sent and
        :meth:`Flow.pull_into` has not taken, what they may still send, what they have not taken.
        Windows shrink as it fills; each connection keeps 32 KiB, which come on top.
    :param icmp: echo requests to other addresses than ``own_addresses``: ``"off"`` drops them,
        ``"reply"`` answers them here, ``"tunnel"`` gives them to :attr:`on_echo`.
    :param keepalive: seconds of an application's silence after which its kernel is asked whether it
        still has the connection, 1 to 86400, or 0: never. One that has forgotten it says so by RST,
        and the connection ends; one that says nothing is asked 20 times more, a quarter of that
        apart, at most 15 s. Linux forgets a half-closed connection 60 s after its close (a few
        later, as its timers go): the default is just beyond that.
    :param own_addresses: at most one IPv4 and one IPv6 literal, whose pings are answered here.
    :raises StackError: out of memory, or a parameter out of its range.
    """

    on_flow: Callable[[Flow], None] | None
    """A new connection, held. None: refused by RST."""
    on_datagrams: Callable[[list[Datagram]], None] | None
    """UDP datagrams of applications, a batch at a time. None: dropped."""
    on_frames: Callable[[FramedDatagrams], None] | None
    """UDP datagrams of sockets that are bound (:meth:`bind_datagrams`), as the tunnel's frames."""
    frame_rules: Callable[[], FrameRules | None] | None
    """Tells which those are now; None, or none: all come to :attr:`on_datagrams`."""
    on_echo: Callable[[str, str, int, int, bytes], None] | None
    """Source, destination, identifier, sequence and payload of an echo request, with
    ``icmp="tunnel"``.
    """

    def __init__(
        self,
        device: FdDevice | RingDevice | PacketDevice,
        *,
        max_flows: int = 8192,
        max_held: int = 1024,
        max_datagrams: int = 4 << 20,
        max_memory: int = 128 << 20,
        icmp: str = "off",
        keepalive: float = 70.0,
        own_addresses: Iterable[str] = (),
    ) -> None:
        self.device = device
        self.on_flow = None
        self.on_datagrams = None
        self.on_echo = None
        self._on_datagram_error: OnDatagramError | None = None
        self._own = tuple(own_addresses)
        self.on_frames = None
        self.frame_rules = None
        self._running: trio.CancelScope | None = None
        self._ended = trio.Event()
        self._lent = trio.Event()  # the pump lets this thread take the packets
        self._by_tasks = not (hasattr(device, "fd") or hasattr(device, "ring"))
        self._core: Core[Flow] = Core(
            mtu=device.mtu,
            max_flows=max_flows,
            max_held=max_held,
            max_datagrams=max_datagrams,
            max_memory=max_memory,
            icmp=icmp,
            keepalive=keepalive,
            own_addresses=self._own,
            pulled=self._by_tasks,
        )
        self.ports = Ports(self)
        """The listeners and sockets of this stack."""
        self._batch = Batch()
        self._frames = DatagramFrames()
        self._info = ffi.new("struct zks_flow_info *")
        if not self._by_tasks:
            try:
                attach(self._core, cast("FdDevice | RingDevice", device))
            except DeviceError:
                self.close()
                raise

    # life

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Pump packets and deliver events until cancelled; then reset what is left, and close.

        :raises DeviceError: the device has failed.
        :raises StackError: it is running already, or closed.
        """
        if self._core.closed or self._running is not None:
            raise StackError("this stack is running already, or closed")
        try:
            async with trio.open_nursery() as nursery:
                self._running = nursery.cancel_scope
                nursery.start_soon(self._deliver)
                if self._by_tasks:
                    start_tasks(nursery, self._core, cast(PacketDevice, self.device))
                else:
                    nursery.start_soon(pump_in_thread, self._core)
                    if hasattr(self.device, "fd") and is_direct():
                        nursery.start_soon(self._borrow, self.device.fd)
                task_status.started()
        finally:
            self._running = None
            self.close()
            self._ended.set()

    async def aclose(self) -> None:
        """Reset every connection, and wait until :meth:`run` has ended, if it runs. Harmless twice.

        Not to be called by a task of the stack's own callbacks.
        """
        self.close()
        await trio.lowlevel.checkpoint()
        with trio.CancelScope(shield=True):  # which is soon
            while self._running is not None:
                await self._ended.wait()

    def close(self) -> None:
        """Reset every connection and free the core; a running :meth:`run` is ended, and does so
        itself. Harmless twice.
        """
        if self._running is not None:
            self._running.cancel()
            return
        for flow in self._core.close():
            if flow.handler is not None:
                flow.handler.on_reset()
        self.ports.end()

    # events

    async def _deliver(self) -> None:
        core = self._core
        while True:
            await core.wait_events(self._deliver_some)
            while core.more_events:
                await trio.lowlevel.checkpoint()
                self._deliver_some()

    async def _borrow(self, fd: int) -> None:
        """Take packets in this thread while the pump lends the device, which it does while they are
        few: each is a wake-up sooner here."""
        core = self._core
        lib.zks_pump_lends(core.handle)
        while True:
            await self._lent.wait()
            await watch(fd, self._take_packets)
            while core.more_events:
                await trio.lowlevel.checkpoint()
                self._deliver_some()

    def _take_packets(self) -> bool:
        """Return whether there are more events, or the pump has taken the device back."""
        if not lib.zks_pump_take(self._core.handle):
            self._lent = trio.Event()
        return self._deliver_some() or not self._lent.is_set()

    def _deliver_some(self) -> bool:
        """Deliver events; return whether there are more."""
        core = self._core
        with ROUND:
            for ident, mask in core.take_events():
                if not ident:
                    if mask & _DEVICE:
                        self._lent.set()
                    else:
                        self._take_datagrams()
                    continue
                if mask & _SYN:
                    self._add_flow(ident)
                    if mask == _SYN:
                        continue
                flow = core.flows.get(ident)
                if flow is not None:
                    flow._on_events(mask)
        return core.more_events

    def _add_flow(self, ident: int) -> None:
        info = self._info
        if lib.zks_flow_info(self._core.handle, ident, info) != lib.ZKS_OK:
            return
        source, destination = bytes(ffi.buffer(info.source)), bytes(ffi.buffer(info.destination))
        ends = pack_ends(info.family, source, info.source_port, destination, info.destination_port)
        flow = Flow(self._core, ident, ends)
        if self.on_flow is None:
            flow.reject(Reject.RST)
        else:
            self.on_flow(flow)

    # datagrams

    def _take_datagrams(self) -> None:
        handle = self._core.handle
        on_frames = self.on_frames
        rules = None if self.frame_rules is None or on_frames is None else self.frame_rules()
        if rules is None or on_frames is None:
            self._take_one_by_one(ffi.NULL)
            return
        size = 0
        for _ in range(_TURNS):
            run = self._frames.take(handle, rules)
            if run is not None:
                on_frames(run)
                size += len(run.frames)
                if size >= _ENOUGH:
                    return
            elif not self._take_one_by_one(rules.handle):
                return

    def _take_one_by_one(self, rules: Any) -> bool:
        """Take those that wait first and do not become frames; return whether others wait."""
        batch = []
        for source, destination, port, port2, family, kind, hops, traffic, payload in (
            self._batch.take(self._core.handle, rules)
        ):  # fmt: skip
            origin, target = (unpack(family, source), port), (unpack(family, destination), port2)
            if kind == lib.ZKS_KIND_UDP:
                batch.append(Datagram(origin, target, payload, hops, traffic))
            elif kind == lib.ZKS_KIND_ERROR:
                if self.on_datagram_error is not None:
                    self.on_datagram_error(origin, target, FAILURES.get(hops, errno.EHOSTUNREACH))
            elif self.on_echo is not None:
                self.on_echo(origin[0], target[0], port, port2, bytes(payload))
        if batch and self.on_datagrams is not None:
            self.on_datagrams(batch)
        return self._batch.left

    def bind_datagrams(self, local: tuple[str, int], association: int) -> bool:
        """Let what an application's UDP socket sends, and gets, be frames of an association.

        :param local: address and port of the socket.
        :param association: 1 to 2^32-1, of no other socket.
        :returns: False: out of memory, or the socket is bound; then it goes on as before.
        :raises ValueError: an address that is no literal.
        """
        return self._frames.bind(self._core.handle, local, association)

    def unbind_datagrams(self, association: int) -> None:
        """Undo :meth:`bind_datagrams`; harmless if there is nothing to undo."""
        self._frames.unbind(self._core.handle, association)

    def bound_datagrams(self, association: int) -> BoundDatagrams | None:
        """Return what has gone as frames of an association; None: no socket is bound to it."""
        return self._frames.bound(self._core.handle, association)

    def deliver_datagrams(self, frames: memoryview, rules: FrameRules) -> DeliveredDatagrams:
        """Send the datagrams of UDP frames to the sockets that are bound to their associations.

        :param frames: whole ones, back to back, for IP literals; those of associations that no
            socket is bound to are left out.
        """
        delivered = self._frames.deliver(self._core.handle, rules, frames)
        self._core.made_output()
        return delivered

    def send_datagram(
        self,
        source: tuple[str, int],
        destination: tuple[str, int],
        payload: bytes | bytearray | memoryview,
    ) -> bool:
        """Send a UDP datagram to an application, as if from ``source``; fragmented where needed.

        :param payload: 0 to 65507 bytes; a longer one is dropped.
        :returns: False if it was dropped: out of memory, or too long.
        :raises ValueError: an address that is no literal, or two families.
        """
        meta = self._batch.describe(source, destination, len(payload))
        result = lib.zks_datagram_send(self._core.handle, meta, ffi.from_buffer(_BYTES, payload))
        self._core.made_output()
        return bool(result == lib.ZKS_OK)

    def refuse_datagram(self, datagram: Datagram, how: Reject, *, mtu: int = 0) -> None:
        """Answer a datagram by an ICMP error (RFC 1122 §3.2.2, RFC 4443 §3).

        :param mtu: of the next hop, in bytes, with :attr:`Reject.TOO_BIG`.
        """
        length, hops = len(datagram.payload), datagram.hop_limit
        meta = self._batch.describe(datagram.source, datagram.destination, length, hop_limit=hops)
        payload = ffi.from_buffer(_BYTES, datagram.payload)
        lib.zks_datagram_reject(self._core.handle, meta, payload, how.value, mtu)
        self._core.made_output()

    def send_echo_reply(
        self, source: str, destination: str, ident: int, seq: int, payload: bytes
    ) -> bool:
        """Answer an echo request.

        :param source: the address that was asked.
        :param destination: the address that asked.
        :param ident: of the request, 0 to 65535; so ``seq``.
        :param payload: of the request.
        :returns: False if the reply was dropped: out of memory, or too long.
        :raises ValueError: an address that is no literal, or two families.
        """
        asked, asker, kind = (source, ident), (destination, seq), lib.ZKS_KIND_ECHO
        meta = self._batch.describe(asked, asker, len(payload), kind=kind)
        result = lib.zks_datagram_send(self._core.handle, meta, ffi.from_buffer(_BYTES, payload))
        self._core.made_output()
        return bool(result == lib.ZKS_OK)

    @property
    def on_datagram_error(self) -> OnDatagramError | None:
        """What is told of ICMP errors about datagrams that were sent: their destination, their
        source, and an errno. None: nothing is, and they are not looked at.
        """
        return self._on_datagram_error

    @on_datagram_error.setter
    def on_datagram_error(self, callback: OnDatagramError | None) -> None:
        self._on_datagram_error = callback
        lib.zks_datagram_errors(self._core.handle, callback is not None)

    # connections that begin here

    def connect(self, source: tuple[str, int], destination: tuple[str, int]) -> Flow:
        """Open a connection to an address on the device's side.

        The flow's ``source`` is the peer, as with the flows that come. Its handler is told when
        the handshake is done, or the connection refused.

        :param source: address and port of this end; port 0: a free ephemeral one (RFC 6056).
        :param destination: address and port of the peer.
        :raises ValueError: an address that is no literal, or two families.
        :raises StackError: the four-tuple is in use, too many flows, or out of memory.
        """
        family, local = pack(source[0])
        family2, remote = pack(destination[0])
        if family != family2:
            raise ValueError(f"{source[0]} and {destination[0]} are of two address families")
        if self._core.closed:
            raise StackError("no connection could be opened: the stack has ended")
        tries = [source[1]] if source[1] else random.choices(EPHEMERAL, k=_MAX_TRIES)
        for port in tries:
            ident = lib.zks_flow_connect(
                self._core.handle, family, local, port, remote, destination[1]
            )
            if ident:
                break
        else:
            what = f"port {source[1]}" if source[1] else "an ephemeral port"
            raise StackError(f"no connection could be opened from {what}: in use, or full")
        flow = Flow(self._core, ident, pack_ends(family, remote, destination[1], local, port))
        self._core.made_output()
        return flow

    def source_for(self, address: str) -> str:
        """Return this stack's address for what it sends to ``address``: its own one, or any.

        :raises ValueError: ``address`` is no literal.
        """
        family, _ = pack(address)
        own = [each for each in self._own if pack(each)[0] == family]
        return own[0] if own else _ANY_SOURCE[family]

    # seen from outside

    @property
    def moved(self) -> tuple[int, int]:
        """Bytes that C has pulled from connections, and pushed to them, by :attr:`Flow.target`."""
        target = self._core.target
        return int(target.pulled), int(target.pushed)

    @property
    def memory(self) -> int:
        """Bytes that connections hold, or may come to hold: see ``max_memory``; 0 when closed."""
        return self._core.memory

    @property
    def open_flows(self) -> int:
        """Flows of either end's making that have neither ended nor been let go."""
        return len(self._core.flows)

    def stats(self) -> dict[str, int]:
        """The core's counters by name (``drop_*``: why packets were dropped); empty when closed."""
        return self._core.counters()


@asynccontextmanager
async def open_stack(
    device: FdDevice | RingDevice | PacketDevice, **options: Any
) -> AsyncIterator[Stack]:
    """Run a :class:`Stack` for the length of an ``async with``.

    An error of the block, or of the stack, comes out as it is, not in a group.

    :param options: those of :class:`Stack`.
    :raises DeviceError: the device has failed.
    :raises StackError: the stack does not start.
    """
    stack = Stack(device, **options)
    with single_error() as bodies:
        async with trio.open_nursery() as nursery:
            await nursery.start(stack.run)
            try:
                yield stack
            except BaseException as error:
                bodies.append(error)
                raise
            finally:
                nursery.cancel_scope.cancel()
