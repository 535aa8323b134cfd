"""What the process is born with, and what may be missing: descriptors, their limit, the locale."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
from pathlib import Path

import click

from ..errors import HostError

__all__ = [
    "caller_environment",
    "check_descriptor_limit",
    "check_system",
    "echo_or_go_on",
    "explain_os_error",
    "keep_exit_codes",
    "open_standard_streams",
]

_log = logging.getLogger(__name__)

MIN_DESCRIPTORS = 64
"""Descriptors that a command needs to work at all, with one connection to the worker and a few
files: 24 have been seen to be enough. A flow needs none in the client."""

_ENVIRON = Path("/proc/self/environ")


def open_standard_streams() -> None:
    """Have something at 0, 1 and 2, lest a socket or the TUN come to be there and be written to.

    The descriptors are closed by execve, so that the command of ``run`` finds them as they were.

    :raises HostError: one is closed, and there is no /dev/null to take its place.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            try:
                opened = os.open(os.devnull, os.O_RDWR)  # the lowest that is free: this one
            except OSError as error:
                raise HostError(
                    f"descriptor {fd} (standard input, output or error) is closed, and "
                    f"{os.devnull} cannot be opened instead: {error.strerror}; start it with "
                    "all three open"
                ) from error
            assert opened == fd


def keep_exit_codes() -> None:
    """Undo an ignored SIGCHLD, which is inherited: the kernel then forgets how children end.

    What nft, the embedded worker and the command of ``run`` ended with would be lost, and a refusal
    taken for a success.
    """
    if sys.platform != "win32" and signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def check_descriptor_limit() -> None:
    """Check that there may be enough descriptors.

    :raises HostError: there may be so few that nothing would work.
    """
    limit = _descriptor_limit()
    if limit is not None and limit < MIN_DESCRIPTORS:
        raise HostError(_few())


def check_system(command: str, *, only_on: str = "") -> None:
    """Check that this system has a command that captures a host, or asks who does.

    :param only_on: the one system that has it, as in ``sys.platform``.
    :raises HostError: it does not.
    """
    from ..host.platform import is_supported

    if only_on == "win32" and sys.platform != "win32":
        raise HostError(
            f"`{command}` works on Windows only, and this is {sys.platform}: examples/ has files "
            "for systemd and launchd."
        )
    if sys.platform == "linux" or (is_supported() and only_on != "linux"):
        return
    connect = "`connect`, " if is_supported() else ""
    raise HostError(
        f"`{command}` works on Linux only, and this is {sys.platform}. What runs here is "
        f"{connect}the worker, the proxy, and the TCP/IP stack for programs of yours "
        "(zks_lwip.stack)."
    )


def echo_or_go_on(text: str, *, err: bool = False) -> None:
    """Print a line of something that works on when its reader has gone (``connect | head -1``).

    What cannot be written is lost, and so is all that follows.
    """
    try:
        click.echo(text, err=err)
    except OSError as error:
        _log.info("standard %s cannot be written: %s", "error" if err else "output", error.strerror)
        stream = sys.stderr if err else sys.stdout
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())  # else what is still buffered fails at the end, too
            os.close(nowhere)
        except OSError as other:
            _log.info("it cannot be led to %s, either: %s", os.devnull, other.strerror)


def explain_os_error(error: BaseException) -> HostError | None:
    """Return what to say of an error if it tells that the machine ran out of something."""
    if not isinstance(error, OSError):
        return None
    if error.errno == errno.EMFILE:
        return HostError(_few())
    if error.errno == errno.ENFILE:
        return HostError(
            "the machine is out of file descriptors; see what holds them, or raise the limit "
            "(`sysctl fs.file-max`)"
        )
    return None


def caller_environment() -> dict[str, str]:
    """Return the caller's environment: in the C locale Python sets LC_CTYPE (PEP 538)."""
    environment = dict(os.environ)
    if sys.platform == "linux" and not sys.flags.ignore_environment:
        try:
            given = _ENVIRON.read_bytes()
        except OSError:
            return environment  # no /proc: LC_CTYPE is then a small matter
        if not any(entry.startswith(b"LC_CTYPE=") for entry in given.split(b"\0")):
            environment.pop("LC_CTYPE", None)
    return environment


def _descriptor_limit() -> int | None:
    """Return the hard limit, to which the soft one is raised; None: there is none."""
    if sys.platform == "win32":
        return None
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if hard == resource.RLIM_INFINITY else hard


def _few() -> str:
    return (
        f"too few file descriptors: the limit is {_descriptor_limit()}, and at least "
        f"{MIN_DESCRIPTORS} are needed; raise it (`ulimit -n 1024`, with systemd LimitNOFILE=)"
    )
