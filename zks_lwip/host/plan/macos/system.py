"""What steps act through on a Mac: an interface that ``host/macos`` and tests fulfil."""

from __future__ import annotations

from typing import Protocol

from ..system import Programs

__all__ = ["MacosSystem"]


class MacosSystem(Programs, Protocol):
    """A Mac that steps change: its programs, the TUN, and a few words that outlive the process.

    Every method may also raise OSError; who does a step turns that into an error that names it.
    """

    def open_tun(self, name: str, *, mtu: int) -> None:
        """Make the TUN, unless this system has it open."""
        ...

    def close_tun(self) -> None:
        """Close the TUN, with which it vanishes, if this system has it open."""
        ...

    def read_note(self, name: str) -> str | None:
        """Return what was kept beside the journal under that name; None: nothing."""
        ...

    def write_note(self, name: str, text: str) -> None:
        """Keep a text beside the journal until the machine starts again."""
        ...

    def remove_note(self, name: str) -> None:
        """Forget it; harmless where there is nothing."""
        ...
