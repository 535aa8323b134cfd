"""The C core as Python holds it: its handle, the registry of its flows, and two wake-ups.

Flows, the packet cache and the stack share one :class:`Core`. The handle is in this one place, so
that nothing reaches a core that has been freed: every call of the C library takes NULL for a core
that is closed, and does nothing.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Generic, TypeVar

import trio

from .._lwip import ffi, lib
from ..errors import StackError
from ..net.watch import watch
from ._address import pack

__all__ = ["Core"]

_MAX_EVENTS = 256  # taken at a time
_EVENT = struct.Struct("=QI4x")
"""struct zks_event: flow and mask."""
_MAX_OUTPUT = 16 << 20  # bytes of packets that wait for the device
_ICMP = {"off": lib.ZKS_ICMP_OFF, "reply": lib.ZKS_ICMP_REPLY, "tunnel": lib.ZKS_ICMP_TUNNEL}

FlowT = TypeVar("FlowT")
_TARGET = partial(ffi.new, ffi.typeof("struct zks_mux_target *"))


class Core(Generic[FlowT]):
    """One core, from its making to its end. All of it belongs to the trio thread.

    The parameters are those of :class:`~zks_lwip.stack.Stack`.

    :param pulled: packets of the core are taken by a trio task, which :attr:`output` wakes; not by
        the C pump, which wakes itself.
    :raises StackError: out of memory, or a parameter out of its range.
    """

    __slots__ = (
        "_events",
        "_wake_read",
        "_wake_write",
        "flows",
        "handle",
        "more_events",
        "output",
        "pulled",
        "target",
    )

    handle: Any
    """A ``zks_core *``; NULL once closed."""
    flows: dict[int, FlowT]
    """Flows that have neither ended nor been let go, by id. The core never gives an id twice."""
    output: trio.Event
    """Set when packets may wait for the device."""
    target: Any
    """All flows, as C moves their bytes: a ``struct zks_mux_target *``."""

    def __init__(
        self,
        *,
        mtu: int,
        max_flows: int,
        max_held: int,
        max_datagrams: int,
        max_memory: int,
        icmp: str,
        keepalive: float,
        own_addresses: Iterable[str],
        pulled: bool,
    ) -> None:
        if not (keepalive == 0 or 1 <= keepalive <= 86400):
            raise StackError(f"a keepalive of {keepalive} s cannot be used: 0, or 1 to 86400")
        config = ffi.new("struct zks_config *")
        ffi.memmove(config.seed, os.urandom(16), 16)
        config.mtu = mtu
        config.max_flows = max_flows
        config.max_held = max_held
        config.max_datagrams = max_datagrams
        config.max_output = _MAX_OUTPUT
        config.max_memory = max_memory
        config.icmp = _ICMP[icmp]
        config.keepalive_ms = round(keepalive * 1000)
        for host in own_addresses:
            family, raw = pack(host)
            ffi.memmove(config.own4 if family == 4 else config.own6, raw, 16)
        self.pulled = pulled
        self.more_events = False
        self.flows = {}
        self.output = trio.Event()
        self._events = ffi.new(f"struct zks_event[{_MAX_EVENTS}]")
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        config.wake_fd = self._wake_write.fileno()
        self.target = _TARGET()
        self.handle = lib.zks_core_new(config)
        if self.handle == ffi.NULL:
            self.close()
            raise StackError(
                "the stack could not be made: out of memory, or a parameter out of range"
            )
        self.target.pull = ffi.addressof(lib, "zks_flows_pull")
        self.target.push = ffi.addressof(lib, "zks_flows_push")
        self.target.enter = ffi.addressof(lib, "zks_flows_enter")
        self.target.leave = ffi.addressof(lib, "zks_flows_leave")
        self.target.context = self.handle

    @property
    def closed(self) -> bool:
        """Whether the core has been freed."""
        return bool(self.handle == ffi.NULL)

    def close(self) -> list[FlowT]:
        """Reset every connection and free the core. Harmless twice.

        :returns: the flows that were open; their handlers are the caller's to tell.
        """
        handle, self.handle = self.handle, ffi.NULL
        self.target.closed = 1
        flows, self.flows = list(self.flows.values()), {}
        if handle != ffi.NULL:
            lib.zks_core_free(handle)
        self._wake_read.close()
        self._wake_write.close()
        return flows

    def made_output(self) -> None:
        """Wake the task that takes packets, after any call that may have made some."""
        if self.pulled:
            self.output.set()

    async def wait_events(self, take: Callable[[], bool]) -> None:
        """Call ``take`` whenever :meth:`take_events` may yield some, until it returns True."""

        def woken() -> bool:
            try:
                self._wake_read.recv(4096)
            except BlockingIOError:
                return False
            return take()

        await watch(self._wake_read.fileno(), woken)

    def take_events(self) -> Iterable[tuple[int, int]]:
        """Return events that wait, each a flow's id and its ``ZKS_EV_`` bits, at most 256.

        Id 0 stands for datagrams. Where there may be more, :attr:`more_events` is set.
        """
        count = lib.zks_events(self.handle, self._events, _MAX_EVENTS)
        self.more_events = count == _MAX_EVENTS
        return _EVENT.iter_unpack(ffi.buffer(self._events, count * _EVENT.size)[:])

    @property
    def memory(self) -> int:
        """Bytes that connections hold, or may come to hold; 0 when closed."""
        return int(lib.zks_core_memory(self.handle))

    def counters(self) -> dict[str, int]:
        """Return the core's counters by name; empty when closed."""
        if self.closed:
            return {}
        values = ffi.new("uint64_t[128]")
        count = lib.zks_counters(self.handle, values, 128)
        return {ffi.string(lib.zks_counter_name(i)).decode(): int(values[i]) for i in range(count)}
