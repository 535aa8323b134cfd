"""What the process is born with, and what may be missing: descriptors, their limit, the locale."""

from __future__ import annotations

import errno
import os
import signal
import sys
from pathlib import Path

from ..errors import HostError

__all__ = [
    "caller_environment",
    "check_descriptor_limit",
    "explain_os_error",
    "keep_exit_codes",
    "open_standard_streams",
]

#: Descriptors that a command needs to work at all, with one connection to the worker and a few
#: files: 24 have been seen to be enough. A flow needs none in the client.
MIN_DESCRIPTORS = 64

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
    """:raises HostError: so few descriptors may be had that nothing would work."""
    limit = _descriptor_limit()
    if limit is not None and limit < MIN_DESCRIPTORS:
        raise HostError(_few())


def explain_os_error(error: BaseException) -> HostError | None:
    """The sentence for an error that says that the machine, not we, ran out of something."""
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
    """The environment that the caller gave us: in the C locale Python sets LC_CTYPE (PEP 538)."""
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
    """The hard limit, to which the soft one is raised; None: there is none."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if hard == resource.RLIM_INFINITY else hard


def _few() -> str:
    return (
        f"too few file descriptors: the limit is {_descriptor_limit()}, and at least "
        f"{MIN_DESCRIPTORS} are needed; raise it (`ulimit -n 1024`, with systemd LimitNOFILE=)"
    )
