"""A Mac that is set up and put back, by a fake that keeps what is changed and fails as ordered."""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio

if sys.platform == "win32":
    pytest.skip("the journal's lock is not one of Windows", allow_module_level=True)

from tests.kits.macos import FakeMac, MacProcess
from tests.kits.until import until
from zks_lwip.errors import ConfigError, DeviceError, HostError
from zks_lwip.host.base import hold_host
from zks_lwip.host.journal import journal_path, read_leftover
from zks_lwip.host.macos.host import MacosHost
from zks_lwip.host.macos.observe import look
from zks_lwip.host.macos.recover import recover, remains
from zks_lwip.host.monitor import watch_news
from zks_lwip.host.plan.config import HostConfig, KillSwitch
from zks_lwip.host.plan.macos.make import make_plan
from zks_lwip.host.plan.plan import Plan
from zks_lwip.net.netns import namespace_id

WORKER = ipaddress.ip_network("203.0.113.9/32")


def config_in(directory: Path, **wishes: object) -> HostConfig:
    return replace(HostConfig(tun="utun", peers=(WORKER,), state_dir=directory), **wishes)  # type: ignore[arg-type]


def planned(mac: FakeMac, config: HostConfig) -> Plan:
    return make_plan(config, look(mac.process(), read_leftover(config.state_dir)))


class Killed(BaseException):
    """Stands for SIGKILL: what is undone after it, a dead process would not have."""


async def set_up(mac: FakeMac, config: HostConfig, *, hold: bool = False) -> MacosHost:
    """Set a Mac up, and leave it so."""
    host = MacosHost(planned(mac, config), hold=hold, open_system=mac.process)
    await host.start()
    return host


async def die(mac: FakeMac, host: MacosHost) -> None:
    """End a host as SIGKILL does: nothing is undone, its TUN vanishes, the journal stays."""
    await host.stop(keep=True)


async def test_it_is_set_up_in_order_and_put_back(tmp_path: Path) -> None:
    mac = FakeMac()
    before = mac.snapshot()
    config = config_in(tmp_path)
    async with hold_host(MacosHost(planned(mac, config), open_system=mac.process)) as host:
        assert mac.is_closed and host.device.name == "utun1"
        assert mac.routes["0.0.0.0/1", False][2] == mac.routes["::/1", False][2] == "utun1"
        assert mac.routes["203.0.113.9/32", True] == ("192.168.1.1", "UGHSI", "en0")
        assert mac.dns == "198.18.0.2" and await host.refused() == 9
        assert mac.calls == [
            "pfctl -q -a com.apple/000.zks_lwip -f -",
            "write_note pf.token",
            "pfctl -E",
            "write_note pf.token",
            "open_tun utun1 1500",
            "ifconfig utun1 inet 198.18.0.1/30 198.18.0.2 alias",
            "ifconfig utun1 inet6 fdb5:7a6b:7301::1/126 alias",
            "ifconfig utun1 up",
            "route -n add -inet -ifscope en0 -host 203.0.113.9 192.168.1.1",
            "route -n add -inet -net 0.0.0.0/1 -interface utun1",
            "route -n add -inet -net 128.0.0.0/1 -interface utun1",
            "route -n add -inet6 -net ::/1 -interface utun1",
            "route -n add -inet6 -net 8000::/1 -interface utun1",
            "scutil d.init",
        ]
        mac.calls.clear()
    assert mac.calls == [
        "scutil remove",
        "route -n delete -inet -ifscope en0 -host 203.0.113.9 192.168.1.1",
        "close_tun utun1",
        "pfctl -X 1000",
        "pfctl -q -a com.apple/000.zks_lwip -F rules",
        "pfctl -q -a com.apple/000.zks_lwip -F Tables",
    ]
    assert mac.snapshot() == before and list(tmp_path.iterdir()) == []


STEPS = 14  # changes until it is set up, in the test above


