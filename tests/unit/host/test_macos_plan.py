"""Plans for a Mac, compared with golden files of the commands that they stand for.

``ZKS_GOLDEN=write python -m pytest tests/unit/host`` writes them anew; read the difference.
"""

from __future__ import annotations

import ast
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("the fake has a device of POSIX", allow_module_level=True)

from tests.kits.macos import FakeMac
from tests.kits.plans import check_golden, networks
from zks_lwip.host.macos.observe import look
from zks_lwip.host.plan import macos
from zks_lwip.host.plan.config import HostConfig, KillSwitch
from zks_lwip.host.plan.macos import steps
from zks_lwip.host.plan.macos.make import make_plan
from zks_lwip.host.plan.macos.state import MacosState
from zks_lwip.host.plan.macos.steps import (
    DirectRoute,
    PfAnchor,
    PfEnable,
    RefusingRoute,
    ScutilDns,
    TunRoute,
    Utun,
    UtunAddress,
    UtunUp,
)
from zks_lwip.host.plan.state import HostState, Leftover
from zks_lwip.host.plan.step import KINDS, Step, from_json, to_json

MACBOOK = look(FakeMac().process())
WORKER = HostConfig(tun="utun", peers=networks("203.0.113.9/32", "2001:db8:9::9/128"))
V4_ONLY = replace(
    MACBOOK,
    ipv6=False,
    uplink6=None,
    addresses=tuple(a for a in MACBOOK.addresses if a.interface.version == 4),
)
CASES: dict[str, tuple[HostConfig, MacosState]] = {
    "macos-default": (WORKER, MACBOOK),
    "macos-no-ipv6": (replace(WORKER, ipv6=False), MACBOOK),
    "macos-ipv4-only": (WORKER, V4_ONLY),
    "macos-closed-lan": (replace(WORKER, lan=False, block_dot=True), MACBOOK),
    "macos-bypass": (
        replace(WORKER, bypass=networks("198.51.100.0/24", "2001:db8:7::/48"), mtu=1400),
        MACBOOK,
    ),
    "macos-only": (replace(WORKER, only=networks("192.0.2.0/24", "2001:db8:5::/48")), MACBOOK),
    "macos-off": (replace(WORKER, kill_switch=KillSwitch.OFF), MACBOOK),
    "macos-worker-on-the-lan": (replace(WORKER, peers=networks("192.168.1.7/32")), MACBOOK),
    "macos-no-uplink": (WORKER, replace(MACBOOK, uplink4=None, uplink6=None)),
}


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    check_golden(make_plan(*CASES[name]), name)


@pytest.mark.parametrize("name", CASES)
def test_what_closes_comes_first_and_what_opens_last(name: str) -> None:
    config, state = CASES[name]
    kinds = [type(step) for step in make_plan(config, state).steps]
    if config.kill_switch is KillSwitch.STRICT:
        assert kinds[:2] == [PfAnchor, PfEnable]
    order = [kinds.index(kind) for kind in (RefusingRoute, Utun, TunRoute) if kind in kinds]
    assert order == sorted(order) and kinds[-1] is ScutilDns


EXAMPLES: dict[Step, dict[str, object]] = {
    PfAnchor("block all\n"): {"kind": "PfAnchor", "ruleset": "block all\n"},
    PfEnable(): {"kind": "PfEnable"},
    Utun("utun5", 1500): {"kind": "Utun", "name": "utun5", "mtu": 1500},
    UtunAddress("utun5", "198.18.0.1/30", "198.18.0.2"): {
        "kind": "UtunAddress",
        "device": "utun5",
        "interface": "198.18.0.1/30",
        "peer": "198.18.0.2",
    },
    UtunUp("utun5"): {"kind": "UtunUp", "device": "utun5"},
    TunRoute("0.0.0.0/1", "utun5"): {
        "kind": "TunRoute",
        "destination": "0.0.0.0/1",
        "device": "utun5",
    },
    RefusingRoute("::/1"): {"kind": "RefusingRoute", "destination": "::/1"},
    DirectRoute("203.0.113.9/32", "192.168.1.1", "en0", True): {
        "kind": "DirectRoute",
        "destination": "203.0.113.9/32",
        "gateway": "192.168.1.1",
        "interface": "en0",
        "scoped": True,
    },
    ScutilDns("198.18.0.2"): {"kind": "ScutilDns", "server": "198.18.0.2"},
}
"""Steps, and their lines in a journal: those of earlier versions have to be read."""

