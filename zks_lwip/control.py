"""The control socket of an instance that runs: ``status``, ``pause`` and ``disconnect`` ask there.

One per captured network namespace, ``/run/zks_lwip/net-INODE.sock``, for root only. A request is
one line of JSON, ``{"command": "status"}``, and so is the answer, ``{"ok": …}`` or
``{"error": …}``. The connection that asked for ``disconnect`` is closed by the end of the process,
when the host is as it was before.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import trio

from ._descriptors import is_scarcity, warn_of_scarcity
from .device._netns import namespace_id
from .errors import ConfigError, HostError, PrivilegeError, ZksError

__all__ = ["Command", "NotRunning", "ask", "control_path", "serve_control"]

_log = logging.getLogger(__name__)

_MOST = 65536  # bytes of a request or an answer
_SECONDS = 5.0  # for a request to come, and for its answer to be taken
_AT_ONCE = 8
_AGAIN = 0.5  # seconds until another attempt to accept, where there was no descriptor for it

Command = Callable[[Mapping[str, Any]], Awaitable[Any]]
"""Carries a request out; what it returns goes to JSON. May raise ZksError."""


class NotRunning(HostError):
    """No instance runs in that network namespace."""

    exit_code = 1


def control_path(directory: Path, netns: str | None) -> Path:
    """The socket of the instance that captures a namespace (None: ours).

    Raises :class:`ConfigError` if there is no such namespace.
    """
    return directory / f"net-{namespace_id(netns)}.sock"


async def serve_control(
    path: Path,
    commands: Mapping[str, Command],
    *,
    seconds: float = _SECONDS,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled. Whoever calls this holds the namespace's journal, so an old socket is
    of an instance that died. A request may take ``seconds`` to come, as may its answer to be read.
    Whatever comes is answered, or the connection closed: nothing ends this.

    Raises :class:`HostError` if there can be no socket.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            await listener.bind(str(path))
            path.chmod(0o600)
            listener.listen(_AT_ONCE)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise HostError(f"cannot make the control socket {path}: {error.strerror}") from error
    try:
        task_status.started()
        await _accept(listener, commands, seconds)
    finally:
        listener.close()
        # Without privileges the directory is not ours any more; nobody answers there, then.
        with contextlib.suppress(PermissionError, FileNotFoundError):
            path.unlink()


async def _accept(
    listener: trio.socket.SocketType, commands: Mapping[str, Command], seconds: float
) -> None:
    limit = trio.Semaphore(_AT_ONCE)
    async with trio.open_nursery() as nursery:
        while True:
            await limit.acquire()
            try:
                connection, _ = await listener.accept()
            except OSError as error:
                if not is_scarcity(error):
                    raise
                limit.release()
                warn_of_scarcity("a command on the control socket has to wait", error)
                await trio.sleep(_AGAIN)
                continue

            async def serve(stream: trio.SocketStream) -> None:
                try:
                    async with stream:
                        await _serve(stream, commands, seconds)
                except trio.BrokenResourceError:
                    _log.debug("a client of the control socket hung up")
                finally:
                    limit.release()

            nursery.start_soon(serve, trio.SocketStream(connection))


async def _serve(
    stream: trio.SocketStream, commands: Mapping[str, Command], seconds: float
) -> None:
    peer = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    assert isinstance(peer, bytes)
    pid, uid, _ = struct.unpack("3i", peer)
    if uid not in (0, os.getuid()):
        return
    request: dict[str, Any] = {}
    try:
        request = _parse(await _read_line(stream, seconds), commands)
    except ConfigError as error:
        answer: dict[str, Any] = {"error": str(error), "code": 1}
    else:
        answer = await _carry_out(commands[request["command"]], {**request, "pid": pid})
    with trio.move_on_after(seconds) as scope:
        await stream.send_all(json.dumps(answer, default=str).encode() + b"\n")
    if scope.cancelled_caught:
        _log.info("a client of the control socket did not read its answer")
    elif "ok" in answer and request["command"] == "disconnect":
        stream.socket.detach()  # open until this process ends: its client waits for that


async def _read_line(stream: trio.SocketStream, seconds: float) -> bytes:
    """Raises ConfigError for what is longer, or takes longer, than a request may."""
    line = bytearray()
    with trio.move_on_after(seconds) as scope:
        while b"\n" not in line:
            data = await stream.receive_some(4096)
            if not data:
                break
            line += data
            if len(line) > _MOST:
                raise ConfigError(f"a request is one line of at most {_MOST} bytes")
    if scope.cancelled_caught:
        raise ConfigError(f"the request was not there within {seconds:g} s")
    return bytes(line)


def _parse(line: bytes, commands: Mapping[str, Command]) -> dict[str, Any]:
    """Raises ConfigError for what is no request."""
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


def ask(path: Path, command: str, *, wait: bool = False, **values: Any) -> Any:
    """Have the instance at ``path`` carry a command out; what it answers. Blocks, 30 s at most,
    with ``wait`` until it has ended.

    Raises :class:`NotRunning`, :class:`PrivilegeError`, and for what it answers
    :class:`ConfigError` or :class:`HostError`.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(30)
        try:
            connection.connect(str(path))
            connection.sendall(json.dumps({"command": command, **values}).encode() + b"\n")
            with connection.makefile("rb") as lines:
                line = lines.readline(_MOST)
                if wait and line:
                    lines.read()
        except (FileNotFoundError, ConnectionRefusedError):
            raise NotRunning(
                "nothing runs here: no `connect` has captured this namespace"
            ) from None
        except PermissionError as error:
            raise PrivilegeError(f"cannot use {path}: {error.strerror}; run it as root") from None
        except OSError as error:
            what = "no answer" if isinstance(error, TimeoutError) else error.strerror
            raise HostError(f"{path}: {what}") from error
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict) or not answer.keys() & {"ok", "error"}:
        raise HostError(f"{path}: what runs there hung up without an answer")
    if "error" in answer:
        kind = ConfigError if answer.get("code") == ConfigError.exit_code else HostError
        raise kind(str(answer["error"]))
    return answer["ok"]
