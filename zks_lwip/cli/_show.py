"""What ``status`` prints, from what a running instance says of itself. Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

__all__ = ["duration", "status_lines"]


def duration(seconds: float) -> str:
    """``7 s``, ``12 min 5 s``, ``3 h 7 min``, ``2 d 3 h``."""
    whole = int(seconds)
    for size, unit, below, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // below} {smaller}"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


def status_lines(status: Mapping[str, Any], *, verbose: bool = False) -> list[str]:
    """One line a topic; with ``verbose``, the commands that are in force, too."""
    worker = "the embedded worker" if status["embedded"] else status["worker"]
    where = "" if status["netns"] is None else f" of the namespace {status['netns']}"
    since = duration(status["state_seconds"])
    lines = [f"{status['state']}: {status['interface']}{where} → {worker}, for {since}"]
    if status["problem"]:
        lines.append(f"reason: {status['problem']}")
    lines += _pause(status["paused"])
    lines.append(f"process {status['pid']}, for {duration(time.time() - status['began'])}")
    held = f"kill switch: {status['kill_switch']}"
    if status["refused"] is not None:
        held += f", {status['refused']} packets refused"
    lines.append(held)
    lines.append(f"LAN: {'reached directly' if status['lan'] else 'blocked'}")
    for name, key in (("bypass", "bypass"), ("only", "only"), ("inbound", "inbound")):
        if status[key]:
            lines.append(f"{name}: {', '.join(map(str, status[key]))}")
    if status["forward"]:
        lines.append("forwarded packets: through the tunnel")
    if status["peers"] is not None:
        lines.append(f"our own sockets may reach: {', '.join(status['peers'])}")
    lines += [f"note: {note}" for note in status["notes"]]
    if verbose:
        lines += ["in force:", *(f"  {line}" for line in _split(status["in_force"]))]
    return lines


def _split(commands: list[str]) -> list[str]:
    return [line for command in commands for line in command.split("\n")]


def _pause(pause: Mapping[str, Any] | None) -> list[str]:
    if pause is None:
        return []
    began = time.strftime("%H:%M:%S", time.localtime(pause["began"]))
    if pause["active"]:
        left = duration(pause["seconds_left"])
        return [f"PAUSED since {began}: traffic goes out beside the tunnel for another {left}"]
    ended = time.strftime("%H:%M:%S", time.localtime(pause["ended"]))
    return [f"last pause: {began} to {ended} ({pause['how']})"]
