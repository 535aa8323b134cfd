"""Plans for Windows, compared with golden files of the commands that they stand for.

``ZKS_GOLDEN=write python -m pytest tests/unit/host`` writes them anew; read the difference.
"""

from __future__ import annotations

import ast
import ipaddress
import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.kits.plans import check_golden, networks
from tests.kits.windows import FakeWindows
from zks_lwip.errors import ConfigError, DeviceError, HostError
from zks_lwip.host.plan import windows
from zks_lwip.host.plan.config import HostConfig, KillSwitch
from zks_lwip.host.plan.state import HostState, Leftover
from zks_lwip.host.plan.step import KINDS, Step, from_json, to_json
from zks_lwip.host.plan.windows import steps
from zks_lwip.host.plan.windows.filters import Filter, filters, parse_filter, refuse_ipv6
from zks_lwip.host.plan.windows.make import make_plan, with_state
from zks_lwip.host.plan.windows.state import WindowsRoute, WindowsState
from zks_lwip.host.plan.windows.steps import (
    AdapterAddress,
    AdapterResolver,
    AdapterRoute,
    AdapterSettings,
    BypassRoute,
    WfpFilters,
    WfpPermitTun,
    WintunAdapter,
)

LAPTOP = FakeWindows().look()
WORKER = HostConfig(peers=networks("203.0.113.9/32", "2001:db8:9::9/128"))
CASES: dict[str, tuple[HostConfig, WindowsState]] = {
    "windows-default": (WORKER, LAPTOP),
    "windows-no-ipv6": (replace(WORKER, ipv6=False), LAPTOP),
    "windows-ipv4-only": (WORKER, replace(LAPTOP, ipv6=False, uplink6=None)),
    "windows-closed-lan": (replace(WORKER, lan=False, block_dot=True, persistent=True), LAPTOP),
    "windows-bypass": (
        replace(WORKER, bypass=networks("198.51.100.0/24", "2001:db8:7::/48"), mtu=1400),
        LAPTOP,
    ),
    "windows-only": (replace(WORKER, only=networks("192.0.2.0/24", "2001:db8:5::/48")), LAPTOP),
    "windows-off": (replace(WORKER, kill_switch=KillSwitch.OFF), LAPTOP),
    "windows-off-no-ipv6": (replace(WORKER, kill_switch=KillSwitch.OFF, ipv6=False), LAPTOP),
    "windows-no-uplink": (WORKER, replace(LAPTOP, uplink4=None, uplink6=None)),
}


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    check_golden(make_plan(*CASES[name]), name)


@pytest.mark.parametrize("name", CASES)
def test_what_closes_comes_first_and_what_opens_last(name: str) -> None:
    config, state = CASES[name]
    kinds = [type(step) for step in make_plan(config, state).steps]
    if config.kill_switch is KillSwitch.STRICT:
        assert kinds[0] is WfpFilters
    order = [kinds.index(kind) for kind in (WintunAdapter, AdapterRoute) if kind in kinds]
    assert order == sorted(order) and kinds[-1] is AdapterResolver


RULE = "permit out4 app peer 203.0.113.9/32"
EXAMPLES: dict[Step, dict[str, object]] = {
    WfpFilters(RULE, True): {"kind": "WfpFilters", "lines": RULE, "persistent": True},
    WintunAdapter("zks0", 1500): {"kind": "WintunAdapter", "name": "zks0", "mtu": 1500},
    WfpPermitTun("zks0"): {"kind": "WfpPermitTun", "device": "zks0"},
    AdapterSettings("zks0", 4, 1500, 1): {
        "kind": "AdapterSettings",
        "device": "zks0",
        "version": 4,
        "mtu": 1500,
        "metric": 1,
    },
    AdapterAddress("zks0", "198.18.0.1/30"): {
        "kind": "AdapterAddress",
        "device": "zks0",
        "interface": "198.18.0.1/30",
    },
    AdapterRoute("0.0.0.0/1", "zks0"): {
        "kind": "AdapterRoute",
        "destination": "0.0.0.0/1",
        "device": "zks0",
    },
    BypassRoute("198.51.100.0/24", "192.168.1.1", "Ethernet"): {
        "kind": "BypassRoute",
        "destination": "198.51.100.0/24",
        "gateway": "192.168.1.1",
        "interface": "Ethernet",
    },
    AdapterResolver("zks0", "198.18.0.2"): {
        "kind": "AdapterResolver",
        "device": "zks0",
        "server": "198.18.0.2",
    },
}
"""Steps, and their lines in a journal: those of earlier versions have to be read."""

