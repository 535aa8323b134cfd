"""The stack: lwIP on a device, in a nursery of the caller's."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import trio

from zks_lwip._lwip import ffi, lib
from zks_lwip.device import FdDevice, PacketDevice
from zks_lwip.errors import DeviceError, StackError
from zks_lwip.stack._address import pack, unpack
from zks_lwip.stack._batch import Batch
from zks_lwip.stack._flow import Datagram, Flow, Reject

__all__ = ["Stack", "lwip_version", "open_stack"]

_log = logging.getLogger(__name__)

_SYN: int = lib.ZKS_EV_SYN
_ESTABLISHED: int = lib.ZKS_EV_ESTABLISHED
_READABLE: int = lib.ZKS_EV_READABLE
_WRITABLE: int = lib.ZKS_EV_WRITABLE
_RESET: int = lib.ZKS_EV_RESET
_CLOSED: int = lib.ZKS_EV_CLOSED
_EVENTS = 256  # taken at a time
_BUFFER = 1 << 18  # bytes for packets that are taken at a time; at least one
_TICK = 0.25  # seconds between two looks of lwIP's timers
_BYTES = ffi.typeof("uint8_t[]")
_FRAMING = {
    "raw": lib.ZKS_FRAMING_RAW,
    "vnet": lib.ZKS_FRAMING_VNET,
    "utun": lib.ZKS_FRAMING_UTUN,
}
_ICMP = {"off": lib.ZKS_ICMP_OFF, "reply": lib.ZKS_ICMP_REPLY, "tunnel": lib.ZKS_ICMP_TUNNEL}


def lwip_version() -> str:
    """The release of lwIP that is compiled in."""
    return str(ffi.string(lib.zks_lwip_version()).decode())


class Stack:
    """lwIP between a device and the application's callbacks.

    Takes any destination address and port. ``device`` is either a descriptor (:class:`FdDevice`:
    the pump is a C thread) or anything that gives and takes packets (:class:`PacketDevice`: the
    pump is a trio task, and time is trio's).

    :param max_flows: TCP connections at a time, 1 to 2^20; over it the oldest held SYN, or the
        new one, is dropped, to be sent again by who still wants it.
    :param max_held: SYNs that wait for accept at a time; over it the oldest is dropped.
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
    on_echo: Callable[[str, str, int, int, bytes], None] | None
    """Source, destination, identifier, sequence and payload of an echo request, with
    ``icmp="tunnel"``.
    """

    def __init__(
        self,
        device: FdDevice | PacketDevice,
        *,
        max_flows: int = 8192,
        max_held: int = 1024,
        max_datagrams: int = 4 << 20,
        max_memory: int = 128 << 20,
        icmp: str = "off",
        keepalive: float = 70.0,
        own_addresses: Iterable[str] = (),
    ) -> None:
        if not (keepalive == 0 or 1 <= keepalive <= 86400):
            raise StackError(f"a keepalive of {keepalive} s cannot be used: 0, or 1 to 86400")
        self.device = device
        self.on_flow = None
        self.on_datagrams = None
        self.on_echo = None
        self._running: trio.CancelScope | None = None
        self._flows: dict[int, Flow] = {}
        self._core: Any = ffi.NULL
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._output = trio.Event()
        self._by_task = not hasattr(device, "fd")

        config = ffi.new("struct zks_config *")
        ffi.memmove(config.seed, os.urandom(16), 16)
        config.mtu = device.mtu
        config.max_flows = max_flows
        config.max_held = max_held
        config.max_datagrams = max_datagrams
        config.max_output = 16 << 20
        config.max_memory = max_memory
        config.icmp = _ICMP[icmp]
        config.keepalive_ms = round(keepalive * 1000)
        config.wake_fd = self._wake_write.fileno()
        for host in own_addresses:
            family, raw = pack(host)
            ffi.memmove(config.own4 if family == 4 else config.own6, raw, 16)
        core = lib.zks_core_new(config)
        if core == ffi.NULL:
            self.close()
            raise StackError(
                "the stack could not be made: out of memory, or a parameter out of range"
            )
        self._core = core
        self._events = ffi.new(f"struct zks_event[{_EVENTS}]")
        self._batch = Batch()
        self._info = ffi.new("struct zks_flow_info *")
        if not self._by_task:
            framing = _FRAMING[getattr(device, "framing", "raw")]
            if lib.zks_device_attach(core, device.fd, framing) != lib.ZKS_OK:  # type: ignore[union-attr]
                self.close()
                raise DeviceError("the device cannot be used: its descriptor is not open")

    # life

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Pump packets and deliver events until cancelled; then reset what is left, and close.

        :raises DeviceError: the device has failed.
        """
        if self._core == ffi.NULL or self._running is not None:
            raise StackError("this stack is running already, or closed")
        try:
            async with trio.open_nursery() as nursery:
                self._running = nursery.cancel_scope
                nursery.start_soon(self._deliver)
                if self._by_task:
                    nursery.start_soon(self._pump_in)
                    nursery.start_soon(self._pump_out)
                    nursery.start_soon(self._pump_time)
                else:
                    nursery.start_soon(self._pump_thread)
                task_status.started()
        finally:
            self._running = None
            self.close()

    def close(self) -> None:
        """Reset every connection and free the core; a running :meth:`run` is ended, and does so
        itself. Harmless twice.
        """
        if self._running is not None:
            self._running.cancel()
            return
        core, self._core = self._core, ffi.NULL
        flows, self._flows = self._flows, {}
        for flow in flows.values():
            flow._core = ffi.NULL
        if core != ffi.NULL:
            lib.zks_core_free(core)
        self._wake_read.close()
        self._wake_write.close()
        for flow in flows.values():
            if flow.handler is not None:
                flow.handler.on_reset()

    async def _pump_thread(self) -> None:
        """The C pump, in a thread; this task is its owner."""
        core = self._core
        result: int | None = None

        async def pump() -> None:
            nonlocal result
            with trio.CancelScope(shield=True):
                result = await trio.to_thread.run_sync(
                    lib.zks_pump_run, core, limiter=trio.CapacityLimiter(1)
                )
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump)
            try:
                await trio.sleep_forever()
            finally:
                lib.zks_pump_stop(core)
        if result != lib.ZKS_OK:
            code = lib.zks_device_errno(core)
            raise DeviceError(f"the network device has failed: {os.strerror(code)}")

    # the pump of a device without a descriptor

    async def _pump_in(self) -> None:
        async for packets in self.device:  # type: ignore[union-attr]
            for packet in packets:
                lib.zks_packet_input(self._core, ffi.from_buffer(packet), len(packet))
            self._made_output()
        raise DeviceError("the network device has gone")

    async def _pump_out(self) -> None:
        buffer = bytearray(_BUFFER)
        view = ffi.from_buffer("uint8_t[]", buffer)
        lengths = ffi.new("uint32_t[256]")
        while True:
            count = lib.zks_packet_output(self._core, view, len(buffer), lengths, 256)
            if not count:
                self._output = trio.Event()
                await self._output.wait()
                continue
            packets, start = [], 0
            for i in range(count):
                packets.append(bytes(buffer[start : start + lengths[i]]))
                start += lengths[i]
            await self.device.send(packets)  # type: ignore[union-attr]

    async def _pump_time(self) -> None:
        base = trio.current_time()
        while True:
            now = trio.current_time()
            wait = lib.zks_tick(self._core, int((now - base) * 1000))
            self._made_output()
            # Nothing wakes this task when there is more to do earlier.
            await trio.sleep(_TICK if wait < 0 else min(max(wait, 1) / 1000, _TICK))

    def _made_output(self) -> None:
        """Packets may wait for :meth:`_pump_out`."""
        if self._by_task:
            self._output.set()

    # events

    async def _deliver(self) -> None:
        wake = self._wake_read
        events = self._events
        while True:
            await trio.lowlevel.wait_readable(wake)
            try:
                wake.recv(4096)
            except BlockingIOError:
                continue
            while True:
                count = lib.zks_events(self._core, events, _EVENTS)
                for i in range(count):
                    event = events[i]
                    self._dispatch(event.flow, event.mask)
                if count < _EVENTS:
                    break
                await trio.lowlevel.checkpoint()

    def _dispatch(self, ident: int, mask: int) -> None:
        if not ident:
            self._take_datagrams()
            return
        if mask & _SYN:
            self._new_flow(ident)
        flow = self._flows.get(ident)
        if flow is None:
            return
        handler = flow.handler
        if mask & _RESET:
            flow._release()
            if handler is not None:
                if mask & _ESTABLISHED:  # it was a connection, if a short one
                    handler.on_established()
                handler.on_reset()
            return
        if mask & _CLOSED:
            flow._ended = True
            if flow._read:
                flow._release()
        if handler is None:
            return
        if mask & _ESTABLISHED:
            handler.on_established()
        if mask & _WRITABLE:
            handler.on_writable()
        if mask & _READABLE:
            handler.on_readable()
        if mask & _CLOSED:
            handler.on_closed()

    def _new_flow(self, ident: int) -> None:
        info = self._info
        if lib.zks_flow_info(self._core, ident, info) != lib.ZKS_OK:
            return
        family = info.family
        flow = Flow(
            self,
            ident,
            (unpack(family, bytes(ffi.buffer(info.source))), info.source_port),
            (unpack(family, bytes(ffi.buffer(info.destination))), info.destination_port),
        )
        self._flows[ident] = flow
        if self.on_flow is None:
            flow.reject(Reject.RST)
        else:
            self.on_flow(flow)

    def _forget(self, flow: Flow) -> None:
        self._flows.pop(flow._id, None)
        flow._core = ffi.NULL  # which it may outlive
        self._made_output()

    def _fail(self, flow: Flow) -> None:
        """Out of memory in the middle of a stream: the application sees RST."""
        flow.abort()
        if flow.handler is not None:
            flow.handler.on_reset()

    # datagrams

    def _take_datagrams(self) -> None:
        batch = []
        for source, destination, port, port2, family, kind, hops, traffic, payload in (
            self._batch.take(self._core)
        ):  # fmt: skip
            origin, target = (unpack(family, source), port), (unpack(family, destination), port2)
            if kind == lib.ZKS_KIND_UDP:
                batch.append(Datagram(origin, target, payload, hops, traffic))
            elif self.on_echo is not None:
                self.on_echo(origin[0], target[0], port, port2, bytes(payload))
        if batch and self.on_datagrams is not None:
            self.on_datagrams(batch)

    def send_datagram(
        self,
        source: tuple[str, int],
        destination: tuple[str, int],
        payload: bytes | bytearray | memoryview,
    ) -> bool:
        """Send a UDP datagram to an application, as if from ``source``; fragmented where needed.

        :return: False: dropped (out of memory, or longer than 65507 bytes).
        :raises ValueError: an address that is no literal, or two families.
        """
        meta = self._batch.describe(source, destination, len(payload))
        result = lib.zks_datagram_send(self._core, meta, ffi.from_buffer(_BYTES, payload))
        self._made_output()
        return bool(result == lib.ZKS_OK)

    def refuse_datagram(self, datagram: Datagram, how: Reject, *, mtu: int = 0) -> None:
        """Answer a datagram by an ICMP error (RFC 1122 §3.2.2, RFC 4443 §3).

        :param mtu: of the next hop, in bytes, with :attr:`Reject.TOO_BIG`.
        """
        length, hops = len(datagram.payload), datagram.hop_limit
        meta = self._batch.describe(datagram.source, datagram.destination, length, hop_limit=hops)
        payload = ffi.from_buffer(_BYTES, datagram.payload)
        lib.zks_datagram_reject(self._core, meta, payload, how.value, mtu)
        self._made_output()

    def send_echo_reply(
        self, source: str, destination: str, ident: int, seq: int, payload: bytes
    ) -> bool:
        """Answer an echo request: from ``source``, which was asked, to ``destination``."""
        asked, asker, kind = (source, ident), (destination, seq), lib.ZKS_KIND_ECHO
        meta = self._batch.describe(asked, asker, len(payload), kind=kind)
        result = lib.zks_datagram_send(self._core, meta, ffi.from_buffer(_BYTES, payload))
        self._made_output()
        return bool(result == lib.ZKS_OK)

    # connections of our own

    def connect(self, source: tuple[str, int], destination: tuple[str, int]) -> Flow:
        """Open a connection from ``source`` (us) to ``destination`` on the device's side.

        The flow's ``source`` is the peer, as with the flows that come. Its handler is told when
        the handshake is done, or the connection refused.

        :raises StackError: the four-tuple is in use, too many flows, or out of memory.
        """
        family, local = pack(source[0])
        family2, remote = pack(destination[0])
        if family != family2:
            raise ValueError(f"{source[0]} and {destination[0]} are of two address families")
        ident = lib.zks_flow_connect(self._core, family, local, source[1], remote, destination[1])
        if not ident:
            raise StackError(
                f"no connection could be opened from port {source[1]}: in use, or full"
            )
        flow = Flow(self, ident, destination, source)
        self._flows[ident] = flow
        self._made_output()
        return flow

    # seen from outside

    @property
    def memory(self) -> int:
        """Bytes that connections hold, or may come to hold: see ``max_memory``."""
        return int(lib.zks_core_memory(self._core))

    def stats(self) -> dict[str, int]:
        """The core's counters by name (``drop_*``: why packets were dropped); empty when closed."""
        if self._core == ffi.NULL:
            return {}
        values = ffi.new("uint64_t[128]")
        count = lib.zks_counters(self._core, values, 128)
        return {_counter_name(i): values[i] for i in range(count)}


def _counter_name(index: int) -> str:
    return str(ffi.string(lib.zks_counter_name(index)).decode())


@asynccontextmanager
async def open_stack(device: FdDevice | PacketDevice, **options: Any) -> AsyncIterator[Stack]:
    """A running :class:`Stack` for the length of an ``async with``; ``options`` are its own."""
    stack = Stack(device, **options)
    async with trio.open_nursery() as nursery:
        await nursery.start(stack.run)
        try:
            yield stack
        finally:
            nursery.cancel_scope.cancel()
