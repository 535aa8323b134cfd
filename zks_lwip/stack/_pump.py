"""Pumps: what moves packets between a device and the core.

A device behind a descriptor, and one of Wintun's, is pumped by a thread of the C library, which
Python starts and stops; a descriptor it lends to the trio thread while packets are few
(:meth:`.Stack.run`). Any other is pumped by three trio tasks: packets in, packets out, and time.
"""

from __future__ import annotations

import os
from dataclasses import fields
from typing import Any

import trio

from .._lwip import ffi, lib
from ..device import FdDevice, PacketDevice, RingDevice, WintunRing
from ..errors import DeviceError
from ._core import Core

__all__ = ["attach", "pump_in_thread", "start_tasks"]

_MAX_PACKETS = 256  # taken at a time
_BUFFER = 1 << 18  # bytes for packets that are taken at a time; at least one
_TICK = 0.25  # seconds between two looks at lwIP's timers
_FRAMING = {
    "raw": lib.ZKS_FRAMING_RAW,
    "vnet": lib.ZKS_FRAMING_VNET,
    "utun": lib.ZKS_FRAMING_UTUN,
}


def attach(core: Core[Any], device: FdDevice | RingDevice) -> None:
    """Let the C pump of ``core`` read and write ``device``.

    :raises DeviceError: its descriptor, or its session, is not open.
    """
    if not hasattr(device, "fd"):
        _attach_ring(core, device.ring)
        return
    framing = _FRAMING[getattr(device, "framing", "raw")]
    if lib.zks_device_attach(core.handle, device.fd, framing) != lib.ZKS_OK:
        raise DeviceError("the device cannot be used: its descriptor is not open")
    lib.zks_device_cuts_datagrams(core.handle, getattr(device, "cuts_datagrams", False))


def _attach_ring(core: Core[Any], ring: WintunRing) -> None:
    wintun = ffi.new("struct zks_wintun *")  # C copies it
    types = dict(ffi.typeof("struct zks_wintun").fields)
    for member in fields(ring):
        setattr(wintun, member.name, ffi.cast(types[member.name].type, getattr(ring, member.name)))
    if lib.zks_wintun_attach(core.handle, wintun) != lib.ZKS_OK:
        raise DeviceError("the device cannot be used: its session of Wintun is not open")


async def pump_in_thread(core: Core[Any]) -> None:
    """Run the C pump until cancelled. This task is its owner, and outlives the thread.

    :raises DeviceError: the device has failed.
    """
    handle = core.handle
    result: int | None = None

    async def pump() -> None:
        nonlocal result
        with trio.CancelScope(shield=True):
            result = await trio.to_thread.run_sync(
                lib.zks_pump_run, handle, limiter=trio.CapacityLimiter(1)
            )
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pump)
        try:
            await trio.sleep_forever()
        finally:
            lib.zks_pump_stop(handle)
    if result != lib.ZKS_OK:
        code = lib.zks_device_errno(handle)
        raise DeviceError(f"the network device has failed: {os.strerror(code)}")


def start_tasks(nursery: trio.Nursery, core: Core[Any], device: PacketDevice) -> None:
    """Start the tasks that pump ``device``, by trio's clock.

    One of them raises :exc:`~zks_lwip.errors.DeviceError` when the device has gone.
    """
    nursery.start_soon(_pump_in, core, device)
    nursery.start_soon(_pump_out, core, device)
    nursery.start_soon(_pump_time, core)


async def _pump_in(core: Core[Any], device: PacketDevice) -> None:
    async for packets in device:
        for packet in packets:
            lib.zks_packet_input(core.handle, ffi.from_buffer(packet), len(packet))
        core.made_output()
    raise DeviceError("the network device has gone")


async def _pump_out(core: Core[Any], device: PacketDevice) -> None:
    buffer = bytearray(_BUFFER)
    view = ffi.from_buffer("uint8_t[]", buffer)
    lengths = ffi.new(f"uint32_t[{_MAX_PACKETS}]")
    while True:
        count = lib.zks_packet_output(core.handle, view, len(buffer), lengths, _MAX_PACKETS)
        if not count:
            core.output = trio.Event()
            await core.output.wait()
            continue
        packets, start = [], 0
        for i in range(count):
            packets.append(bytes(buffer[start : start + lengths[i]]))
            start += lengths[i]
        await device.send(packets)


async def _pump_time(core: Core[Any]) -> None:
    base = trio.current_time()
    while True:
        now = trio.current_time()
        wait = lib.zks_tick(core.handle, int((now - base) * 1000))
        core.made_output()
        # Nothing wakes this task when there is more to do earlier.
        await trio.sleep(_TICK if wait < 0 else min(max(wait, 1) / 1000, _TICK))
