"""A machine with Windows that is set up and put back, by a fake that fails as ordered."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.kits.windows import FakeWindows, is_administrator
from zks_lwip.errors import DeviceError, HostError
from zks_lwip.host.base import hold_host
from zks_lwip.host.journal import boot_id, journal_path, parse, read_journal
from zks_lwip.host.plan.config import HostConfig, KillSwitch
from zks_lwip.host.plan.plan import Plan
from zks_lwip.host.plan.state import Leftover
from zks_lwip.host.plan.windows.make import make_plan
from zks_lwip.host.plan.windows.state import WindowsRoute
from zks_lwip.host.windows.host import WindowsHost
from zks_lwip.host.windows.recover import recover, remains
from zks_lwip.net.netns import namespace_id

pytestmark = pytest.mark.skipif(
    not is_administrator(), reason="the journal's folder is an administrator's: run it elevated"
)

WORKER = ipaddress.ip_network("203.0.113.9/32")
BYPASS = ipaddress.ip_network("198.51.100.0/24")
DIRECT = WindowsRoute("198.51.100.0/24", "192.168.1.1", "Ethernet")


def config_in(directory: Path, **wishes: object) -> HostConfig:
    return replace(
        HostConfig(peers=(WORKER,), bypass=(BYPASS,), state_dir=directory),
        **wishes,  # type: ignore[arg-type]
    )


def leftover(directory: Path) -> Leftover | None:
    text = read_journal(journal_path(directory, namespace_id(None)))
    record = parse(text) if text else None
    return record.leftover() if record and record.boot == boot_id() else None


def planned(machine: FakeWindows, config: HostConfig) -> Plan:
    return make_plan(config, machine.look(leftover(config.state_dir)))


class Killed(BaseException):
    """Stands for the end of a process: what is undone after it, a dead one would not have."""


async def set_up(machine: FakeWindows, config: HostConfig, *, hold: bool = False) -> WindowsHost:
    """Set a machine up, and leave it so."""
    host = WindowsHost(planned(machine, config), hold=hold, open_system=machine.process)
    await host.start()
    return host


async def die(host: WindowsHost) -> None:
    """End a host as a killed process does: its TUN vanishes, the journal stays."""
    await host.stop(keep=True)


CHANGES = [
    "set_filters",
    "open_tun zks0 1500",
    "set_interface zks0 4 1500 1",
    "set_interface zks0 6 1500 1",
    "add_address zks0 198.18.0.1/30",
    "add_address zks0 fdb5:7a6b:7301::1/126",
    "permit_tun zks0",
    "add_route 198.51.100.0/24 192.168.1.1 Ethernet",
    "add_route 0.0.0.0/1  zks0",
    "add_route 128.0.0.0/1  zks0",
    "add_route ::/1  zks0",
    "add_route 8000::/1  zks0",
    "set_resolver zks0 198.18.0.2",
]


async def test_it_is_set_up_in_order_and_put_back(tmp_path: Path) -> None:
    machine = FakeWindows()
    before = machine.snapshot()
    plan = planned(machine, config_in(tmp_path))
    async with hold_host(WindowsHost(plan, open_system=machine.process)) as host:
        assert machine.is_closed and host.device.name == "zks0"
        assert machine.permitted == machine.links["zks0"] and not machine.persistent
        assert machine.calls == CHANGES
        machine.calls.clear()
    assert machine.calls == [
        "remove_route 198.51.100.0/24 192.168.1.1 Ethernet",
        "forbid_tun",
        "close_tun zks0",
        "remove_filters",
    ]
    assert machine.snapshot() == before and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", range(len(CHANGES)))
async def test_whatever_fails_it_is_put_back(number: int, tmp_path: Path) -> None:
    machine = FakeWindows()
    before = machine.snapshot()

    def refuse(command: str) -> None:
        if len(machine.calls) == number:
            machine.refuse = lambda command: None
            raise HostError(f"as ordered: {command}")

    machine.refuse = refuse
    plan = planned(machine, config_in(tmp_path))
    with pytest.raises(HostError, match="as ordered"):
        async with hold_host(WindowsHost(plan, open_system=machine.process)):
            pytest.fail("one has failed")
    assert machine.snapshot() == before and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", range(len(CHANGES) + 1))
async def test_wherever_it_dies_recover_puts_it_back(number: int, tmp_path: Path) -> None:
    """And until then it is as it was, or closed."""
    machine = FakeWindows()
    before = machine.snapshot()

    def refuse(command: str) -> None:
        if len(machine.calls) == number:
            raise Killed

    machine.refuse = refuse
    host = WindowsHost(planned(machine, config_in(tmp_path)), open_system=machine.process)
    try:
        await host.start()
    except Killed:
        pass
    machine.refuse = lambda command: None
    await die(host)
    assert machine.is_closed == (number >= 1) and "zks0" not in machine.links
    left = remains(tmp_path, open_system=machine.process)
    assert (left is not None) and left.closed == machine.is_closed and left.pid == os.getpid()
    recovery = recover(tmp_path, open_system=machine.process)
    assert recovery.left == [] and (recovery.undone or number == 0)
    assert machine.snapshot() == before and list(tmp_path.iterdir()) == []
    again = recover(tmp_path, open_system=machine.process)
    assert again.undone == [] and again.left == []
    assert remains(tmp_path, open_system=machine.process) is None


async def test_what_recover_cannot_undo_stays_in_the_journal(tmp_path: Path) -> None:
    machine = FakeWindows()
    before = machine.snapshot()
    await die(await set_up(machine, config_in(tmp_path)))

    def refuse(command: str) -> None:
        if command == "remove_filters":
            raise HostError("as ordered")

    machine.refuse = refuse
    recovery = recover(tmp_path, open_system=machine.process)
    assert recovery.left == ["as ordered"] and journal_path(tmp_path, namespace_id(None)).exists()
    machine.refuse = lambda command: None
    assert recover(tmp_path, open_system=machine.process).left == []
    assert machine.snapshot() == before


@pytest.mark.parametrize("persistent", [False, True])
async def test_a_start_of_the_machine(persistent: bool, tmp_path: Path) -> None:
    """Always-on: it stays closed, and recover opens it without a journal."""
    machine = FakeWindows()
    before = machine.snapshot()
    config = config_in(tmp_path, persistent=persistent, bypass=())
    await die(await set_up(machine, config, hold=True))
    journal_path(tmp_path, namespace_id(None)).unlink()
    machine.reboot()
    assert machine.is_closed == persistent
    left = remains(tmp_path, open_system=machine.process)
    assert (left is not None) == persistent
    assert recover(tmp_path, open_system=machine.process).left == []
    assert machine.snapshot() == before


async def test_the_next_instance_takes_over_what_a_dead_one_has_left(tmp_path: Path) -> None:
    """Without opening in between; what it does not want goes at the end."""
    machine = FakeWindows()
    before = machine.snapshot()
    await die(await set_up(machine, config_in(tmp_path)))
    assert machine.is_closed and DIRECT in machine.routes
    opened: list[str] = []

    def watch(command: str) -> None:
        if not machine.is_closed:
            opened.append(command)

    machine.refuse = watch
    host = WindowsHost(
        planned(machine, config_in(tmp_path, bypass=())), open_system=machine.process
    )
    await host.start()
    assert opened == [] and DIRECT not in machine.routes
    await host.stop()
    assert machine.snapshot() == before


async def test_an_error_leaves_it_closed_once_it_was_up(tmp_path: Path) -> None:
    machine = FakeWindows()
    plan = planned(machine, config_in(tmp_path))
    with pytest.raises(HostError, match="as ordered"):
        async with hold_host(WindowsHost(plan, open_system=machine.process)) as host:
            host.hold = True
            raise HostError("as ordered")
    assert machine.is_closed and "zks0" not in machine.links
    assert recover(tmp_path, open_system=machine.process).left == []
    assert not machine.is_closed


async def test_always_on_closes_whatever_fails(tmp_path: Path) -> None:
    machine = FakeWindows()

    def refuse(command: str) -> None:
        if command.startswith("open_tun"):
            raise DeviceError("as ordered")

    machine.refuse = refuse
    plan = planned(machine, config_in(tmp_path))
    with pytest.raises(DeviceError, match="as ordered"):
        async with hold_host(WindowsHost(plan, hold=True, open_system=machine.process)):
            pytest.fail("there is no TUN")
    assert machine.is_closed


async def test_a_pause_opens_and_its_end_closes(tmp_path: Path) -> None:
    machine = FakeWindows()
    host = await set_up(machine, config_in(tmp_path))
    closed = machine.snapshot()
    await host.pause()
    assert not machine.is_closed and machine.resolvers == {} and "zks0" in machine.links
    assert WindowsRoute("0.0.0.0/1", "", "zks0") not in machine.routes and DIRECT in machine.routes
    await host.resume()
    assert machine.snapshot() == closed
    await host.stop()


def lose_route(machine: FakeWindows) -> None:
    machine.routes.discard(WindowsRoute("0.0.0.0/1", "", "zks0"))


def lose_bypass(machine: FakeWindows) -> None:
    machine.routes.discard(DIRECT)


def lose_filters(machine: FakeWindows) -> None:
    machine.filters, machine.permitted = (), 0


def lose_one_filter(machine: FakeWindows) -> None:
    machine.filters = machine.filters[1:]


def lose_permission(machine: FakeWindows) -> None:
    machine.permitted = 0


def lose_resolver(machine: FakeWindows) -> None:
    machine.resolvers.clear()


def lose_metric(machine: FakeWindows) -> None:
    machine.settings["zks0", 4] = (1500, 25)


@pytest.mark.parametrize(
    "lose",
    [
        *(lose_route, lose_bypass, lose_filters, lose_one_filter),
        *(lose_permission, lose_resolver, lose_metric),
    ],
)
async def test_what_others_take_away_is_brought_back(
    lose: Callable[[FakeWindows], None], tmp_path: Path
) -> None:
    machine = FakeWindows()
    before = machine.snapshot()
    host = await set_up(machine, config_in(tmp_path))
    whole = machine.snapshot()
    lose(machine)
    assert machine.snapshot() != whole
    await host.reassert()
    assert machine.snapshot() == whole
    machine.calls.clear()
    await host.reassert()
    assert machine.calls == []  # nothing is done twice
    await host.stop()
    assert machine.snapshot() == before


async def test_another_network(tmp_path: Path) -> None:
    machine = FakeWindows()
    host = await set_up(machine, config_in(tmp_path))
    machine.routes -= {WindowsRoute("0.0.0.0/0", "192.168.1.1", "Ethernet")}
    machine.routes |= {WindowsRoute("0.0.0.0/0", "10.0.0.1", "Ethernet")}
    machine.addresses["Ethernet"] = ["10.0.0.23/24"]
    await host.reassert()
    assert WindowsRoute("198.51.100.0/24", "10.0.0.1", "Ethernet") in machine.routes
    assert DIRECT not in machine.routes and machine.permitted
    assert "permit out4 peer 10.0.0.0/24" in machine.filters
    assert "permit out4 peer 192.168.1.0/24" not in machine.filters
    await host.stop()


async def test_another_network_in_a_pause(tmp_path: Path) -> None:
    machine = FakeWindows()
    host = await set_up(machine, config_in(tmp_path))
    await host.pause()
    machine.calls.clear()
    await host.reassert()
    assert machine.calls == [] and not machine.is_closed, "nothing has changed"
    machine.routes -= {WindowsRoute("0.0.0.0/0", "192.168.1.1", "Ethernet")}
    machine.routes |= {WindowsRoute("0.0.0.0/0", "10.0.0.1", "Ethernet")}
    machine.addresses["Ethernet"] = ["10.0.0.23/24"]
    await host.reassert()
    assert not machine.is_closed
    await host.resume()
    assert machine.is_closed and machine.permitted and DIRECT not in machine.routes
    assert WindowsRoute("198.51.100.0/24", "10.0.0.1", "Ethernet") in machine.routes
    assert "permit out4 peer 10.0.0.0/24" in machine.filters
    assert "permit out4 peer 192.168.1.0/24" not in machine.filters
    await host.stop()


async def test_the_tun_is_taken_away(tmp_path: Path) -> None:
    machine = FakeWindows()
    host = await set_up(machine, config_in(tmp_path))
    machine.lose("zks0")
    with pytest.raises(DeviceError, match="zks0 was removed by another program"):
        await host.reassert()
    await host.stop()


@pytest.mark.parametrize("gone", [False, True])
async def test_what_cannot_be_brought_back(gone: bool, tmp_path: Path) -> None:
    """The TUN is asked for where it is known by its name: Windows' own index has another."""
    machine = FakeWindows()
    host = await set_up(machine, config_in(tmp_path))
    lose_route(machine)

    def refuse(command: str) -> None:
        if gone:
            machine.lose("zks0")
        if command.startswith("add_route"):
            raise HostError("not so")

    machine.refuse = refuse
    with pytest.raises(DeviceError if gone else HostError) as caught:
        await host.reassert()
    assert isinstance(caught.value, DeviceError) is gone
    machine.refuse = lambda command: None
    await host.stop()


async def test_new_peers_are_let_out(tmp_path: Path) -> None:
    machine = FakeWindows()
    host = await set_up(machine, config_in(tmp_path))
    other = ipaddress.ip_network("192.0.2.7/32")
    await host.update(replace(host.plan.config, peers=(WORKER, other)))
    assert "permit out4 app peer 192.0.2.7/32" in machine.filters and machine.permitted
    await host.update(replace(host.plan.config, peers=(other,)))
    assert "permit out4 app peer 203.0.113.9/32" not in machine.filters and machine.permitted
    await host.stop()


async def test_no_kill_switch_leaves_no_filter(tmp_path: Path) -> None:
    machine = FakeWindows()
    host = await set_up(machine, config_in(tmp_path, kill_switch=KillSwitch.OFF))
    assert machine.filters == () and "permit_tun zks0" not in machine.calls
    await host.stop()
