"""The control socket of an instance that runs: how it is served.

One per captured network namespace (:mod:`.place`), for root, and for whom
:mod:`.access` lets in: members of ``--control-group`` may read, and whom ``--allow-exclude`` names
may ``exclude``. A request is one line of JSON, ``{"command": "status"}``, and so is the answer,
``{"ok": …}`` or ``{"error": …}``. The connection that asked for ``disconnect`` is closed by the end
of the process, when the host is as it was before. :mod:`.client` is the other end. On Windows
:mod:`.loopback` takes the place of the socket, for administrators alone.

No client can hold up others: a user who has :data:`MAX_CONNECTIONS` loses the oldest to the next
one, and where there are :data:`MAX_USERS` users, one of them all.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import trio

from ..errors import ConfigError, HostError, PrivilegeError, ZksError
from ..host.state_directory import make_state_directory
from ..net.descriptors import is_scarcity, warn_of_scarcity
from . import loopback, loopback_server
from .access import ADMINISTRATOR, UNPROVEN, Access, Peer, own_user
from .place import MAX_LINE, OVER_LOOPBACK

__all__ = ["Command", "serve_control"]

_log = logging.getLogger(__name__)

MAX_CONNECTIONS = 8
"""Connections of one user that are served at a time."""
MAX_USERS = 32
"""Users, besides root and our own, whose connections are served at a time."""
MAX_UNPROVEN = 64
"""Connections over loopback that have not proven yet who they are."""
_SECONDS = 5.0
"""For a request to come, and for its answer to be taken."""
_BACKLOG = 64
_AGAIN = 0.5
"""Seconds until another attempt to accept, where there was no descriptor for it."""

Command = Callable[[Mapping[str, Any]], Awaitable[Any]]
"""Carries a request out; what it returns goes to JSON. May raise ZksError."""


async def serve_control(
    path: Path,
    commands: Mapping[str, Command],
    *,
    seconds: float = _SECONDS,
    access: Access | None = None,
    over_loopback: bool = OVER_LOOPBACK,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled.

    The caller holds the namespace's journal, so an old socket is of an instance that died. Whatever
    comes is answered, or the connection closed: nothing ends this.

    :param commands: what carries each command out.
    :param seconds: for a request to come, and as many for its answer to be read.
    :param access: what others than root may do; None: nothing.
    :param over_loopback: listen as :mod:`.loopback` says; ``access`` does not count there.
    :raises HostError: there can be no socket.
    """
    access = access or Access()
    meeting = None
    try:
        make_state_directory(path.parent)
        path.unlink(missing_ok=True)
        if over_loopback:
            plain, meeting = loopback_server.listen_at(path)
            listener = trio.socket.from_stdlib_socket(plain)
        else:
            listener = await _listen(path, access)
    except OSError as error:
        raise HostError(f"cannot make the control socket {path}: {error.strerror}") from error
    try:
        task_status.started()
        await _accept(listener, commands, seconds, access, meeting)
    finally:
        listener.close()
        # Without privileges the directory is not ours any more; what stays does not answer.
        with contextlib.suppress(PermissionError, FileNotFoundError):
            path.unlink()


async def _listen(path: Path, access: Access) -> trio.socket.SocketType:
    """Return a unix socket that listens, for whom it is for."""
    if sys.platform == "win32":
        raise OSError(errno.EAFNOSUPPORT, "there are no unix sockets")
    listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        await listener.bind(str(path))
        path.chmod(0o600)
        _let_in(path, access)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _let_in(path: Path, access: Access) -> None:
    """Let those connect who may do anything."""
    if sys.platform == "win32":
        return
    if access.open:  # the kernel could tell one group from the rest, and we are to tell more
        path.chmod(0o666)
    elif access.reading:
        os.chown(path, -1, next(iter(access.reading)))
        path.chmod(0o660)
    else:
        return
    path.parent.chmod(0o711)  # found by who knows the name, not listed


class _Clients:
    """Connections that are served, the oldest of each user first."""

    def __init__(self) -> None:
        self._of: dict[int, dict[trio.CancelScope, None]] = {}

    def add(self, uid: int, scope: trio.CancelScope) -> None:
        """Take one in; others may have to go for it."""
        mine = self._of.pop(uid, {})
        if len(mine) >= (MAX_UNPROVEN if uid == UNPROVEN.uid else MAX_CONNECTIONS):
            self._end(mine, 1)
        mine[scope] = None
        self._of[uid] = mine  # the last of them
        strangers = [each for each in self._of if each not in (0, own_user())]
        if len(strangers) > MAX_USERS:
            self._end(self._of.pop(strangers[0]), MAX_CONNECTIONS)

    def remove(self, uid: int, scope: trio.CancelScope) -> None:
        """Forget one that has ended."""
        mine = self._of.get(uid, {})
        mine.pop(scope, None)
        if not mine:
            self._of.pop(uid, None)

    @staticmethod
    def _end(scopes: dict[trio.CancelScope, None], count: int) -> None:
        for scope in list(scopes)[:count]:
            del scopes[scope]
            scope.cancel()
        _log.info("a user of the control socket has too many connections: the oldest is closed")


