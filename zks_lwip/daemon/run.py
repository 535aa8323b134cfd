"""Run an instance until it is told to stop: by a signal, or over its control socket."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import trio

from .console import ending_console
from .instance import Instance
from .systemd import notify

if TYPE_CHECKING:
    from ..config import VpnConfig
    from ..device import FdDevice
    from ..host.ssh import SshConnection
    from ..vpn import Vpn
    from ..vpn.worker_process import WorkerProcess

__all__ = ["Display", "run_instance"]

_log = logging.getLogger(__name__)

_STOP = {signal.SIGINT, signal.SIGTERM}
if sys.platform == "win32":
    _STOP |= {signal.SIGBREAK}
_HANGUP = {signal.SIGHUP} if hasattr(signal, "SIGHUP") else set()
"""What a terminal that is closed sends; under nohup(1) it is ignored, and stays so."""
_TELL = {signal.SIGUSR1} if hasattr(signal, "SIGUSR1") else set()


class Display(Protocol):
    """What shows the life of an instance to its user."""

    def ready(self, vpn: Vpn) -> None:
        """It is up for the first time."""
        ...

    def counters(self, stats: dict[str, Any]) -> None:
        """SIGUSR1 asks for the counters."""
        ...

    def ending(self, stats: dict[str, Any]) -> None:
        """It was up, and is going to end."""
        ...


async def run_instance(
    config: VpnConfig,
    display: Display,
    *,
    ssh: SshConnection | None = None,
    token_files: Sequence[Path] = (),
    metrics: socket.socket | None = None,
    device: FdDevice | None = None,
    begun: WorkerProcess | None = None,
) -> None:
    """Capture the host, and work until SIGINT, SIGTERM or ``disconnect``.

    So does SIGHUP, of a terminal that is closed, unless it is ignored; on Windows Ctrl-Break, and
    the end of the console. SIGUSR1 shows the counters.

    :param ssh: a connection that capturing the host must not cut.
    :param token_files: as of :class:`~.instance.Instance`.
    :param metrics: listens for those who ask for metrics.
    :param device: carries what comes from there instead: no host is captured, and nothing listens
        for ``disconnect``.
    :param begun: as of :func:`~zks_lwip.vpn.open_vpn`.
    :raises ZksError: see :func:`zks_lwip.vpn.open_vpn`.
    """
    from ..metrics import Metered
    from ..vpn import open_vpn

    metered = Metered(metrics)

    # What is restored when the receiver is closed: nothing that asks us to stop while we are
    # stopping may cut that short, or change the exit code.
    early: list[int] = []
    stop = _STOP | {each for each in _HANGUP if signal.getsignal(each) is not signal.SIG_IGN}
    for number in stop:
        signal.signal(number, lambda received, _: early.append(received))
    with ending_console(), trio.open_signal_receiver(*stop, *_TELL) as signals:
        if early:
            return
        async with trio.open_nursery() as nursery:
            # Not in the nursery of the rest: it is to answer for as long as there is a rest.
            with trio.CancelScope() as work:
                instance = Instance(config, nursery, work, token_files=token_files)
                nursery.start_soon(_obey, signals, instance, display)
                nursery.start_soon(metered.run)
                async with open_vpn(
                    config,
                    device=device,
                    capture=device is None,
                    ssh=ssh,
                    on_captured=instance.on_captured,
                    begun=begun,
                ) as vpn:
                    instance.vpn = vpn
                    metered.measure(vpn)
                    display.ready(vpn)
                    notify("READY=1", f"STATUS=connected to {vpn.worker}")
                    try:
                        await trio.sleep_forever()
                    finally:
                        notify("STOPPING=1")
                        display.ending(vpn.counters())
            nursery.cancel_scope.cancel()


async def _obey(signals: AsyncIterator[int], instance: Instance, display: Display) -> None:
    async for number in signals:
        if number not in _TELL:
            instance.stop()
            return
        if instance.vpn is not None:
            display.counters(instance.vpn.counters())