each = pytest.mark.parametrize("step", EXAMPLES, ids=lambda step: type(step).__name__)


def test_there_is_an_example_of_every_kind() -> None:
    ours = {cls for cls in KINDS.values() if cls.__module__ == steps.__name__}
    assert {type(step) for step in EXAMPLES} == ours and len(ours) == 8


@each
def test_its_line_in_the_journal(step: Step) -> None:
    assert to_json(step) == EXAMPLES[step]
    assert from_json(json.loads(json.dumps(EXAMPLES[step]))) == step


@each
def test_doing_it_twice_and_undoing_it_twice_is_harmless(step: Step) -> None:
    machine = FakeWindows()
    system = machine.process()
    system.open_tun("zks0", mtu=1500)
    before = machine.snapshot()
    step.do(system)
    done = machine.snapshot()
    step.do(system)
    assert machine.snapshot() == done
    if not isinstance(step, WintunAdapter):
        assert step.is_there(machine.look()) is True
    step.undo(system)
    step.undo(system)
    if isinstance(step, WintunAdapter):
        assert "zks0" not in machine.links
    elif not isinstance(step, AdapterAddress | AdapterSettings):
        assert machine.snapshot() == before
        assert step.is_there(machine.look()) is False
        assert not step.remains(machine.look())


@each
def test_what_a_journal_has_to_know(step: Step) -> None:
    assert step.replaces(step) and step.recorded().replaces(step)
    assert step.recorded().undo_commands() == step.undo_commands()
    assert step.closes == isinstance(step, WfpFilters)
    assert step.commands() and (step.undo_commands() or step.vanishes)


@pytest.mark.parametrize(
    "data",
    [
        {"kind": "AdapterRoute", "destination": "-foo", "device": "zks0"},
        {"kind": "BypassRoute", "destination": "::/1", "gateway": "x", "interface": "Ethernet"},
        {"kind": "WfpFilters", "lines": "permit all", "persistent": False},
        {"kind": "WfpFilters", "lines": RULE},
    ],
)
def test_what_is_no_step(data: object) -> None:
    with pytest.raises(ValueError, match="no |not appear"):
        from_json(data)


@pytest.mark.parametrize("case", CASES)
def test_filters_are_read_as_they_are_written(case: str) -> None:
    config, _ = CASES[case]
    found = [*filters(config, networks("192.168.1.0/24")), *refuse_ipv6(config)]
    assert [parse_filter(str(one)) for one in found] == found
    assert len({str(one) for one in filters(config, ())}) == len(filters(config, ()))


@pytest.mark.parametrize(
    "line",
    [
        "",
        "permit",
        "permit out5",
        "permit out4 to port 70000",
        "permit out6 icmp6 type 256",
        "block out4 peer ::/0",
        "block out4 peer 10.0.0.1/8",
        "block out4 to port 53 udp",
        "block out4\nblock out6",
    ],
)
def test_what_is_no_filter(line: str) -> None:
    with pytest.raises(ValueError, match="no filter|host bits"):
        parse_filter(line)


def decides(config: HostConfig, **packet: object) -> str:
    """What the first filter that matches does with a connection; ``permit`` without one."""
    wanted = {"direction": "out", "protocol": "tcp", "own": False, "loopback": False, **packet}
    peer = ipaddress.ip_address(str(wanted["to"]))
    for one in filters(config, networks("192.168.1.0/24")):
        if (one.direction, one.version) != (wanted["direction"], peer.version):
            continue
        if (one.own and not wanted["own"]) or (one.loopback and not wanted["loopback"]):
            continue
        if one.protocol not in (None, wanted["protocol"]) or one.icmp_type is not None:
            continue
        if one.remote_port not in (None, wanted.get("port")) or one.local_port is not None:
            continue
        if one.network is None or peer in one.network:
            return one.action
    return "permit"


