"""Every kind of step: an example of each, and what holds for all of them."""

from __future__ import annotations

import ast
import errno
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("steps are for Linux", allow_module_level=True)

from tests.kits.host import FakeSystem
from tests.unit.host.test_plan import CASES, LAPTOP, address
from zks_lwip.host.apply import Applier
from zks_lwip.host.plan import steps
from zks_lwip.host.plan.make import make_plan
from zks_lwip.host.plan.state import HostLink, HostState
from zks_lwip.host.plan.step import KINDS, from_json, kind, to_json
from zks_lwip.host.plan.steps import (
    SYSCTLS,
    Address,
    Cgroup,
    LinkDns,
    LinkUp,
    Marking,
    Nftables,
    Resolvconf,
    Route,
    Rule,
    Step,
    Sysctl,
    Tun,
)
from zks_lwip.host.plan.system import System

PLAN = Path(steps.__file__).parents[1]

EXAMPLES: dict[Step, dict[str, object]] = {
    Nftables("add table inet zks_lwip\n"): {
        "kind": "Nftables",
        "ruleset": "add table inet zks_lwip\n",
    },
    Sysctl(SYSCTLS[0], "1", "0"): {
        "kind": "Sysctl",
        "name": "net.ipv4.conf.all.src_valid_mark",
        "value": "1",
        "previous": "0",
    },
    Route(4, 31339, 20000): {"kind": "Route", "family": 4, "table": 31339, "metric": 20000},
    Route(6, 31339, 100, "zks0"): {
        "kind": "Route",
        "family": 6,
        "table": 31339,
        "metric": 100,
        "device": "zks0",
    },
    Rule(4, 101, None, fwmark=31339): {
        "kind": "Rule",
        "family": 4,
        "priority": 101,
        "fwmark": 31339,
    },
    Rule(4, 105, 254, ipproto="udp", sport=68, dport=67, iif="lo"): {
        "kind": "Rule",
        "family": 4,
        "priority": 105,
        "table": 254,
        "ipproto": "udp",
        "sport": 68,
        "dport": 67,
        "iif": "lo",
    },
    Rule(6, 115, 254, to="fd00::/8", uid=7, source="fd01::/64"): {
        "kind": "Rule",
        "family": 6,
        "priority": 115,
        "table": 254,
        "to": "fd00::/8",
        "uid": 7,
        "source": "fd01::/64",
    },
    Tun("zks0", 1500, 8192, True, "/dev/net/tun"): {
        "kind": "Tun",
        "name": "zks0",
        "mtu": 1500,
        "queue_length": 8192,
        "vnet_hdr": True,
        "node": "/dev/net/tun",
    },
    LinkUp("zks0", True): {"kind": "LinkUp", "device": "zks0", "ipv6": True},
    Address("zks0", "198.18.0.1/30"): {
        "kind": "Address",
        "device": "zks0",
        "interface": "198.18.0.1/30",
    },
    LinkDns("zks0", "198.18.0.2"): {"kind": "LinkDns", "device": "zks0", "server": "198.18.0.2"},
    Resolvconf("tun.zks0", "198.18.0.2", "search a"): {
        "kind": "Resolvconf",
        "record": "tun.zks0",
        "server": "198.18.0.2",
        "wishes": "search a",
    },
    Cgroup("/sys/fs/cgroup/unified/zks_lwip-1"): {
        "kind": "Cgroup",
        "path": "/sys/fs/cgroup/unified/zks_lwip-1",
    },
    Marking("/sys/fs/cgroup/zks_lwip-1", 7): {
        "kind": "Marking",
        "path": "/sys/fs/cgroup/zks_lwip-1",
        "mark": 7,
    },
}
"""Steps, and their lines in a journal: those of earlier versions have to be read."""

SEEN = replace(
    LAPTOP,
    ours=frozenset(step for step in EXAMPLES if isinstance(step, (Route, Rule))),
    nft_table=True,
    sysctls={SYSCTLS[0]: "1"},
    links=(*LAPTOP.links, HostLink(9, "zks0", "tun")),
    addresses=(*LAPTOP.addresses, address("zks0", "198.18.0.1/30")),
)
"""The host with every example in force."""
NOT_SEEN = (Tun, LinkDns, Resolvconf, Cgroup, Marking)
"""Kinds that a look at the host does not tell of."""

each = pytest.mark.parametrize("step", EXAMPLES, ids=lambda step: type(step).__name__)


def test_there_is_an_example_of_every_kind() -> None:
    ours = {name: cls for name, cls in KINDS.items() if cls.__module__.startswith(steps.__name__)}
    assert {type(step) for step in EXAMPLES} == set(ours.values())
    assert {name for name, value in vars(steps).items() if ours.get(name) is value} == set(ours)


@each
def test_its_line_in_the_journal(step: Step) -> None:
    assert to_json(step) == EXAMPLES[step] and list(to_json(step)) == list(EXAMPLES[step])
    assert from_json(json.loads(json.dumps(EXAMPLES[step]))) == step


@each
def test_doing_and_undoing_it(step: Step) -> None:
    """What is done through the system is undone through it, or goes with the TUN; twice, too."""
    system = FakeSystem()
    system.sysctls = {f"net.ipv6.conf.zks0.{name}": "9" for name in ("disable_ipv6", "accept_ra")}
    step.do(system)
    assert system.calls and step.commands()
    system.calls.clear()
    step.undo(system)
    if not step.vanishes or isinstance(step, LinkDns):
        assert len(system.calls) == len(step.undo_commands()) == 1
    else:
        assert system.calls == [] and step.undo_commands() == []


