"""A ``connect`` that runs: what it tells, and what it is told over its control socket."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import trio

from ..config import KillSwitch, VpnConfig
from ..control import Command, control_path, serve_control
from ..errors import ConfigError
from ..host.unprivileged import drop_privileges
from ..pausing import MOST_SECONDS, Pauses
from ._notify import notify

if TYPE_CHECKING:
    from ..capture import Capture
    from ..tunnel.pool import Tunnel
    from ..vpn import Vpn

__all__ = ["Instance"]

#: Seconds that the firewall's counter may take to be read.
_PATIENCE = 3.0


class Instance:
    """What is known of a running ``connect``: ``nursery`` is for what serves it, ``work`` is it."""

    def __init__(self, config: VpnConfig, nursery: trio.Nursery, work: trio.CancelScope) -> None:
        self._config = config
        self._nursery = nursery
        self._work = work
        self._began = time.time()
        self._capture: Capture | None = None
        self._tunnel: Tunnel | None = None
        self._pauses: Pauses | None = None
        self.vpn: Vpn | None = None
        """Once it is up."""

    async def prepared(self, capture: Capture, tunnel: Tunnel) -> None:
        """The host is closed: listen for commands, and give away what is not needed any more."""
        self._capture, self._tunnel = capture, tunnel
        self._pauses = Pauses(capture.host)
        path = control_path(capture.plan.config.state_dir, self._config.netns)
        commands: dict[str, Command] = {
            "status": self._status,
            "pause": self._pause,
            "disconnect": self._disconnect,
        }
        await self._nursery.start(serve_control, path, commands)
        self._nursery.start_soon(self._pauses.run)
        await drop_privileges(capture.host, user=self._config.user)
        if self._config.host.always_on:
            notify("READY=1", "STATUS=closed; connecting")

    def stop(self) -> None:
        """End it, and open the host."""
        self._work.cancel()

    async def _disconnect(self, request: Mapping[str, Any]) -> str:
        self.stop()
        return "stopping"

    async def _pause(self, request: Mapping[str, Any]) -> dict[str, Any] | None:
        assert self._pauses is not None
        seconds = request.get("seconds")
        if seconds is None:
            if not await self._pauses.end("asked for"):
                raise ConfigError("there is no pause to be ended")
        elif isinstance(seconds, (int, float)) and 1 <= seconds <= MOST_SECONDS:
            await self._pauses.begin(seconds)
        else:
            raise ConfigError(f"a pause takes 1 to {MOST_SECONDS:g} s")
        return self._pauses.status()

    async def _status(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._capture and self._tunnel and self._pauses
        plan, downtime = self._capture.host.plan, self._tunnel.downtime
        held = plan.config.kill_switch
        refused = None
        with trio.move_on_after(_PATIENCE):
            refused = await self._capture.host.refused()
        return {
            "pid": os.getpid(),
            "began": self._began,
            "state": self._state(),
            "state_seconds": _since(downtime.changed),
            "problem": "" if downtime.up else downtime.problem,
            "worker": str(self._tunnel.config.worker),
            "embedded": self._config.embedded,
            "interface": plan.config.tun,
            "netns": plan.config.netns,
            "kill_switch": held.value,
            "refused": refused,
            "paused": self._pauses.status(),
            "lan": plan.config.lan,
            "ipv6": self._config.ipv6.value,
            "bypass": [str(network) for network in plan.config.bypass]
            + [f"user:{user}" for user in plan.config.bypass_users],
            "only": [str(network) for network in plan.config.only],
            "forward": plan.config.forward,
            "inbound": list(plan.config.inbound),
            "peers": None
            if plan.config.peers is None or plan.mark is None
            else [str(network) for network in plan.config.peers],
            "notes": list(plan.notes),
            "in_force": [] if self._pauses.active else plan.render(),
            "holds": held is not KillSwitch.OFF,
            "stats": {} if self.vpn is None else self.vpn.stats(),
        }

    def _state(self) -> str:
        assert self._tunnel is not None
        if self._work.cancel_called:
            return "stopping"
        if self._tunnel.up:
            return "connected"
        return "connecting" if self.vpn is None else "lost"


def _since(moment: float | None) -> float:
    """Seconds since a moment of ``trio.current_time``."""
    return 0.0 if moment is None else max(0.0, trio.current_time() - moment)
