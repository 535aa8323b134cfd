"""What ``status`` prints, from what a running instance says of itself. Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["NO_UDP", "byte_count", "duration", "status_lines"]

NO_UDP = "no UDP: QUIC falls back to TCP, games and calls that need UDP fail"
"""What is said of a worker without UDP."""


def duration(seconds: float) -> str:
    """Return ``7 s``, ``12 min 5 s``, ``3 h 7 min`` or ``2 d 3 h``."""
    whole = int(seconds)
    for size, unit, below, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // below} {smaller}"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


def byte_count(count: int) -> str:
    """Return a number of bytes in a unit that keeps it below 1000."""
    value = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def status_lines(status: Mapping[str, Any], *, verbose: bool = False) -> list[str]:
    """Return one line a topic; with ``verbose``, the commands that are in force, too."""
    if status["tunnel"] is None:  # nothing runs
        return [f"{status['state']}: {status['problem']}"]
    worker = "the embedded worker" if status["embedded"] else status["worker"]
    where = "" if status["netns"] is None else f" of the namespace {status['netns']}"
    since = duration(status["state_seconds"])
    lines = [f"{status['state']}: {status['interface']}{where} → {worker}, for {since}"]
    if status["state"] != status["tunnel"]:
        lines = [
            f"{status['state']}: traffic goes out beside {status['interface']}{where} → {worker}, "
            f"{status['tunnel']} for {since}"
        ]
    if status["problem"]:
        lines.append(f"reason: {status['problem']}")
    lines += _workers(status["workers"])
    lines += [
        f"the worker carries {missing}"
        for name, missing in (("udp", NO_UDP), ("icmp", "no ping"))
        if not status["abilities"].get(name, True)
    ]
    lines += [_session(session) for session in status["sessions"]]
    lines += _pause(status["paused"])
    lines.append(_traffic(status["traffic"]))
    lines.append(f"process {status['pid']}, for {duration(time.time() - status['began'])}")
    held = f"kill switch: {status['kill_switch']}"
    if status["refused"] is not None:
        held += f", {_counted(status['refused'], 'packet')} refused"
    lines.append(held)
    if status["firewall_problem"]:
        lines.append(f"firewall: cannot be read: {status['firewall_problem']}")
    lines.append(f"LAN: {'reached directly' if status['lan'] else 'blocked'}")
    for name, key in (("bypass", "bypass"), ("only", "only"), ("inbound", "inbound")):
        if status[key]:
            lines.append(f"{name}: {', '.join(map(str, status[key]))}")
    if status["allow_exclude"]:
        count = len(status["excluded"])
        lines.append(
            f"exclude: allowed to root, {', '.join(status['allow_exclude'])}; {count} "
            f"{'process sends' if count == 1 else 'processes send'} beside the tunnel"
        )
    if status["forward"]:
        lines.append("forwarded packets: through the tunnel")
    if status["peers"] is not None:
        lines.append(f"our own sockets may reach: {', '.join(status['peers'])}")
    lines += [f"note: {note}" for note in status["notes"]]
    if verbose:
        lines += ["in force:", *(f"  {line}" for line in _split(status["in_force"]))]
    return lines


def _workers(workers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each of several workers."""
    lines = []
    for each in workers if len(workers) > 1 else ():
        seconds = each["connect_seconds"]
        far = "" if seconds is None else f", connects in {seconds * 1000:.0f} ms"
        use = "in use" if each["in_use"] else "not in use"
        if each["channels"] and not each["in_use"]:
            use = "carries what is left"
        problem = f": {each['problem']}" if each["problem"] else ""
        lines.append(f"worker {each['worker']}: {use}{far}{problem}")
    return lines


def _session(session: Mapping[str, Any]) -> str:
    """Return what is known of a session, in a line."""
    times = session["resumes"]
    said = [
        f"session: for {duration(session['seconds'])}",
        _counted(session["streams"], "connection"),
        f"resumed {times} {'time' if times == 1 else 'times'}",
    ]
    if not session["resumable"]:
        said[-1] = "cannot be resumed"
    if session["lost_seconds"] is not None:
        left = max(0.0, session["resumable"] - session["lost_seconds"])
        said.append(
            f"lost for {duration(session['lost_seconds'])}, can be resumed for {duration(left)} yet"
        )
    elif session["round_trip"]:
        said.append(f"round trip {session['round_trip'] * 1000:.0f} ms")
    if session["resumable"]:
        said.append(f"{byte_count(session['unacknowledged'])} unacknowledged")
    return ", ".join(said)


def _traffic(traffic: Mapping[str, int]) -> str:
    """Return what has gone through the tunnel, in a line."""
    size = {name: byte_count(count) for name, count in traffic.items()}
    return (
        f"TCP: {size['bytes_up']} up, {size['bytes_down']} down, "
        f"{_counted(traffic['connections'], 'connection')}, "
        f"{traffic['connections_opened']} in all; UDP: "
        f"{size['datagram_bytes_up']} up, {size['datagram_bytes_down']} down, "
        f"{traffic['datagrams_up']} and {traffic['datagrams_down']} datagrams; "
        f"DNS: {traffic['dns_queries']} queries"
    )


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
