"""Programs that are run to change a host, or to look at it: nft, resolvectl and such."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from ..errors import HostError, PrivilegeError
from ..net.descriptors import scarcity_in

__all__ = ["read_program", "run_program", "search_path"]

_MAX_SECONDS = 20
# Of a program that is only asked: seconds, and bytes of its answer.
_MAX_ANSWER_SECONDS = 5.0
_MAX_ANSWER_BYTES = 16 << 20


def search_path() -> str:
    """Return where programs are looked for: ordinary users' PATH does not reach nft(8)."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin:/usr/local/sbin"


def run_program(argv: Sequence[str], text: str = "", *, errors: bool = False) -> str:
    """Run a program to its end. Blocks, up to 20 s.

    :param text: its standard input.
    :param errors: return what it printed on standard error, too, behind the rest.
    :returns: what it printed.
    :raises HostError: it is not installed, or failed; with what it said. Where that is a want of
        descriptors or memory, such an OSError is its cause.
    :raises PrivilegeError: it was not permitted to.
    """
    environment = {**os.environ, "LC_ALL": "C", "PATH": search_path()}
    try:
        done = subprocess.run(
            argv, input=text.encode(), capture_output=True, timeout=_MAX_SECONDS, env=environment
        )
    except FileNotFoundError:
        raise HostError(f"{argv[0]} is not installed, but needed here") from None
    except (OSError, subprocess.SubprocessError) as error:
        raise HostError(f"{' '.join(argv)}: {error}") from error
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip()
        if "Operation not permitted" in reason:
            raise PrivilegeError(f"{' '.join(argv)}: {reason}; that needs root or CAP_NET_ADMIN")
        failed = HostError(f"{' '.join(argv)} failed: {reason or done.returncode}")
        raise failed from scarcity_in(reason)
    said = done.stdout + done.stderr if errors else done.stdout
    return said.decode(errors="replace")


def read_program(
    argv: Sequence[str], *, most: int = _MAX_ANSWER_BYTES, patience: float = _MAX_ANSWER_SECONDS
) -> tuple[int, str]:
    """Run a program that may print anything. Blocks.

    :param most: bytes that it may print.
    :param patience: seconds that it may take.
    :returns: its exit code and what it printed.
    :raises HostError: it cannot be run, takes more time, or prints more. Says so without its name.
    """
    environment = {**os.environ, "LC_ALL": "C", "PATH": search_path()}
    end = time.monotonic() + patience
    null, pipe = subprocess.DEVNULL, subprocess.PIPE
    try:
        process = subprocess.Popen(
            argv,
            stdin=null,
            stdout=pipe,
            stderr=null,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise HostError(f"it cannot be run: {error.strerror}") from error
    with process, selectors.DefaultSelector() as selector:
        assert process.stdout is not None
        selector.register(process.stdout, selectors.EVENT_READ)
        found = bytearray()
        try:
            while selector.select(max(0.0, end - time.monotonic())):
                piece = os.read(process.stdout.fileno(), 1 << 16)
                found += piece
                if len(found) > most:
                    raise HostError(f"it printed more than {most >> 20} MiB")
                if not piece:
                    code = process.wait(max(0.1, end - time.monotonic()))
                    return code, found.decode(errors="replace")
        except subprocess.TimeoutExpired:
            pass  # it has closed its output, and goes on
        finally:
            if process.returncode is None:
                if sys.platform == "win32":
                    process.kill()
                else:
                    os.killpg(process.pid, signal.SIGKILL)
    raise HostError(f"it did not end within {patience:.1f} s")