async def _accept(
    listener: trio.socket.SocketType,
    commands: Mapping[str, Command],
    seconds: float,
    access: Access,
    meeting: loopback.Meeting | None,
) -> None:
    clients = _Clients()

    async def serve(stream: trio.SocketStream, peer: Peer, scope: trio.CancelScope) -> None:
        try:
            with scope:
                async with stream:
                    if meeting is not None:
                        if not await _admit(stream, meeting, seconds):
                            return
                        clients.remove(peer.uid, scope)
                        peer = ADMINISTRATOR
                        clients.add(peer.uid, scope)
                    # What changes something, once begun, is not cut short by other connections.
                    begun = partial(clients.remove, peer.uid, scope) if peer.commands else None
                    await _serve(stream, commands, seconds, peer, access, begun)
        except trio.BrokenResourceError:
            _log.debug("a client of the control socket hung up")
        finally:
            clients.remove(peer.uid, scope)

    async with trio.open_nursery() as nursery:
        while True:
            try:
                connection, _ = await listener.accept()
            except ConnectionError as error:
                _log.debug("a client of the control socket was gone at once: %s", error)
                continue
            except OSError as error:
                if not is_scarcity(error):
                    raise
                warn_of_scarcity("a command on the control socket has to wait", error)
                await trio.sleep(_AGAIN)
                continue
            try:
                peer = Peer.of(connection) if meeting is None else UNPROVEN
            except OSError as error:
                _log.info("a client of the control socket is not known: %s", error)
                connection.close()
                continue
            if meeting is None and access.of(peer) == frozenset() and not access.open:
                connection.close()
                continue
            scope = trio.CancelScope()
            clients.add(peer.uid, scope)
            nursery.start_soon(serve, trio.SocketStream(connection), peer, scope)


async def _admit(stream: trio.SocketStream, meeting: loopback.Meeting, seconds: float) -> bool:
    with trio.move_on_after(seconds):
        if await loopback_server.admit(stream, meeting):
            return True
    _log.info("a client of the control socket has not proven that it is an administrator's")
    return False


async def _serve(
    stream: trio.SocketStream,
    commands: Mapping[str, Command],
    seconds: float,
    peer: Peer,
    access: Access,
    begun: Callable[[], None] | None,
) -> None:
    """Answer one request.

    :param begun: called before a command is carried out; None: it may be cut short.
    """
    request: dict[str, Any] = {}
    try:
        request = _parse(await _read_line(stream, seconds), commands)
        access.check(peer, request["command"])
    except ConfigError as error:
        answer: dict[str, Any] = {"error": str(error), "code": 1}
    except PrivilegeError as error:
        answer = {"error": str(error), "code": error.exit_code}
    else:
        if begun is not None:
            begun()
        who = {"pid": peer.pid, "uid": peer.uid}
        answer = await _carry_out(commands[request["command"]], {**request, **who})
    with trio.move_on_after(seconds) as scope:
        await stream.send_all(json.dumps(answer, default=str).encode() + b"\n")
    if scope.cancelled_caught:
        _log.info("a client of the control socket did not read its answer")
    elif "ok" in answer and request["command"] == "disconnect":
        stream.socket.detach()  # open until this process ends: its client waits for that


async def _read_line(stream: trio.SocketStream, seconds: float) -> bytes:
    """Return a request.

    :raises ConfigError: it is longer, or takes longer, than a request may.
    """
    line = bytearray()
    with trio.move_on_after(seconds) as scope:
        while b"\n" not in line:
            data = await stream.receive_some(4096)
            if not data:
                break
            line += data
            if len(line) > MAX_LINE:
                raise ConfigError(f"a request is one line of at most {MAX_LINE} bytes")
    if scope.cancelled_caught:
        raise ConfigError(f"the request was not there within {seconds:g} s")
    return bytes(line)


def _parse(line: bytes, commands: Mapping[str, Command]) -> dict[str, Any]:
    """Return what a line asks for.

    :raises ConfigError: it is no request, or none of ``commands``.
    """
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):  # nested more deeply than Python's stack
        request = None
    if not isinstance(request, dict) or not isinstance(request.get("command"), str):
        raise ConfigError('this is no request: send one line such as {"command": "status"}')
    if request["command"] not in commands:
        raise ConfigError(
            f"this is no request that is known here; give one of {', '.join(commands)}"
        )
    return request


async def _carry_out(command: Command, request: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {"ok": await command(request)}
    except ZksError as error:
        return {"error": str(error), "code": error.exit_code}
    except Exception as error:  # of this command, and not of what runs here
        if isinstance(error, OSError) and is_scarcity(error):
            warn_of_scarcity(f"the command {request['command']} failed", error)
            return {"error": f"it is short of something: {error}", "code": HostError.exit_code}
        _log.exception("internal error in what the control socket was asked for")
        return {"error": "internal error, see the log of `connect`", "code": 1}
