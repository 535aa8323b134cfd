"""When Windows was started, by ctypes: it tells one start of the machine from another."""

from __future__ import annotations

import ctypes
from ctypes import c_int64, c_uint32, c_uint64, pointer
from typing import Any

from ...errors import HostError

__all__ = ["SYSTEM_TIME_OF_DAY_INFORMATION", "TimeOfDay", "started"]

SYSTEM_TIME_OF_DAY_INFORMATION = 3


class TimeOfDay(ctypes.Structure):
    """``SYSTEM_TIMEOFDAY_INFORMATION``."""

    _fields_ = (
        ("BootTime", c_int64),
        ("CurrentTime", c_int64),
        ("TimeZoneBias", c_int64),
        ("CurrentTimeZoneId", c_uint32),
        ("reserved", c_uint32),
        ("boot_time_bias", c_uint64),
        ("sleep_time_bias", c_uint64),
    )


def started(native: Any = None) -> str:
    """Return the time of the last start of the machine, whatever its clock was set to since.

    :param native: ``ntdll.dll``.
    :raises HostError: Windows does not tell it.
    """
    native = native or ctypes.CDLL("ntdll.dll")
    ask = native["NtQuerySystemInformation"]
    ask.restype = c_uint32
    found = TimeOfDay()
    size = c_uint32(ctypes.sizeof(found))
    status = ask(c_uint32(SYSTEM_TIME_OF_DAY_INFORMATION), pointer(found), size, None)
    if status or not found.BootTime:
        raise HostError(
            f"Windows does not tell when it was started (status {status:#010x}), by which the "
            "journals of earlier starts are known: this needs Windows 10 or later itself"
        )
    return str((found.BootTime - found.boot_time_bias) & 0xFFFFFFFFFFFFFFFF)