each = pytest.mark.parametrize("step", EXAMPLES, ids=lambda step: type(step).__name__)


def test_there_is_an_example_of_every_kind() -> None:
    ours = {cls for cls in KINDS.values() if cls.__module__ == steps.__name__}
    assert {type(step) for step in EXAMPLES} == ours and len(ours) == 9


@each
def test_its_line_in_the_journal(step: Step) -> None:
    assert to_json(step) == EXAMPLES[step]
    assert from_json(json.loads(json.dumps(EXAMPLES[step]))) == step


@each
def test_doing_it_twice_and_undoing_it_twice_is_harmless(step: Step) -> None:
    mac = FakeMac()
    system = mac.process()
    system.open_tun("utun5", mtu=1500)
    before = mac.snapshot()
    step.do(system)
    done = mac.snapshot()
    step.do(system)
    assert step.vanishes or mac.snapshot() == done
    if not isinstance(step, Utun):
        assert step.is_there(system.observe(None, 0)) is True
    step.undo(system)
    step.undo(system)
    if isinstance(step, Utun):
        assert "utun5" not in mac.interfaces
    elif not isinstance(step, (UtunAddress, UtunUp)):
        assert mac.snapshot() == before
        assert step.is_there(system.observe(None, 0)) is False
        assert not step.remains(system.observe(None, 0))


@each
def test_what_a_journal_has_to_know(step: Step) -> None:
    assert step.replaces(step) and step.recorded().replaces(step)
    assert step.recorded().undo_commands() == step.undo_commands()
    assert step.closes == isinstance(step, (PfAnchor, PfEnable))
    assert step.commands() and (step.undo_commands() or step.vanishes)


@pytest.mark.parametrize(
    "data",
    [
        {"kind": "TunRoute", "destination": "-foo", "device": "utun5"},
        {"kind": "RefusingRoute", "destination": "::/1 -x"},
        {"kind": "DirectRoute", "destination": "1.2.3.4", "gateway": "1.1.1.1", "interface": "en0"},
        {"kind": "PfEnable", "token": "1"},
    ],
)
def test_what_is_no_step(data: object) -> None:
    with pytest.raises(ValueError, match="no |not appear"):
        from_json(data)


def test_what_a_dead_instance_has_left_and_the_new_one_does_not_want() -> None:
    old = DirectRoute("198.51.100.7/32", "192.168.1.1", "en0", True)
    state = replace(
        MACBOOK,
        table=MACBOOK.table | {old.entry()},
        pf_loaded=True,
        pf_noted=True,
        dns_set=True,
        leftover=Leftover(7, (PfAnchor(""), PfEnable(), old, TunRoute("0.0.0.0/1", "utun9"))),
    )
    assert make_plan(WORKER, state).stale == (old,)
    off = replace(WORKER, kill_switch=KillSwitch.OFF)
    assert make_plan(off, state).stale == (old, PfEnable(), PfAnchor(""))


def test_the_state_of_another_system() -> None:
    with pytest.raises(TypeError, match="no Mac"):
        make_plan(WORKER, HostState())


def test_plans_have_no_input_and_output() -> None:
    for path in Path(macos.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(alias.name for alias in node.names)]
            found = {name.split(".")[0] for name in names}
            assert not found & {"subprocess", "trio", "socket", "os"}, path