@pytest.mark.parametrize("number", range(STEPS))
async def test_whatever_fails_it_is_put_back(number: int, tmp_path: Path) -> None:
    mac = FakeMac()
    before = mac.snapshot()

    def refuse(command: str) -> None:
        if len(mac.calls) == number:
            mac.refuse = lambda command: None
            raise HostError(f"as ordered: {command}")

    mac.refuse = refuse
    with pytest.raises(HostError, match="as ordered"):
        async with hold_host(MacosHost(planned(mac, config_in(tmp_path)), open_system=mac.process)):
            pytest.fail("one has failed")
    assert mac.snapshot() == before and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", range(STEPS + 1))
async def test_wherever_it_dies_recover_puts_it_back(number: int, tmp_path: Path) -> None:
    """And until then it is as it was, or closed, but for the moment before pf is enabled."""
    mac = FakeMac()
    before = mac.snapshot()

    def refuse(command: str) -> None:
        if len(mac.calls) == number:
            raise Killed

    mac.refuse = refuse
    host = MacosHost(planned(mac, config_in(tmp_path)), open_system=mac.process)
    try:
        await host.start()
    except Killed:
        pass
    mac.refuse = lambda command: None
    await die(mac, host)
    assert mac.is_closed == (number >= 3)
    left = remains(tmp_path, open_system=lambda directory: mac.process())
    assert (left is not None) and left.closed == mac.is_closed and left.pid == os.getpid()
    recovery = recover(tmp_path, open_system=lambda directory: mac.process())
    assert recovery.left == [] and (recovery.undone or number == 0)
    assert mac.snapshot() == before and list(tmp_path.iterdir()) == []
    again = recover(tmp_path, open_system=lambda directory: mac.process())
    assert again.undone == [] and again.left == []
    assert remains(tmp_path, open_system=lambda directory: mac.process()) is None


async def test_what_recover_cannot_undo_stays_in_the_journal(tmp_path: Path) -> None:
    mac = FakeMac()
    before = mac.snapshot()
    await die(mac, await set_up(mac, config_in(tmp_path)))

    def refuse(command: str) -> None:
        if "-F rules" in command:
            raise HostError("as ordered")

    mac.refuse = refuse
    recovery = recover(tmp_path, open_system=lambda directory: mac.process())
    assert recovery.left == ["as ordered"] and journal_path(tmp_path, namespace_id(None)).exists()
    mac.refuse = lambda command: None
    assert recover(tmp_path, open_system=lambda directory: mac.process()).left == []
    assert mac.snapshot() == before


async def test_the_next_instance_takes_over_what_a_dead_one_has_left(tmp_path: Path) -> None:
    """Without opening in between; what it does not want goes at the end."""
    mac = FakeMac()
    before = mac.snapshot()
    other = ipaddress.ip_network("198.51.100.7/32")
    await die(mac, await set_up(mac, config_in(tmp_path, peers=(WORKER, other))))
    assert mac.is_closed
    opened: list[str] = []

    def watch(command: str) -> None:
        if not mac.is_closed:
            opened.append(command)

    mac.refuse = watch
    host = MacosHost(planned(mac, config_in(tmp_path)), open_system=mac.process)
    await host.start()
    assert opened == [] and ("198.51.100.7/32", True) not in mac.routes
    assert len(mac.pf_tokens) == 1
    await host.stop()
    assert mac.snapshot() == before


async def test_an_error_leaves_it_closed_once_it_was_up(tmp_path: Path) -> None:
    mac = FakeMac()
    plan = planned(mac, config_in(tmp_path))
    with pytest.raises(HostError, match="as ordered"):
        async with hold_host(MacosHost(plan, open_system=mac.process)) as host:
            host.hold = True
            raise HostError("as ordered")
    assert mac.is_closed and "utun1" not in mac.interfaces
    assert recover(tmp_path, open_system=lambda directory: mac.process()).left == []
    assert not mac.is_closed


