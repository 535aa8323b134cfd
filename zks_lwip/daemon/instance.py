"""An instance that runs: what it says of itself, and what it is told over its control socket."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import trio

from .._util import one_line
from ..errors import ConfigError, HostError, PrivilegeError
from ..host.accounts import find_group
from ..host.plan.config import KillSwitch
from ..host.platform import current
from .access import Access, parse_allow_exclude
from .control import Command, serve_control
from .exclusion import exclude_process, keep_excluded
from .flows import MAX_FLOWS, Flows, OpenFlow, read_flow
from .pause import Pauses
from .place import control_path
from .states import MAX_SECONDS, State, Status, traffic_of
from .systemd import notify

if TYPE_CHECKING:
    from ..config import VpnConfig
    from ..tunnel import Tunnel
    from ..vpn import Vpn
    from ..vpn.capture import Capture
    from .states import Pause, SessionStatus, WorkerStatus

__all__ = ["Instance"]

_log = logging.getLogger(__name__)

_RECONNECT_SECONDS = 10.0
"""For which ``reconnect`` waits for another WebSocket."""
_LOOK_SECONDS = 0.05
_OPENED = ("sessions_resumed", "sessions_lost", "channels_opened")
"""Counters of the tunnel; one of them grows with each WebSocket that is up."""
_PATIENCE = 3.0
"""Seconds that the firewall's counter may take to be read."""


