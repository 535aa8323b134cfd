"""A client that may be asked for metrics, from before it is up."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from .server import MetricsServer

if TYPE_CHECKING:
    from .client import RunningClient

__all__ = ["Metered"]


class Metered:
    """Serves the metrics of one client, where that is wished; what it needs is loaded only then.

    :param sock: where it listens; None: nothing is served.
    """

    def __init__(self, sock: socket.socket | None) -> None:
        self._sock = sock
        self._running: RunningClient | None = None

    def measure(self, running: RunningClient) -> None:
        """Say what is measured: until then it is "starting"."""
        self._running = running

    async def run(self) -> None:
        """Serve until cancelled; return at once where nothing is served."""
        if self._sock is None:
            return
        from .client import ClientSource

        await MetricsServer(self._sock, ClientSource(lambda: self._running)).run()