async def test_always_on_closes_whatever_fails(tmp_path: Path) -> None:
    mac = FakeMac()

    def refuse(command: str) -> None:
        if command.startswith("open_tun"):
            raise DeviceError("as ordered")

    mac.refuse = refuse
    plan = planned(mac, config_in(tmp_path))
    with pytest.raises(DeviceError, match="as ordered"):
        async with hold_host(MacosHost(plan, hold=True, open_system=mac.process)):
            pytest.fail("there is no TUN")
    assert mac.is_closed


async def test_a_pause_opens_and_its_end_closes(tmp_path: Path) -> None:
    mac = FakeMac()
    host = await set_up(mac, config_in(tmp_path))
    closed = mac.snapshot()
    await host.pause()
    assert not mac.is_closed and ("0.0.0.0/1", False) not in mac.routes and mac.dns is None
    assert await host.refused() is None and "utun1" in mac.interfaces
    await host.resume()
    assert mac.is_closed
    assert sorted(map(str, mac.routes)) == sorted(map(str, closed[0]))  # type: ignore[index]
    await host.stop()


def lose_route(mac: FakeMac) -> None:
    del mac.routes["0.0.0.0/1", False]


def lose_scoped(mac: FakeMac) -> None:
    del mac.routes["203.0.113.9/32", True]


def flush(mac: FakeMac) -> None:
    mac.pf_anchor = ""


def disable(mac: FakeMac) -> None:
    """As ``pfctl -d`` does: every token ends."""
    mac.pf_enabled = False
    mac.pf_tokens.clear()


def forget_dns(mac: FakeMac) -> None:
    mac.dns = None


@pytest.mark.parametrize("lose", [lose_route, lose_scoped, flush, disable, forget_dns])
async def test_what_others_take_away_is_brought_back(
    lose: Callable[[FakeMac], None], tmp_path: Path
) -> None:
    mac = FakeMac()
    before = mac.snapshot()
    host = await set_up(mac, config_in(tmp_path))
    lose(mac)
    await host.reassert()
    assert mac.is_closed and mac.dns == "198.18.0.2" and len(mac.pf_tokens) == 1
    assert {("0.0.0.0/1", False), ("203.0.113.9/32", True)} <= set(mac.routes)
    mac.calls.clear()
    await host.reassert()
    assert mac.calls == []  # nothing is done twice
    await host.stop()
    assert mac.snapshot() == before


async def test_the_way_to_a_worker_over_ipv6_is_seen_again(tmp_path: Path) -> None:
    """What is there, and is not found in the table, would be set again for ever."""
    mac = FakeMac()
    before = mac.snapshot()
    worker = ipaddress.ip_network("2001:db8:9::9/128")
    host = await set_up(mac, config_in(tmp_path, peers=(WORKER, worker)))
    assert mac.routes["2001:db8:9::9/128", True][0] == "fe80::1%en0"
    mac.calls.clear()
    await host.reassert()
    assert mac.calls == []
    await host.stop()
    assert mac.snapshot() == before


def fail(mac: FakeMac, times: int) -> None:
    """Have the route that is lost be refused so often."""
    left = times

    def refuse(command: str) -> None:
        nonlocal left
        if "0.0.0.0/1" in command and left:
            left -= 1
            raise HostError("Network is down")

    lose_route(mac)
    mac.refuse = refuse


async def test_a_host_that_changes_after_the_look_is_looked_at_again(tmp_path: Path) -> None:
    """As where an interface goes down in the middle of it: half of what follows was seen."""
    mac = FakeMac()
    host = await set_up(mac, config_in(tmp_path))
    fail(mac, times=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_news, host, (), lambda slept: None)
        await until(lambda: ("0.0.0.0/1", False) in mac.routes)
        nursery.cancel_scope.cancel()
    await host.stop()


async def test_what_cannot_be_brought_back_is_an_error(tmp_path: Path) -> None:
    mac = FakeMac()
    host = await set_up(mac, config_in(tmp_path))
    fail(mac, times=-1)
    with pytest.raises(ExceptionGroup) as caught, trio.fail_after(30):
        await watch_news(host, (), lambda slept: None)
    assert caught.group_contains(HostError, match="Network is down")
    mac.refuse = lambda command: None
    await host.stop()


