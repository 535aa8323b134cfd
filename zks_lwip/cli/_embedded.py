"""The embedded worker, begun once the options are parsed: it loads beside the command."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..gateway.options import parse_host_loopback

if TYPE_CHECKING:
    from ..vpn.worker_process import WorkerProcess

__all__ = ["embedded_worker"]


@contextmanager
def embedded_worker(options: Mapping[str, Any]) -> Iterator[WorkerProcess | None]:
    """Yield the embedded worker, begun; None where the options name another, and on Windows.

    It is gone when the block has been left, however that ends: an option may be found wrong later.

    :param options: those of the command.
    :raises ConfigError: ``host_loopback`` cannot be used.
    :raises WorkerUnreachable: it cannot be started.
    """
    if options["worker"] or sys.platform == "win32":
        yield None
        return
    from ..vpn.worker_process import begin_worker, worker_arguments

    wished = options["host_loopback"]
    loopback = wished is None or parse_host_loopback(wished) is not None
    with begin_worker(worker_arguments(loopback=loopback, user=options.get("user"))) as begun:
        yield begun
