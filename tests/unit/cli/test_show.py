"""What ``status`` prints of sessions."""

from __future__ import annotations

from typing import Any

import pytest

from zks_lwip.cli.show import NO_UDP, status_lines

STATUS: dict[str, Any] = {
    "state": "connected",
    "tunnel": "connected",
    "interface": "zks0",
    "netns": None,
    "embedded": False,
    "worker": "wss://w.example/tunnel",
    "workers": [],
    "abilities": {"udp": True, "icmp": True, "dns": True, "ipv6": True},
    "sessions": [],
    "state_seconds": 5.0,
    "problem": "",
    "paused": None,
    "pid": 7,
    "began": 0.0,
    "kill_switch": "strict",
    "refused": None,
    "firewall_problem": "",
    "lan": False,
    "bypass": [],
    "only": [],
    "inbound": [],
    "allow_exclude": [],
    "excluded": [],
    "forward": False,
    "peers": None,
    "traffic": {
        "bytes_up": 12_300_000,
        "bytes_down": 5,
        "datagrams_up": 3,
        "datagrams_down": 4,
        "datagram_bytes_up": 1500,
        "datagram_bytes_down": 0,
        "connections": 2,
        "connections_opened": 17,
        "dns_queries": 6,
    },
    "notes": [],
}
SESSION: dict[str, Any] = {
    "worker": "wss://w.example/tunnel",
    "seconds": 3725.0,
    "resumes": 2,
    "resumable": 60,
    "lost_seconds": None,
    "round_trip": 0.0123,
    "unacknowledged": 1234567,
    "streams": 4,
}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {},
            "session: for 1 h 2 min, 4 connections, resumed 2 times, round trip 12 ms, "
            "1.2 MB unacknowledged",
        ),
        (
            {"resumes": 1, "lost_seconds": 12.0, "unacknowledged": 0},
            "session: for 1 h 2 min, 4 connections, resumed 1 time, lost for 12 s, "
            "can be resumed for 48 s yet, 0 B unacknowledged",
        ),
        (
            {"resumable": 0, "resumes": 0, "round_trip": 0.0},
            "session: for 1 h 2 min, 4 connections, cannot be resumed",
        ),
    ],
)
def test_a_session_is_a_line(changes: dict[str, Any], line: str) -> None:
    assert line in status_lines({**STATUS, "sessions": [SESSION | changes]})


def test_what_the_worker_does_not_carry_is_said() -> None:
    without = {"udp": False, "icmp": False, "dns": True, "ipv6": True}
    told = [line for line in status_lines({**STATUS, "abilities": without}) if "carries" in line]
    assert told == [f"the worker carries {NO_UDP}", "the worker carries no ping"]
    for abilities in (STATUS["abilities"], {}):  # it has all of it; or nothing is known yet
        assert not [
            line for line in status_lines({**STATUS, "abilities": abilities}) if "carries" in line
        ]


def test_the_traffic_is_a_line() -> None:
    assert (
        "TCP: 12.3 MB up, 5 B down, 2 connections, 17 in all; UDP: 1.5 KB up, 0 B down, "
        "3 and 4 datagrams; DNS: 6 queries"
    ) in status_lines(STATUS)


def test_a_pause_is_the_first_thing_that_is_said() -> None:
    pause = {"active": True, "began": 0.0, "seconds_left": 60.0, "ended": None, "how": ""}
    lines = status_lines({**STATUS, "state": "paused", "paused": pause})
    assert lines[0].startswith("paused: traffic goes out beside zks0 → wss://w.example/tunnel, con")
    assert any(line.startswith("PAUSED since") for line in lines)


def test_where_nothing_runs_there_is_one_line() -> None:
    nothing = {"state": "dead-open", "tunnel": None, "problem": "the machine is OPEN: …"}
    assert status_lines(nothing) == ["dead-open: the machine is OPEN: …"]