async def test_another_network_has_another_way_to_the_worker(tmp_path: Path) -> None:
    mac = FakeMac()
    host = await set_up(mac, config_in(tmp_path))
    mac.routes["0.0.0.0/0", False] = ("10.0.0.1", "UGScg", "en0")
    mac.interfaces["en0"][1] = "inet 10.0.0.23 netmask 0xffffff00 broadcast 10.0.0.255"
    await host.reassert()
    assert mac.routes["203.0.113.9/32", True][0] == "10.0.0.1"
    assert "10.0.0.0/24" in mac.pf_anchor and "192.168.1.0/24" not in mac.pf_anchor
    await host.stop()


async def test_what_changes_in_a_pause_is_in_force_when_it_ends(tmp_path: Path) -> None:
    """Another network, and another worker, without another look at the host."""
    mac = FakeMac()
    before = mac.snapshot()
    host = await set_up(mac, config_in(tmp_path))
    await host.pause()
    mac.calls.clear()
    await host.reassert()
    assert mac.calls == [], "nothing has changed"
    mac.routes["0.0.0.0/0", False] = ("10.0.0.1", "UGScg", "en0")
    mac.interfaces["en0"][1] = "inet 10.0.0.23 netmask 0xffffff00 broadcast 10.0.0.255"
    await host.reassert()
    other = (ipaddress.ip_network("203.0.113.10/32"),)
    await host.update(replace(host.plan.config, peers=other))
    assert not mac.is_closed and mac.dns is None
    await host.resume()
    assert mac.is_closed and mac.dns == "198.18.0.2"
    assert mac.routes["203.0.113.10/32", True][0] == "10.0.0.1"
    assert ("203.0.113.9/32", True) not in mac.routes
    assert "10.0.0.0/24" in mac.pf_anchor and "192.168.1.0/24" not in mac.pf_anchor
    await host.stop()
    assert before[0].keys() == mac.snapshot()[0].keys() and list(tmp_path.iterdir()) == []  # type: ignore[index]


async def test_a_route_that_goes_while_its_step_is_undone(tmp_path: Path) -> None:
    mac = FakeMac()
    host = await set_up(mac, config_in(tmp_path))
    lose_scoped(mac)
    await host.stop()
    assert list(tmp_path.iterdir()) == []


async def test_the_tun_is_taken_away(tmp_path: Path) -> None:
    mac = FakeMac()
    host = await set_up(mac, config_in(tmp_path))
    mac.process().lose("utun1")
    with pytest.raises(DeviceError, match="utun1 was removed by another program"):
        await host.reassert()
    await host.stop()


async def test_tokens_and_rules_of_others_stay(tmp_path: Path) -> None:
    mac = FakeMac()
    mac.pf_main += "block drop in all\n"
    mac.answer(["pfctl", "-E"], "")
    before = mac.snapshot()
    host = await set_up(mac, config_in(tmp_path))
    assert len(mac.pf_tokens) == 2
    await host.stop()
    assert mac.snapshot() == before and mac.pf_enabled


async def test_a_token_that_was_not_noted_is_found(tmp_path: Path) -> None:
    """It is not taken for another one's, neither by `recover` nor by the next instance."""
    mac = FakeMac()
    mac.answer(["pfctl", "-E"], "")
    before = mac.snapshot()

    def refuse(command: str) -> None:
        if command.startswith("write_note") and len(mac.pf_tokens) == 2:
            raise Killed

    for again in (False, True):
        mac.refuse = refuse
        host = MacosHost(planned(mac, config_in(tmp_path)), open_system=mac.process)
        with pytest.raises(Killed):
            await host.start()
        mac.refuse = lambda command: None
        await die(mac, host)
        assert len(mac.pf_tokens) == 2
        if again:
            host = await set_up(mac, config_in(tmp_path))
            assert len(mac.pf_tokens) == 2 and mac.notes == {"pf.token": "1001"}
            await host.stop()
        else:
            assert recover(tmp_path, open_system=lambda directory: mac.process()).left == []
        assert mac.snapshot() == before


