"""Which programs sockets belong to: /proc/net, and the descriptors of every process one may see."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Owner", "socket_owners"]

_SOCKET = re.compile(r"socket:\[(\d+)\]")
_TABLES = (("tcp", "tcp"), ("tcp", "tcp6"), ("udp", "udp"), ("udp", "udp6"))

Source = tuple[str, str, int]
"""Protocol, address and port."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A process that holds a socket."""

    pid: int
    program: str


def socket_owners(sources: Iterable[Source], proc: Path = Path("/proc")) -> dict[Source, Owner]:
    """Return who holds the sockets that send from there, in the network namespace of this thread.

    Of other users' processes only root is told. Blocks, for some milliseconds.

    :param proc: where proc(5) is.
    """
    wanted = set(sources)
    inodes: dict[str, list[Source]] = {}
    for protocol, name in _TABLES:
        for address, port, inode in _table(proc / "thread-self" / "net" / name):
            if (source := (protocol, address, port)) in wanted:
                inodes.setdefault(inode, []).append(source)
            if address in ("0.0.0.0", "::"):  # a UDP socket that is not bound to one address
                for source in wanted:
                    if source[0] == protocol and source[2] == port:
                        inodes.setdefault(inode, []).append(source)
    found: dict[Source, Owner] = {}
    if inodes:
        for pid, inode in _descriptors(proc):
            for source in inodes.get(inode, ()):
                if source not in found:
                    found[source] = Owner(pid, _program(proc, pid))
    return found


def _table(path: Path) -> Iterable[tuple[str, int, str]]:
    """Yield address, port and inode of each socket."""
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()[1:]
    except OSError:
        return
    for line in lines:
        fields = line.split()
        if len(fields) < 10:
            continue
        address, _, port = fields[1].partition(":")
        with contextlib.suppress(ValueError, struct.error):
            yield read_address(address), int(port, 16), fields[9]


def read_address(text: str) -> str:
    """Return an address as /proc/net has it: words in this machine's order of bytes."""
    words = [int(text[start : start + 8], 16) for start in range(0, len(text), 8)]
    address = ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def _descriptors(proc: Path) -> Iterable[tuple[int, str]]:
    """Yield each process and each of its sockets."""
    for name in os.listdir(proc):
        if not name.isdigit():
            continue
        folder = proc / name / "fd"
        try:
            entries = os.listdir(folder)
        except OSError:
            continue  # another user's, or it has ended
        for entry in entries:
            try:
                found = _SOCKET.match(os.readlink(folder / entry))
            except OSError:
                continue
            if found:
                yield int(name), found[1]


def _program(proc: Path, pid: int) -> str:
    try:
        return (proc / str(pid) / "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
