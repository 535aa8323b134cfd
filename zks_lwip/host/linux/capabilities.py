"""Capabilities of a thread (capabilities(7)), by system calls.

Importing this is cheap, and works where there are none.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import functools
import os

from ...errors import PrivilegeError

__all__ = ["Capability", "limit", "prepare"]

_VERSION_3 = 0x20080522
_PR_SET_KEEPCAPS, _PR_CAPBSET_READ, _PR_CAPBSET_DROP = 8, 23, 24
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _AMBIENT_RAISE = 38, 47, 2


class Capability(enum.IntEnum):
    """Capabilities that a tunnel may need after its set-up, by their numbers."""

    DAC_OVERRIDE = 1
    """Files whose mode keeps root out, too: the root of the cgroups has no write permission."""
    NET_ADMIN = 12
    """Marks on sockets, routes, rules, the firewall, sysctls below ``net``."""
    NET_RAW = 13
    """Raw sockets, which ``ping`` may need."""


def prepare(kept: frozenset[Capability]) -> None:
    """Make ready for another user id: the capabilities of the calling thread outlive its change.

    :raises PrivilegeError: the kernel refuses.
    """
    _prctl(_PR_SET_KEEPCAPS, 1)
    _drop_bounding(kept)


def limit(kept: frozenset[Capability]) -> None:
    """Leave the calling thread these capabilities only, and never any more.

    :raises PrivilegeError: it does not have them.
    """
    _drop_bounding(kept)
    _set(kept)
    for capability in kept:
        _prctl(_PR_CAP_AMBIENT, _AMBIENT_RAISE, capability)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _drop_bounding(kept: frozenset[Capability]) -> None:
    """Bound what started programs may ever get; needs CAP_SETPCAP, so it comes first."""
    libc = _libc()
    number = 0
    while (bounded := libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0)) >= 0:
        if bounded and number not in kept and libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) != 0:
            if ctypes.get_errno() != errno.EPERM:
                raise _error("cannot drop a capability")
            return  # without CAP_SETPCAP a program cannot get more than this thread has, either
        number += 1


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Data(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


def _set(kept: frozenset[Capability]) -> None:
    bits = sum(1 << capability for capability in kept)
    data = (_Data * 2)(_Data(bits, bits, bits), _Data(0, 0, 0))
    if _libc().capset(ctypes.byref(_Header(_VERSION_3, 0)), data) != 0:
        raise _error(f"cannot keep {', '.join(capability.name for capability in kept)}")


def _prctl(*arguments: int) -> None:
    words = [ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:5]]
    if _libc().prctl(*words) != 0:
        raise _error("cannot set what programs may get")


def _error(what: str) -> PrivilegeError:
    return PrivilegeError(f"{what}: {os.strerror(ctypes.get_errno())}; start it as root")