@each
@pytest.mark.parametrize("number", [errno.EEXIST, errno.ENODEV, errno.ENOENT])
def test_doing_it_twice_is_harmless(step: Step, number: int) -> None:
    """The kernel's refusals of what is there, or has gone, are none."""
    system = FakeSystem()

    def refuse(call: tuple[Any, ...]) -> None:
        if call[0] == "netlink" and call[2] in ("add", "del"):
            raise OSError(number, "as ordered")

    system.refuse = refuse
    if number == errno.EEXIST:
        step.do(system)
    else:
        step.undo(system)


@each
def test_whether_it_is_there(step: Step) -> None:
    if isinstance(step, NOT_SEEN):
        assert step.is_there(SEEN) is None and step.is_there(HostState()) is None
    else:
        assert step.is_there(SEEN) is True
        assert step.is_there(HostState()) is (None if isinstance(step, Sysctl) else False)


@each
def test_what_a_dead_instance_leaves(step: Step) -> None:
    """What goes with the TUN has gone; resolvconf's record cannot be seen, and is taken away."""
    gone = isinstance(step, Tun) or step.vanishes
    assert step.remains(SEEN) == (not gone)
    assert step.remains(HostState()) == isinstance(step, (Resolvconf, Cgroup, Marking))


@each
def test_what_a_journal_has_to_know(step: Step) -> None:
    assert step.replaces(step) and step.recorded().replaces(step)
    assert step.recorded().undo_commands() == step.undo_commands()
    assert step.in_journal_only == isinstance(step, (Sysctl, Resolvconf, Cgroup, Marking))
    refuses = isinstance(step, Route) and step.device is None
    assert step.closes == (isinstance(step, (Nftables, Rule)) or refuses)


def test_what_takes_the_place_of_another() -> None:
    assert Nftables("a").replaces(Nftables("b"))
    assert Sysctl(SYSCTLS[0], "1", "0").replaces(Sysctl(SYSCTLS[0], "2", "0"))
    assert not Sysctl(SYSCTLS[0], "1", "0").replaces(Sysctl(SYSCTLS[1], "1", "0"))
    assert Resolvconf("a", "198.18.0.2").replaces(Resolvconf("a", "198.18.1.2"))
    assert not Route(4, 1, 2).replaces(Route(6, 1, 2))


def test_a_sysctl_that_another_has_changed_is_left() -> None:
    system = FakeSystem()
    step = Sysctl(SYSCTLS[0], "1", "0")
    step.do(system)
    system.sysctls[step.name] = "2"
    step.undo(system)
    assert system.sysctls[step.name] == "2"


@pytest.mark.parametrize("name", CASES)
def test_steps_survive_the_journal(name: str) -> None:
    for step in make_plan(*CASES[name]).steps:
        assert from_json(to_json(step)) == step


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"kind": "Step"},
        {"kind": "Rule"},
        {"kind": "Rule", "family": "4", "priority": 1, "table": 1},
        {"kind": "Rule", "family": 4, "priority": True, "table": 1},
        {"kind": "Rule", "family": 4, "priority": 1, "table": 1, "more": 1},
        {"kind": "Sysctl", "name": "a", "value": "1"},
        {"kind": "Sysctl", "name": "a", "value": "1", "previous": None},
        {"kind": "Sysctl", "name": "kernel.core_pattern", "value": "1", "previous": "|x"},
        {"kind": "Sysctl", "name": "net.ipv4.conf.all.rp_filter", "value": "2", "previous": "|x"},
        {"kind": "Sysctl", "name": "../../tmp/x", "value": "1", "previous": "2"},
        {"kind": "Resolvconf", "record": "-u", "server": "198.18.0.2"},
        {"kind": "Resolvconf", "record": "../x", "server": "198.18.0.2"},
        {"kind": "Cgroup", "path": "/sys/fs/cgroup/system.slice"},
        {"kind": "Cgroup", "path": "/sys/fs/cgroup/../../etc/zks_lwip-1"},
    ],
)
def test_what_is_no_step(data: object) -> None:
    with pytest.raises(ValueError, match="no "):
        from_json(data)


def test_every_step_can_be_shown() -> None:
    kinds: dict[str, Step] = {}
    for config, state in CASES.values():
        kinds |= {type(step).__name__: step for step in make_plan(config, state).steps}
    for step in kinds.values():
        assert step.commands() and (step.undo_commands() or step.vanishes)


def test_a_new_kind_is_one_class() -> None:
    """The journal, doing and undoing know it without a word elsewhere."""

    @kind
    @dataclass(frozen=True, slots=True)
    class Hostname(Step):
        name: str

        def commands(self) -> list[str]:
            return [f"hostname {self.name}"]

        def do(self, system: System) -> None:
            system.run(["hostname", self.name])

    try:
        step = from_json(json.loads(json.dumps(to_json(Hostname("a")))))
        system = FakeSystem()
        Applier(system).do(step)
        assert step == Hostname("a") and system.calls == [("run", ["hostname", "a"], "")]
        assert not step.remains(SEEN) and not step.closes
    finally:
        del KINDS["Hostname"]


def test_plans_have_no_input_and_output() -> None:
    """No module of ``plan`` starts a program, waits, or speaks to the kernel."""
    for path in PLAN.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(alias.name for alias in node.names)]
            found = {name.split(".")[0] for name in names}
            assert not found & {"pyroute2", "subprocess", "trio", "linux"}, path
