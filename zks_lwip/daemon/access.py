"""Who may give which command over the control socket."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from ..errors import ConfigError, PrivilegeError
from ..host.accounts import find_group, find_user
from ..net.darwin import LOCAL_PEERCRED, LOCAL_PEERPID, SOL_LOCAL, XUCRED

__all__ = [
    "ADMINISTRATOR",
    "EXCLUDING",
    "READING",
    "UNPROVEN",
    "Access",
    "Peer",
    "own_user",
    "parse_allow_exclude",
]

READING = frozenset({"status", "flows"})
"""Commands that change nothing: what members of ``--control-group`` may give."""
EXCLUDING = frozenset({"exclude"})
"""What ``--allow-exclude`` allows."""

_SO_PEERGROUPS = 59  # socket(7); Python has no name for it
_MAX_GROUPS = 256  # that fit into what getsockopt takes in Python, 1024 bytes


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end of a unix socket, as it was when it connected."""

    pid: int
    """0: not visible from here."""
    uid: int
    groups: frozenset[int]

    @classmethod
    def of(cls, connection: socket.socket | trio.socket.SocketType) -> Peer:
        """Ask the kernel who has connected.

        :raises OSError: it does not tell.
        """
        if sys.platform == "darwin":
            credentials = connection.getsockopt(SOL_LOCAL, LOCAL_PEERCRED, XUCRED.size)
            pid = connection.getsockopt(SOL_LOCAL, LOCAL_PEERPID)
            return cls.of_xucred(credentials, pid)
        if sys.platform == "win32":
            return UNPROVEN  # there are no unix sockets
        size = struct.calcsize("3i")
        packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        assert isinstance(packed, bytes)
        pid, uid, gid = struct.unpack("3i", packed)
        return cls(pid, uid, frozenset({gid, *_groups(connection, uid, gid)}))

    @classmethod
    def of_xucred(cls, credentials: bytes, pid: int) -> Peer:
        """Read what macOS tells of who has connected (``struct xucred``)."""
        _, uid, count, *groups = XUCRED.unpack(credentials)
        return cls(pid, uid, frozenset(groups[:count]))

    @property
    def commands(self) -> bool:
        """It may give every command."""
        return self.uid in (0, own_user())


ADMINISTRATOR = Peer(0, 0, frozenset())
"""One that has proven over loopback what only an administrator can know."""
UNPROVEN = Peer(0, -1, frozenset())
"""One over loopback that has not yet."""


def own_user() -> int:
    """Return the user id of this process; 0 on Windows, where an administrator runs it."""
    if sys.platform == "win32":
        return 0
    return os.getuid()


def _groups(
    connection: socket.socket | trio.socket.SocketType, uid: int, gid: int
) -> Sequence[int]:
    """Return the supplementary groups of who has connected."""
    if sys.platform == "win32":
        return ()
    try:
        packed = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _MAX_GROUPS)
    except OSError as error:
        if error.errno not in (errno.ERANGE, errno.ENOPROTOOPT):  # too many; before Linux 4.13
            raise
    else:
        assert isinstance(packed, bytes)
        return struct.unpack(f"{len(packed) // 4}I", packed)
    import pwd

    with contextlib.suppress(KeyError):
        return os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    return ()


@dataclass(frozen=True, slots=True)
class Access:
    """What others than root may ask for."""

    reading: frozenset[int] = frozenset()
    """Groups whose members may give the commands of :data:`READING`."""
    exclude_users: frozenset[int] = frozenset()
    exclude_groups: frozenset[int] = frozenset()

    @property
    def open(self) -> bool:
        """Anyone may connect, to be asked who they are: not only one group may do anything."""
        return bool(self.exclude_users or self.exclude_groups)

    def of(self, peer: Peer) -> frozenset[str] | None:
        """Return the commands that a peer may give; None: every one."""
        if peer.commands:
            return None
        may: frozenset[str] = frozenset()
        if peer.groups & self.reading:
            may |= READING
        if peer.uid in self.exclude_users or peer.groups & self.exclude_groups:
            may |= EXCLUDING
        return may

    def check(self, peer: Peer, command: str) -> None:
        """Refuse a command that a peer may not give.

        :raises PrivilegeError: says what would allow it.
        """
        may = self.of(peer)
        if may is None or command in may:
            return
        if command in EXCLUDING:
            raise PrivilegeError(
                f"user {peer.uid} may not `{command}`: start `connect` with `allow_exclude` USER, "
                "or @GROUP, or run this as root"
            )
        how = " (or a member of the group that `control_group` of `connect` names)"
        also = how if command in READING else ""
        raise PrivilegeError(f"only root{also} may `{command}`: run it as root")


def parse_allow_exclude(texts: Sequence[str]) -> tuple[frozenset[int], frozenset[int]]:
    """Read ``USER`` and ``@GROUP``, names or numbers.

    :returns: user ids and group ids.
    :raises ConfigError: there is no such user or group.
    """
    users: set[int] = set()
    groups: set[int] = set()
    for text in texts:
        name = text.removeprefix("@")
        if not name:
            raise ConfigError(f"{text!r}: give a user, or @GROUP", "allow_exclude")
        if name.isascii() and name.isdigit() and int(name) < 2**32 - 1:
            (users if name == text else groups).add(int(name))
        elif name == text:
            users.add(find_user(name, "allow_exclude").pw_uid)
        else:
            groups.add(find_group(name, "allow_exclude"))
    return frozenset(users), frozenset(groups)