async def test_a_token_that_may_be_another_ones_is_left(tmp_path: Path) -> None:
    mac = FakeMac()

    def refuse(command: str) -> None:
        if command.startswith("write_note") and mac.pf_tokens:
            mac.answer(["pfctl", "-E"], "")
            raise Killed

    mac.refuse = refuse
    host = MacosHost(planned(mac, config_in(tmp_path)), open_system=mac.process)
    with pytest.raises(Killed):
        await host.start()
    mac.refuse = lambda command: None
    await die(mac, host)
    assert recover(tmp_path, open_system=lambda directory: mac.process()).left == []
    assert len(mac.pf_tokens) == 2 and mac.notes == {} and not mac.is_closed


async def test_new_peers_are_let_out(tmp_path: Path) -> None:
    mac = FakeMac()
    host = await set_up(mac, config_in(tmp_path))
    other = ipaddress.ip_network("198.51.100.7/32")
    await host.update(replace(host.plan.config, peers=(WORKER, other)))
    assert "198.51.100.7" in mac.pf_anchor and ("198.51.100.7/32", True) in mac.routes
    await host.update(replace(host.plan.config, peers=(other,)))
    assert "203.0.113.9" not in mac.pf_anchor and ("203.0.113.9/32", True) not in mac.routes
    await host.stop()


async def test_programs_cannot_be_excluded(tmp_path: Path) -> None:
    mac = FakeMac()
    host = await set_up(mac, config_in(tmp_path))
    with pytest.raises(HostError, match="cannot let single programs"):
        await host.exclude(1)
    assert host.excluded() == [] and not await host.renew_exclusion()
    await host.stop()


def test_a_route_that_cannot_be_set_says_so(tmp_path: Path) -> None:
    mac = FakeMac()
    plan = planned(mac, config_in(tmp_path))
    route = plan.steps[-2]
    assert route.undo_commands() == ["route -n delete -inet6 -net 8000::/1 -interface utun1"]
    with pytest.raises(HostError, match="route -n add .*failed: bad address: utun1"):
        route.do(MacProcess(mac))


def test_pf_that_gives_no_token(tmp_path: Path) -> None:
    mac = FakeMac()
    plan = planned(mac, config_in(tmp_path))

    class Silent(MacProcess):
        def run(self, argv: object, text: str = "") -> str:
            return "pfctl: pf already enabled\n"

    with pytest.raises(HostError, match="gave no token.*already enabled"):
        plan.steps[1].do(Silent(mac))


@pytest.mark.parametrize(
    "rules", ["", 'pass quick on en0 all\nanchor "com.apple/*" all\n', 'anchor "mine" all\n']
)
def test_a_main_ruleset_of_others_that_does_not_hold(rules: str, tmp_path: Path) -> None:
    mac = FakeMac()
    mac.pf_main = rules
    with pytest.raises(HostError, match="pf's main ruleset would not evaluate our anchor"):
        planned(mac, config_in(tmp_path))
    planned(mac, config_in(tmp_path, kill_switch=KillSwitch.OFF))


def test_another_vpn(tmp_path: Path) -> None:
    mac = FakeMac()
    mac.routes["0.0.0.0/1", False] = ("link#20", "UScg", "utun0")
    with pytest.raises(HostError, match="another VPN has captured.*0.0.0.0/1 leads to utun0"):
        planned(mac, config_in(tmp_path))


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"kill_switch": KillSwitch.ROUTE}, "on macOS routes alone do not hold"),
        ({"tun": "zks0"}, "cannot be an interface on macOS"),
    ],
)
def test_what_macos_cannot_do_is_refused(
    wishes: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        planned(FakeMac(), config_in(tmp_path, **wishes))


def test_a_number_that_is_taken(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="the interface utun0 is taken.*`tun` utun"):
        planned(FakeMac(), config_in(tmp_path, tun="utun0"))
    assert planned(FakeMac(), config_in(tmp_path, tun="utun7")).config.tun == "utun7"