@pytest.mark.parametrize(
    ("packet", "wanted"),
    [
        ({"to": "203.0.113.9", "port": 443, "own": True}, "permit"),
        ({"to": "203.0.113.9", "port": 443}, "block"),
        ({"to": "198.51.100.7", "port": 443, "own": True}, "block"),
        ({"to": "192.168.1.7", "port": 445}, "permit"),
        ({"to": "192.168.1.7", "port": 53, "protocol": "udp"}, "block"),
        ({"to": "192.168.1.7", "port": 53}, "block"),
        ({"to": "127.0.0.1", "port": 53, "loopback": True}, "permit"),
        ({"to": "1.1.1.1", "port": 443}, "block"),
        ({"to": "2606:4700::1111", "port": 443}, "block"),
        ({"to": "fe80::7", "port": 445}, "permit"),
        ({"to": "192.168.1.7", "port": 9, "direction": "in"}, "permit"),
        ({"to": "1.1.1.1", "port": 9, "direction": "in"}, "block"),
    ],
)
def test_what_is_let_out(packet: dict[str, object], wanted: str) -> None:
    assert decides(WORKER, **packet) == wanted


def test_a_closed_lan_and_dns_over_tls() -> None:
    config = replace(WORKER, lan=False, block_dot=True, bypass=networks("198.51.100.0/24"))
    assert decides(config, to="198.51.100.7", port=853) == "block"
    assert decides(config, to="198.51.100.7", port=443) == "permit"
    assert decides(config, to="fe80::7", port=445) == "block"


def test_only_some_networks() -> None:
    config = replace(WORKER, only=networks("192.0.2.0/24"))
    assert decides(config, to="192.0.2.7", port=443) == "block"
    assert decides(config, to="1.1.1.1", port=443) == "permit"
    assert decides(config, to="1.1.1.1", port=53) == "block"


def test_what_a_dead_instance_has_left_and_is_not_wanted() -> None:
    old = BypassRoute("198.51.100.0/24", "192.168.1.1", "Ethernet")
    state = replace(
        LAPTOP,
        table=LAPTOP.table | {old.entry()},
        filters=("block out4",),
        leftover=Leftover(7, (WfpFilters("", False), AdapterRoute("0.0.0.0/1", "zks9"), old)),
    )
    assert make_plan(WORKER, state).stale == (old,)
    off = replace(WORKER, kill_switch=KillSwitch.OFF)
    assert make_plan(off, state).stale == (old, WfpFilters("", False))


def test_what_windows_cannot_do_is_refused() -> None:
    with pytest.raises(ConfigError, match="on Windows routes alone do not hold"):
        make_plan(replace(WORKER, kill_switch=KillSwitch.ROUTE), LAPTOP)


def test_a_name_that_is_taken() -> None:
    with pytest.raises(DeviceError, match="the interface Ethernet is taken"):
        make_plan(replace(WORKER, tun="Ethernet"), LAPTOP)


def test_another_vpn() -> None:
    other = WindowsRoute("0.0.0.0/1", "10.8.0.1", "OpenVPN")
    with pytest.raises(HostError, match=r"captured.*0\.0\.0\.0/1 leads to OpenVPN"):
        make_plan(WORKER, replace(LAPTOP, table=LAPTOP.table | {other}))


def test_where_there_are_virtual_machines_it_is_said_what_does_not_hold_for_them() -> None:
    """Windows shows what they send to none of our filters' layers."""
    assert make_plan(WORKER, LAPTOP).notes == ()
    state = FakeWindows(links={"Ethernet": 11, "vEthernet (WSL)": 31}).look()
    (note,) = make_plan(WORKER, state).notes
    assert "WSL 2" in note and "New-NetFirewallHyperVRule" in note


def test_the_state_of_another_system() -> None:
    with pytest.raises(TypeError, match="not the state"):
        make_plan(WORKER, HostState())


def test_another_network_keeps_the_addresses() -> None:
    plan = make_plan(WORKER, LAPTOP)
    moved = FakeWindows(addresses={"Ethernet": ["10.1.0.2/16"]}).look()
    again = with_state(plan, moved)
    assert again.ipv4 == plan.ipv4 and "10.1.0.0/16" in "\n".join(again.render())


def test_plans_have_no_input_and_output() -> None:
    for path in Path(windows.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(alias.name for alias in node.names)]
            found = {name.split(".")[0] for name in names}
            assert not found & {"subprocess", "trio", "socket", "os", "ctypes"}, path


def test_a_filter_names_only_what_it_is_about() -> None:
    assert str(Filter(action="block", direction="out", version=4)) == "block out4"
