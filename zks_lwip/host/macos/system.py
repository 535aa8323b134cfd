"""macOS, as steps act on it: the system's programs, the TUN, notes beside the journal."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...device import UtunDevice, open_utun
from ...net.uplinks import set_uplinks
from ..plan.config import STATE_DIR
from ..plan.macos.state import MacosState
from ..programs import run_program
from .observe import look

__all__ = ["MacosHostSystem"]


class MacosHostSystem:
    """This machine.

    :param state_dir: where journals are, and notes.
    """

    def __init__(self, state_dir: Path = STATE_DIR) -> None:
        self.device: UtunDevice | None = None
        self._state_dir = state_dir

    @property
    def is_root(self) -> bool:
        return os.geteuid() == 0

    def observe(self, netns: str | None, own_inode: int) -> MacosState:
        """Return the state of this machine, and lead the tunnel's sockets by its default routes."""
        state = look(self)
        found = {4: state.uplink4, 6: state.uplink6}
        set_uplinks({version: each.ifindex for version, each in found.items() if each})
        return state

    def run(self, argv: Sequence[str], text: str = "") -> str:
        return run_program(argv, text, errors=True)

    def indexes(self) -> Mapping[str, int]:
        return {name: index for index, name in socket.if_nameindex()}

    def open_tun(self, name: str, *, mtu: int) -> None:
        if self.device is None:
            self.device = open_utun(name, mtu=mtu)

    def close_tun(self) -> None:
        if self.device is not None:
            self.device.close()
            self.device = None

    def read_note(self, name: str) -> str | None:
        try:
            return (self._state_dir / name).read_text(encoding="ascii")
        except (FileNotFoundError, PermissionError):
            return None

    def write_note(self, name: str, text: str) -> None:
        path = self._state_dir / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        new.replace(path)

    def remove_note(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self._state_dir / name).unlink()

    def close(self) -> None:
        self.close_tun()