class Instance:
    """What is known of a running instance.

    :param nursery: for the control socket and the pauses.
    :param work: the instance itself, which :meth:`stop` cancels.
    :param token_files: where the tokens were read, for ``reload``, absolute: one for all workers or
        one for each; none: they came from elsewhere.
    """

    def __init__(
        self,
        config: VpnConfig,
        nursery: trio.Nursery,
        work: trio.CancelScope,
        *,
        token_files: Sequence[Path] = (),
    ) -> None:
        self._config = config
        self._token_files = token_files
        self._nursery = nursery
        self._work = work
        self._began = time.time()
        self._capture: Capture | None = None
        self._tunnel: Tunnel | None = None
        self._pauses: Pauses | None = None
        self.vpn: Vpn | None = None
        """Once it is up."""

    async def on_captured(self, capture: Capture, tunnel: Tunnel) -> None:
        """Listen for commands, and drop privileges that are not needed any more.

        To be called when the host is closed (:data:`~zks_lwip.vpn.local_end.OnCaptured`).
        """
        self._capture, self._tunnel = capture, tunnel
        self._pauses = Pauses(capture.host)
        path = control_path(capture.plan.config.state_dir, self._config.netns)
        commands: dict[str, Command] = {
            "status": self._status,
            "pause": self._pause,
            "disconnect": self._disconnect,
            "reconnect": self._reconnect,
            "token_files": self._tell_token_files,
            "reload": self._reload,
            "exclude": self._exclude,
            "flows": self._flows,
            "close_flow": self._close_flow,
        }
        await self._nursery.start(partial(serve_control, path, commands, access=self._access()))
        self._nursery.start_soon(self._pauses.run)
        if self._config.allow_exclude:
            self._nursery.start_soon(keep_excluded, capture.host)
        await current().drop_privileges(capture.host, user=self._config.user)
        if self._config.host.always_on:
            notify("READY=1", "STATUS=closed; connecting")

    def _access(self) -> Access:
        group = self._config.control_group
        users, groups = parse_allow_exclude(self._config.allow_exclude)
        return Access(
            reading=frozenset() if group is None else frozenset({find_group(group)}),
            exclude_users=users,
            exclude_groups=groups,
        )

    def stop(self) -> None:
        """End the instance, and open the host."""
        self._work.cancel()

    async def _disconnect(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._capture is not None
        self.stop()
        return {"pid": os.getpid(), "interface": self._capture.plan.config.tun}

    async def _reconnect(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Give up the WebSockets, and answer when there is another, or not soon."""
        assert self._tunnel is not None
        tunnel = self._tunnel

        def opened() -> int:
            counted = tunnel.stats()
            return sum(counted[name] for name in _OPENED)

        before = opened()
        tunnel.reconnect("asked for")
        with trio.move_on_after(_RECONNECT_SECONDS):
            while not tunnel.up or opened() == before:
                await trio.sleep(_LOOK_SECONDS)
        up = tunnel.up and opened() > before
        return {
            "connected": up,
            "problem": "" if up else tunnel.downtime.problem,
            "worker": str(tunnel.worker),
            "connections": sum(each["streams"] for each in tunnel.sessions()),
        }

    async def _reload(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Read token files, certificates that are trusted, hosts file and block lists again."""
        assert self._tunnel is not None
        tokens = request.get("tokens", [])
        if not isinstance(tokens, list) or not all(isinstance(each, str) for each in tokens):
            raise ConfigError("`tokens` is a list of tokens")
        config = self._config
        if config.dns is not None:
            await trio.to_thread.run_sync(partial(replace, config.dns))  # checks the lists
        if not config.embedded:
            old = [each.token for each in config.tunnel().workers]
            new = tokens * len(old) if len(tokens) == 1 else tokens or old
            if len(new) != len(old):
                raise ConfigError(f"there are {len(tokens)} tokens for {len(old)} workers")
            self._tunnel.renew(new)
        if self.vpn is not None:
            self.vpn.flush_dns()
        _log.info("reloaded, as asked for: tokens, certificates, hosts file and block lists")
        return {"tokens": len(tokens)}

    async def _tell_token_files(self, request: Mapping[str, Any]) -> list[str]:
        """Name the files that hold tokens: without privileges this process cannot read them any
        more, but root, who asks for ``reload``, can."""
        return [str(path) for path in self._token_files]

    async def _flows(self, request: Mapping[str, Any]) -> Flows:
        """Tell of what is open, the newest first."""
        vpn = self.vpn
        if vpn is None:
            return Flows(flows=[], left_out=0, slowest_names=[])
        found = sorted(vpn.flows(), key=lambda flow: flow.seconds)
        return Flows(
            flows=[
                OpenFlow(
                    protocol=flow.protocol,
                    source=flow.source,
                    destination=flow.destination,
                    name="" if flow.destination is None else vpn.name_of(flow.destination[0]),
                    via=flow.via,
                    state=flow.state,
                    seconds=flow.seconds,
                    bytes_up=flow.bytes_up,
                    bytes_down=flow.bytes_down,
                )
                for flow in found[:MAX_FLOWS]
            ],
            left_out=max(0, len(found) - MAX_FLOWS),
            slowest_names=vpn.slowest_names(),
        )

    async def _close_flow(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Reset a connection, or forget an association."""
        flow = read_flow(request)
        closed = self.vpn is not None and self.vpn.close_flow(flow)
        if closed:
            _log.info("%s %s was closed, as asked for", flow.protocol, flow.source)
        return {"closed": closed}

    async def _exclude(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Have the process that asks, and those that it starts, send beside the tunnel."""
        assert self._capture is not None
        if not self._config.allow_exclude:
            raise ConfigError(
                "this instance lets no program send beside the tunnel: start `connect` with "
                "`allow_exclude` USER, or @GROUP"
            )
        pid, uid = int(request["pid"]), int(request["uid"])
        await exclude_process(self._capture.host, pid, uid)
        _log.info("process %d of user %d sends beside the tunnel, as asked for", pid, uid)
        return {"name_server": self._capture.host.plan.name_server}

    async def _pause(self, request: Mapping[str, Any]) -> dict[str, Any] | None:
        assert self._pauses is not None
        seconds = request.get("seconds")
        if seconds is None:
            if not await self._pauses.end("asked for"):
                raise ConfigError("there is no pause to be ended")
        elif isinstance(seconds, (int, float)) and 1 <= seconds <= MAX_SECONDS:
            await self._pauses.begin(seconds)
        else:
            raise ConfigError(f"a pause takes 1 to {MAX_SECONDS:g} s")
        return self._pauses.status()

    async def _status(self, request: Mapping[str, Any]) -> Status:
        assert self._capture and self._tunnel and self._pauses
        plan, downtime = self._capture.host.plan, self._tunnel.downtime
        held = plan.config.kill_switch
        refused, unreadable = None, ""
        try:
            with trio.move_on_after(_PATIENCE):
                refused = await self._capture.host.refused()
        except (HostError, PrivilegeError) as error:  # deleted by another program, not put back yet
            unreadable = one_line(" ".join(str(error).split()))
        stats = {} if self.vpn is None else self.vpn.counters()
        tunnel = self._state()
        shown = State.PAUSED if self._pauses.active and tunnel is not State.STOPPING else tunnel
        return {
            "pid": os.getpid(),
            "began": self._began,
            "state": shown.value,
            "tunnel": tunnel.value,
            "state_seconds": _since(downtime.changed),
            "problem": "" if downtime.up else downtime.problem,
            "worker": str(self._tunnel.worker),
            "workers": cast("list[WorkerStatus]", self._tunnel.workers()),
            "abilities": self._tunnel.abilities(),
            "sessions": cast("list[SessionStatus]", self._tunnel.sessions()),
            "embedded": self._config.embedded,
            "interface": plan.config.tun,
            "netns": plan.config.netns,
            "kill_switch": held.value,
            "refused": refused,
            "firewall_problem": unreadable,
            "paused": cast("Pause | None", self._pauses.status()),
            "lan": plan.config.lan,
            "ipv6": self._config.ipv6.value,
            "bypass": [str(network) for network in plan.config.bypass]
            + [f"user:{user}" for user in plan.config.bypass_users],
            "only": [str(network) for network in plan.config.only],
            "forward": plan.config.forward,
            "inbound": list(plan.config.inbound),
            "allow_exclude": list(self._config.allow_exclude),
            "excluded": self._capture.host.excluded(),
            "peers": None
            if plan.config.peers is None or plan.mark is None
            else [str(network) for network in plan.config.peers],
            "notes": list(plan.notes),
            "in_force": [] if self._pauses.active else plan.render(),
            "holds": held is not KillSwitch.OFF,
            "traffic": traffic_of(stats),
            "stats": stats,
            "others": [],  # the one who asks looks for them
        }

    def _state(self) -> State:
        """Return the state of the tunnel, whether the host is open or closed."""
        assert self._tunnel is not None
        if self._work.cancel_called:
            return State.STOPPING
        if self._tunnel.up:
            return State.CONNECTED
        return State.CONNECTING if self.vpn is None else State.LOST


def _since(moment: float | None) -> float:
    """Return the seconds since a moment of ``trio.current_time``."""
    return 0.0 if moment is None else max(0.0, trio.current_time() - moment)
