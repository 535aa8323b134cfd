"""Sysctl files of the network namespace that the calling thread is in."""

from __future__ import annotations

from pathlib import Path

__all__ = ["read_sysctl", "write_sysctl"]


def read_sysctl(name: str) -> str | None:
    """Return the value of a sysctl; None if the kernel does not have it."""
    try:
        return _path(name).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None


def write_sysctl(name: str, value: str) -> None:
    """Set a sysctl.

    :raises OSError: it cannot be set, or is not there.
    """
    _path(name).write_text(value, encoding="ascii")


def _path(name: str) -> Path:
    """Return the file of a sysctl; an interface may be called ``eth0.5``."""
    start, _, rest = name.partition(".conf.")
    path = Path("/proc/sys", *start.split("."))
    if not rest:
        return path
    interface, _, setting = rest.rpartition(".")
    return path / "conf" / interface / setting
