"""What ``status --json`` says: its schema, the states, and the exit codes of ``status``.

Every key of :class:`Status` is there in every state; what nothing is known of is null, empty or 0.
Keys may be added, and are then described here; none changes its meaning.
"""

from __future__ import annotations

import enum
from typing import Any, TypedDict

__all__ = [
    "DOCTOR_FAILED",
    "EXIT_CODES",
    "MAX_SECONDS",
    "TIME_OVER",
    "OtherInstance",
    "Pause",
    "SessionStatus",
    "State",
    "Status",
    "Traffic",
    "WorkerStatus",
    "no_status",
]

MAX_SECONDS = 3600.0
"""No pause is longer."""


class State(enum.Enum):
    """The states, by the names that ``status`` gives them."""

    DISCONNECTED = "disconnected"
    """Nothing runs, and nothing is left: the machine is as it is without us."""
    CONNECTING = "connecting"
    """The host is closed, and the tunnel has not been up yet."""
    CONNECTED = "connected"
    """The tunnel is up."""
    LOST = "lost"
    """The tunnel was up, and will be again; traffic waits, and is refused after a while."""
    PAUSED = "paused"
    """The machine is open for a while, as was asked for, whatever the tunnel does."""
    STOPPING = "stopping"
    """It has been told to stop."""
    DEAD_CLOSED = "dead-closed"
    """The instance has died, and traffic is refused: ``recover`` opens the machine."""
    DEAD_OPEN = "dead-open"
    """The instance has died (in a pause, or without a kill switch), and traffic leaves freely."""
    UNKNOWN = "unknown"
    """It cannot be found out; ``problem`` says why, and the exit code is that of this error."""


EXIT_CODES = {
    State.CONNECTED: 0,
    State.DISCONNECTED: 30,
    State.CONNECTING: 31,
    State.LOST: 32,
    State.PAUSED: 33,
    State.STOPPING: 34,
    State.DEAD_CLOSED: 35,
    State.DEAD_OPEN: 36,
}
"""What ``status`` exits with."""
TIME_OVER = 37
"""What ``status --wait STATE=SECONDS`` exits with when the state has not come in time."""


DOCTOR_FAILED = 38
"""What ``doctor`` exits with when something does not work. What it says with ``--json`` is an
object with the key ``findings``, a list of objects: ``name`` (a word, may come more than once),
``level`` (ok, note, warning, failure), ``text`` and ``remedy`` (empty: nothing to be done).
"""


class WorkerStatus(TypedDict):
    """A worker."""

    worker: str  #: its URL
    in_use: bool  #: new connections go to it
    channels: int  #: WebSockets to it
    connect_seconds: float | None  #: that connecting takes; null: not known
    problem: str  #: why it is not well; empty if it is


class SessionStatus(TypedDict):
    """A session with a worker."""

    worker: str  #: the worker's URL
    seconds: float  #: its age
    resumes: int  #: how often it was resumed
    resumable: int  #: seconds for which it can be, 0: not at all
    lost_seconds: float | None  #: for how long it has had no WebSocket; null: it has one
    round_trip: float  #: in seconds, 0: not known
    unacknowledged: int  #: bytes that the worker has not acknowledged
    streams: int  #: connections that it carries


class Pause(TypedDict):
    """The pause that is, or the last one."""

    active: bool  #: the machine is open
    began: float  #: seconds since 1970
    seconds_left: float  #: until it ends by itself
    ended: float | None  #: seconds since 1970
    how: str  #: what ended it


class Traffic(TypedDict):
    """Counters since the start, but for ``connections``."""

    bytes_up: int  #: of TCP, from applications
    bytes_down: int  #: of TCP, to applications
    datagrams_up: int  #: of UDP
    datagrams_down: int
    datagram_bytes_up: int
    datagram_bytes_down: int
    connections: int  #: of TCP, now
    connections_opened: int  #: of TCP, in all
    dns_queries: int


class OtherInstance(TypedDict):
    """An instance that captures another network namespace."""

    netns: str | None  #: a name of ``ip netns``; null: it has none
    pid: int | None  #: of its process; null: this user may not know it
    interface: str | None


class Status(TypedDict):
    """All of it. "The instance" is the one that captures the namespace that was asked about."""

    state: str  #: of :class:`State`
    tunnel: str | None  #: the state without regard to a pause; null: no instance runs
    state_seconds: float  #: for how long the tunnel has been up, or not
    problem: str  #: why it is not connected; empty if it is
    pid: int | None  #: of the instance, also of one that died; null: none, or not known
    began: float | None  #: when it was started, seconds since 1970
    interface: str  #: the name of the TUN
    netns: str | None  #: the name of the namespace; null: the one that ``status`` runs in
    worker: str  #: URL of the worker in use
    workers: list[WorkerStatus]
    abilities: dict[str, bool]  #: whether the worker carries "udp", "ipv6", "icmp" …; {}: not known
    sessions: list[SessionStatus]
    embedded: bool  #: the worker is a child process
    kill_switch: str  #: strict, route, off; empty: no instance runs
    holds: bool  #: there is a kill switch
    refused: int | None  #: packets that the firewall has refused; null: there is none, or a pause
    firewall_problem: str  #: why that cannot be read
    paused: Pause | None  #: null: there was no pause
    lan: bool  #: the LAN is reached directly
    ipv6: str  #: auto, tunnel, block
    bypass: list[str]  #: what stays out of the tunnel
    only: list[str]  #: what alone goes through it; []: all does
    forward: bool  #: forwarded packets go through it
    inbound: list[int]  #: ports whose callers are answered the way they came
    allow_exclude: list[str]  #: users, and groups as @NAME, that may ``exclude`` programs
    excluded: list[int]  #: processes that send beside the tunnel, by such users' wish
    peers: list[str] | None  #: where the tunnel's own sockets may go; null: anywhere
    notes: list[str]
    in_force: list[str]  #: commands that would set up what is in force
    traffic: Traffic
    stats: dict[str, Any]  #: every counter; their names are no part of the schema
    others: list[OtherInstance]


def no_status() -> Status:
    """Return what is said where no instance runs; ``state`` and ``problem`` are to be set."""
    return Status(
        state=State.UNKNOWN.value,
        tunnel=None,
        state_seconds=0.0,
        problem="",
        pid=None,
        began=None,
        interface="",
        netns=None,
        worker="",
        workers=[],
        abilities={},
        sessions=[],
        embedded=False,
        kill_switch="",
        holds=False,
        refused=None,
        firewall_problem="",
        paused=None,
        lan=False,
        ipv6="",
        bypass=[],
        only=[],
        forward=False,
        inbound=[],
        allow_exclude=[],
        excluded=[],
        peers=None,
        notes=[],
        in_force=[],
        traffic=traffic_of({}),
        stats={},
        others=[],
    )


def traffic_of(stats: dict[str, Any]) -> Traffic:
    """Return the traffic in what :meth:`zks_lwip.vpn.Vpn.counters` tells; all 0 for nothing."""
    gateway = stats.get("gateway", {})

    def count(name: str) -> int:
        return int(gateway.get(name, 0))

    return Traffic(
        bytes_up=count("bytes_up"),
        bytes_down=count("bytes_down"),
        datagrams_up=count("datagrams_up"),
        datagrams_down=count("datagrams_down"),
        datagram_bytes_up=count("datagram_bytes_up"),
        datagram_bytes_down=count("datagram_bytes_down"),
        connections=count("flows"),
        connections_opened=count("flows_opened"),
        dns_queries=count("dns_queries"),
    )
