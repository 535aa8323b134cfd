"""The schema of ``status --json``, and the exit codes."""

from __future__ import annotations

import json

import pytest

from zks_lwip import errors
from zks_lwip.daemon.states import EXIT_CODES, TIME_OVER, State, no_status, traffic_of

from ...kits.status_schema import check_status


def test_what_is_said_of_nothing_has_every_key() -> None:
    check_status(json.loads(json.dumps(no_status())))


def test_the_check_finds_what_is_missing_or_wrong() -> None:
    for change in ({"pid": "5"}, {"more": 1}, {"traffic": {}}, {"state": "fine"}, {"lan": None}):
        with pytest.raises(AssertionError):
            check_status({**no_status(), **change})


def test_every_state_has_an_exit_code_of_its_own() -> None:
    codes = [*EXIT_CODES.values(), TIME_OVER]
    others = {kind.exit_code for kind in vars(errors).values() if hasattr(kind, "exit_code")}
    assert len(set(codes)) == len(codes) and not {*codes} & (others | {70, 130})
    assert EXIT_CODES.keys() == set(State) - {State.UNKNOWN}


def test_traffic_is_what_the_gateway_counts() -> None:
    told = traffic_of({"gateway": {"flows": 2, "flows_opened": 9, "bytes_up": 7, "else": 1}})
    assert (told["connections"], told["connections_opened"], told["bytes_up"]) == (2, 9, 7)
    assert set(traffic_of({}).values()) == {0}
