"""Programs that are run to change a host: nft, resolvectl, resolvconf."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

from zks_lwip.errors import HostError, PrivilegeError

__all__ = ["run_program", "search_path"]

_TIMEOUT = 20


def search_path() -> str:
    """Where programs are looked for: nft(8) is where ordinary users' PATH does not reach."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin:/usr/local/sbin"


def run_program(argv: Sequence[str], text: str = "") -> str:
    """Run it with this on its standard input; what it printed. Blocks.

    :raises HostError: it is not installed, or failed; with what it said.
    :raises PrivilegeError: it was not permitted to.
    """
    environment = {**os.environ, "LC_ALL": "C", "PATH": search_path()}
    try:
        done = subprocess.run(
            argv, input=text.encode(), capture_output=True, timeout=_TIMEOUT, env=environment
        )
    except FileNotFoundError:
        raise HostError(f"{argv[0]} is not installed, but needed here") from None
    except (OSError, subprocess.SubprocessError) as error:
        raise HostError(f"{' '.join(argv)}: {error}") from error
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip()
        if "Operation not permitted" in reason:
            raise PrivilegeError(f"{' '.join(argv)}: {reason}; that needs root or CAP_NET_ADMIN")
        raise HostError(f"{' '.join(argv)} failed: {reason or done.returncode}")
    return done.stdout.decode(errors="replace")
