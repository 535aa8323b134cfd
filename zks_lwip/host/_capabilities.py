"""What a thread may do (capabilities(7)), by system calls."""

from __future__ import annotations

import ctypes
import enum
import errno
import os

from zks_lwip.errors import PrivilegeError

__all__ = ["Capability", "limit", "prepare"]

_VERSION_3 = 0x20080522
_PR_SET_KEEPCAPS, _PR_CAPBSET_READ, _PR_CAPBSET_DROP = 8, 23, 24
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _AMBIENT_RAISE = 38, 47, 2

_libc = ctypes.CDLL(None, use_errno=True)


class Capability(enum.IntEnum):
    """Those that a tunnel may need after its set-up."""

    NET_ADMIN = 12
    """Marks on sockets, routes, rules, the firewall, sysctls below ``net``."""
    NET_RAW = 13


def prepare(kept: frozenset[Capability]) -> None:
    """Before the thread becomes another user: what it has is to stay. Raises PrivilegeError."""
    _prctl(_PR_SET_KEEPCAPS, 1)
    _drop_bounding(kept)


def limit(kept: frozenset[Capability]) -> None:
    """Let the calling thread have these only, and never any more. Raises PrivilegeError."""
    _drop_bounding(kept)
    _set(kept)
    for capability in kept:
        _prctl(_PR_CAP_AMBIENT, _AMBIENT_RAISE, capability)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def _drop_bounding(kept: frozenset[Capability]) -> None:
    """What programs that we start may ever get; needs CAP_SETPCAP, so it comes first."""
    number = 0
    while (bounded := _libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0)) >= 0:
        if bounded and number not in kept and _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) != 0:
            if ctypes.get_errno() != errno.EPERM:
                raise _error("cannot drop a capability")
            return  # not ours to drop: then a program cannot get more than we have, either
        number += 1


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Data(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


def _set(kept: frozenset[Capability]) -> None:
    bits = sum(1 << capability for capability in kept)
    data = (_Data * 2)(_Data(bits, bits, bits), _Data(0, 0, 0))
    if _libc.capset(ctypes.byref(_Header(_VERSION_3, 0)), data) != 0:
        raise _error(f"cannot keep {', '.join(capability.name for capability in kept)}")


def _prctl(*arguments: int) -> None:
    words = [ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:5]]
    if _libc.prctl(*words) != 0:
        raise _error("cannot set what programs may get")


def _error(what: str) -> PrivilegeError:
    return PrivilegeError(f"{what}: {os.strerror(ctypes.get_errno())}; start it as root")
