"""Plans, compared with golden files of the commands that they stand for.

``ZKS_GOLDEN=write python -m pytest tests/unit/host`` writes them anew; read the difference.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.kits.plans import check_golden, networks
from zks_lwip.errors import ConfigError, DeviceError, HostError
from zks_lwip.host.plan.config import HostConfig, KillSwitch
from zks_lwip.host.plan.firewall import is_ours
from zks_lwip.host.plan.make import MAIN, Plan, make_plan, missing, with_state
from zks_lwip.host.plan.marks import MarkUse
from zks_lwip.host.plan.state import HostAddress, HostLink, HostState, Leftover, lan_networks
from zks_lwip.host.plan.steps import Nftables, Route, Rule, Sysctl, Tun

RECORDED = Path(__file__).parent / "recorded"


def address(link: str, text: str) -> HostAddress:
    return HostAddress(link, ipaddress.ip_interface(text))


LAPTOP = HostState(
    inode=1,
    own_inode=1,
    links=(
        HostLink(1, "lo"),
        HostLink(2, "eth0"),
        HostLink(3, "docker0", "bridge"),
        HostLink(4, "veth1", "veth", master=3),
        HostLink(5, "br0", "bridge"),
        HostLink(6, "eth1", master=5),
        HostLink(7, "wlan0", up=False),
    ),
    addresses=(
        address("lo", "127.0.0.1/8"),
        address("eth0", "192.168.7.20/24"),
        address("eth0", "fd07::20/64"),
        address("eth0", "2a00:1:2:3::20/64"),
        address("eth0", "fe80::20/64"),
        address("docker0", "172.17.0.1/16"),
        address("br0", "10.5.0.1/24"),
        address("wlan0", "10.6.0.1/24"),
    ),
    routes=networks("192.168.7.0/24", "172.17.0.0/16"),
    nft="/usr/sbin/nft",
    sysctls={
        "net.ipv4.conf.all.src_valid_mark": "0",
        "net.ipv4.conf.all.rp_filter": "0",
        "net.ipv4.tcp_fwmark_accept": "0",
    },
)
WORKER = HostConfig(peers=networks("203.0.113.5/32", "2001:db8::5/128"))

CASES: dict[str, tuple[HostConfig, HostState]] = {
    "default": (WORKER, LAPTOP),
    "embedded": (HostConfig(), LAPTOP),
    "closed-lan": (replace(WORKER, lan=False, ipv6=False), LAPTOP),
    "route": (
        replace(WORKER, kill_switch=KillSwitch.ROUTE),
        replace(LAPTOP, strict_rp_filter=True),
    ),
    "off": (replace(WORKER, kill_switch=KillSwitch.OFF), LAPTOP),
    "namespace": (replace(WORKER, netns="blue"), replace(LAPTOP, netns="blue", inode=2)),
    "no-ipv6": (WORKER, replace(LAPTOP, ipv6=False)),
    "bypass": (
        replace(
            WORKER, bypass=networks("198.51.100.0/24", "2001:db8:7::/48"), bypass_users=(1000,)
        ),
        LAPTOP,
    ),
    "only": (replace(WORKER, only=networks("198.51.100.0/24")), LAPTOP),
    "exclude": (
        replace(WORKER, exclude=True),
        replace(LAPTOP, cgroup="/sys/fs/cgroup/unified", name_servers=("192.168.7.1",)),
    ),
    "exclude-resolved": (
        replace(WORKER, exclude=True),
        replace(
            LAPTOP,
            cgroup="/sys/fs/cgroup",
            name_servers=("192.168.7.1",),
            asks_itself=True,
            resolver="resolved",
            sysctls={**LAPTOP.sysctls, "net.ipv4.conf.all.route_localnet": "0"},
        ),
    ),
    "gateway": (replace(WORKER, forward=True, inbound=(22, 443)), LAPTOP),
    "resolved": (WORKER, replace(LAPTOP, resolver="resolved")),
    "resolvconf": (
        WORKER,
        replace(
            LAPTOP,
            resolver="resolvconf",
            resolver_prefix="tun.",
            resolver_wishes="search corp.example lab.example\noptions ndots:2 trust-ad",
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    check_golden(make_plan(*CASES[name]), name)


@pytest.mark.parametrize("name", CASES)
def test_what_closes_comes_first(name: str) -> None:
    """Firewall, routes that refuse, rules in order, TUN, and its routes at last."""
    config, _ = CASES[name]
    steps = make_plan(*CASES[name]).steps
    if config.kill_switch is KillSwitch.STRICT:
        assert isinstance(steps[0], Nftables)
    refuse = [i for i, s in enumerate(steps) if isinstance(s, Route) and s.device is None]
    rules = [i for i, s in enumerate(steps) if isinstance(s, Rule)]
    tun = next(i for i, s in enumerate(steps) if isinstance(s, Tun))
    opened = [i for i, s in enumerate(steps) if isinstance(s, Route) and s.device is not None]
    order = [*refuse, *rules, tun, *opened]
    assert order == sorted(order) and (refuse or config.kill_switch is KillSwitch.OFF)
    for family in (4, 6):
        priorities = [s.priority for s in steps if isinstance(s, Rule) and s.family == family]
        assert priorities == sorted(priorities)


def rules_to(plan: Plan, family: int = 4) -> list[str | None]:
    return [
        s.to
        for s in plan.steps
        if isinstance(s, Rule) and s.family == family and s.priority == 120 and s.table == MAIN
    ]


def test_only_private_subnets_that_are_there_are_a_lan() -> None:
    hostile = replace(
        LAPTOP,
        addresses=(
            address("eth0", "8.8.8.7/24"),
            address("eth0", "10.0.0.5/7"),
            address("eth0", "100.64.1.1/24"),
            address("eth0", "2001:4860::1/32"),
            address("eth0", "192.168.9.9/32"),
        ),
    )
    assert lan_networks(hostile, "zks0") == []
    assert rules_to(make_plan(WORKER, hostile)) == ["224.0.0.0/4"]
    assert rules_to(make_plan(WORKER, LAPTOP)) == [
        "10.5.0.0/24", "172.17.0.0/16", "192.168.7.0/24", "224.0.0.0/4"]  # fmt: skip
    assert rules_to(make_plan(WORKER, LAPTOP), 6) == ["fd07::/64", "fe80::/10"]


def test_a_closed_lan_leaves_the_hosts_own_bridges() -> None:
    """docker0 has ports of this host only; br0 leads to an Ethernet."""
    plan = make_plan(replace(WORKER, lan=False), LAPTOP)
    assert rules_to(plan) == ["172.17.0.0/16"] and rules_to(plan, 6) == []


@pytest.mark.parametrize(
    ("taken", "ipv4", "ipv6"),
    [
        ((), "198.18.0.1/30", "fdb5:7a6b:7301::1/126"),
        (("0.0.0.0/1", "128.0.0.0/1"), "198.18.0.1/30", "fdb5:7a6b:7301::1/126"),
        (("198.18.0.0/24",), "198.18.1.1/30", "fdb5:7a6b:7301::1/126"),
        (("198.18.0.0/22", "fdb5:7a6b:7301::/64"), "198.18.4.1/30", "fdb5:7a6b:7301:1::1/126"),
    ],
)
def test_addresses_move_if_taken(taken: tuple[str, ...], ipv4: str, ipv6: str) -> None:
    plan = make_plan(WORKER, replace(LAPTOP, routes=networks(*taken)))
    assert (str(plan.ipv4), str(plan.ipv6)) == (ipv4, ipv6)
    assert plan.peer4 == plan.ipv4.ip + 1


@pytest.mark.parametrize(
    ("mtu", "packets"), [(1280, 8192), (1500, 8192), (9000, 7456), (65535, 1024)]
)
def test_the_queue_holds_bursts_and_64_mib_at_most(mtu: int, packets: int) -> None:
    steps = make_plan(replace(WORKER, mtu=mtu), LAPTOP).steps
    assert [step.queue_length for step in steps if isinstance(step, Tun)] == [packets]
    steps = make_plan(replace(WORKER, mtu=mtu, queue_length=100), LAPTOP).steps
    assert [step.queue_length for step in steps if isinstance(step, Tun)] == [100]


def test_no_address_is_left() -> None:
    with pytest.raises(HostError, match="every address"):
        make_plan(WORKER, replace(LAPTOP, routes=networks("198.18.0.0/15")))


def test_refusals() -> None:
    with pytest.raises(HostError, match="package nftables"):
        make_plan(WORKER, replace(LAPTOP, nft=None))
    make_plan(replace(WORKER, kill_switch=KillSwitch.ROUTE), replace(LAPTOP, nft=None))
    with pytest.raises(HostError, match="another VPN perhaps: a rule"):
        make_plan(WORKER, replace(LAPTOP, foreign_uses=("a rule",)))
    taken = replace(LAPTOP, links=(*LAPTOP.links, HostLink(9, "zks0")))
    with pytest.raises(DeviceError, match="zks0 is taken"):
        make_plan(WORKER, taken)
    with pytest.raises(ConfigError, match="`host.inbound` needs"):
        make_plan(replace(WORKER, inbound=(22,), kill_switch=KillSwitch.ROUTE), LAPTOP)


def seen(first: int, mask: int = 0xFFFFFFFF, where: str = "a rule") -> MarkUse:
    return MarkUse(where, first, first, mask)


def test_a_table_of_our_name_that_is_not_ours() -> None:
    state = replace(LAPTOP, foreign_table=True)
    with pytest.raises(HostError, match=r"zks_lwip is not of our making .*`kill_switch` route"):
        make_plan(WORKER, state)
    plan = make_plan(replace(WORKER, kill_switch=KillSwitch.ROUTE), state)
    assert Nftables("") not in plan.stale, "it would be removed"
    # In the place of ours, which another program has removed: ours is brought back.
    running = make_plan(WORKER, LAPTOP)
    assert running.steps[0] in missing(with_state(running, state), state)


@pytest.mark.parametrize(
    "use", [seen(0x7A6B), seen(0x7A6B, 0xFFFF), seen(0x7A00, 0xFF00), MarkUse("a rule", 9, 0xFFFF)]
)
def test_a_mark_that_another_program_uses(use: MarkUse) -> None:
    state = replace(LAPTOP, mark_uses=(seen(1), use))
    why = r"another VPN perhaps: the mark 0x7a6b of our own packets, in a rule \(.*\): choose"
    for kill_switch in KillSwitch:
        with pytest.raises(HostError, match=why) as refused:
            make_plan(replace(WORKER, kill_switch=kill_switch), state)
        (advice,) = re.findall(r"`host.mark` (0x[0-9a-f]+)", str(refused.value)) or ["0x20000"]
        make_plan(replace(WORKER, mark=int(advice, 16), kill_switch=kill_switch), state)
    # Our packets have none, where they are not in the captured namespace.
    make_plan(replace(WORKER, netns="blue"), replace(state, netns="blue", inode=2))
    running = make_plan(WORKER, LAPTOP)
    assert with_state(running, state).steps == running.steps, "it is too late to refuse"


def test_the_mark_of_inbound_connections() -> None:
    state = replace(LAPTOP, mark_uses=(seen(0x7A6C),))
    make_plan(WORKER, state)
    with pytest.raises(HostError, match=r"in a rule \(0x7a6c\): choose another"):
        make_plan(replace(WORKER, inbound=(22,)), state)
    with pytest.raises(HostError, match="choose another"):
        other = replace(state, netns="blue", inode=2)
        make_plan(replace(WORKER, inbound=(22,), netns="blue"), other)


def test_many_uses_are_not_all_named_and_others_not_at_all() -> None:
    uses = tuple(seen(0x7A6B, 0xFFFF | n << 16, f"rule {n}") for n in range(7))
    with pytest.raises(HostError) as refused:
        make_plan(WORKER, replace(LAPTOP, mark_uses=(seen(0xCA6C, where="wg"), *uses)))
    assert "rule 2 (0x7a6b/0x2ffff), 4 more: " in str(refused.value)
    assert "rule 3" not in str(refused.value) and "wg" not in str(refused.value)


def test_a_flag_that_our_mark_has_by_chance_is_told_only() -> None:
    """Container engines and kube-proxy mark packets by one bit."""
    state = replace(LAPTOP, mark_uses=(seen(0x2000, 0x2000), seen(0x8000, 0x8000)))
    (note,) = make_plan(WORKER, state).notes
    assert "a rule (0x2000/0x2000); if that does harm, choose another (`host.mark` 0x1a6b)" in note
    assert make_plan(replace(WORKER, mark=0x1A6B), state).notes == ()


def test_rules_that_could_not_be_read_are_told_only() -> None:
    state = replace(LAPTOP, unseen=("nft: exit code 1",))
    assert make_plan(WORKER, state).notes == (
        "whether others use our mark, too, is not known: nft: exit code 1",
    )
    other = replace(state, netns="blue", inode=2)
    assert make_plan(replace(WORKER, netns="blue"), other).notes == ()


def test_another_mark() -> None:
    """It takes the usual one's place everywhere, and what has that one goes."""
    for config in (WORKER, HostConfig(inbound=(22,)), HostConfig(only=networks("10.0.0.0/8"))):
        usual = make_plan(config, LAPTOP)
        plan = make_plan(replace(config, mark=0x99), LAPTOP)
        expected = "\n".join(usual.render()).replace("0x7a6b", "0x99").replace("0x7a6c", "0x9a")
        assert "\n".join(plan.render()) == expected and plan.mark == 0x99
        ours = tuple(s for s in usual.steps if isinstance(s, (Rule, Route)))
        after = replace(LAPTOP, ours=ours, nft_table=True, leftover=Leftover(7, usual.steps))
        stale = make_plan(replace(config, mark=0x99), after).stale
        assert {s.fwmark for s in stale if isinstance(s, Rule)} <= {0x7A6B, 0x7A6C} and stale


def test_a_table_of_ours_is_known_by_what_it_is_made_of() -> None:
    for config, state in CASES.values():
        step = make_plan(config, state).steps[0]
        assert not isinstance(step, Nftables) or is_ours(step.ruleset)
    listing = (RECORDED / "our-table.txt").read_text()
    assert is_ours(listing)
    for sign in ("counter refused {", "chain dns {", "chain leaving {", "filter hook postrouting"):
        assert not is_ours(listing.replace(sign, "x"))
    assert not is_ours("") and not is_ours("table inet zks_lwip {\n}\n")


def test_a_take_over_keeps_what_was_before_us_and_removes_what_is_not_wanted() -> None:
    old = make_plan(WORKER, LAPTOP)
    ours = tuple(s for s in old.steps if isinstance(s, (Rule, Route)))
    sysctls = {**LAPTOP.sysctls, "net.ipv4.conf.all.src_valid_mark": "1"}
    after = replace(
        LAPTOP, ours=ours, nft_table=True, sysctls=sysctls, leftover=Leftover(7, old.steps)
    )
    same = make_plan(WORKER, after)
    assert same.steps == old.steps and same.stale == ()
    closed = make_plan(replace(WORKER, lan=False, kill_switch=KillSwitch.OFF), after)
    assert Sysctl("net.ipv4.conf.all.src_valid_mark", "1", "0") in closed.stale
    assert Rule(4, 120, MAIN, to="192.168.7.0/24") in closed.stale
    assert Route(4, 31339, 20000) in closed.stale and Nftables("") in closed.stale


def test_what_is_missing() -> None:
    plan = make_plan(WORKER, LAPTOP)
    ours = tuple(s for s in plan.steps if isinstance(s, (Rule, Route)))
    fine = replace(
        LAPTOP,
        ours=ours,
        nft_table=True,
        links=(*LAPTOP.links, HostLink(9, "zks0", "tun")),
        addresses=(
            *LAPTOP.addresses,
            address("zks0", str(plan.ipv4)),
            address("zks0", str(plan.ipv6)),
        ),
        sysctls={"net.ipv4.conf.all.src_valid_mark": "1"},
    )
    assert missing(plan, fine) == []
    assert with_state(plan, fine).steps == plan.steps
    assert missing(plan, replace(fine, nft_table=False)) == [plan.steps[0]]
    for step in ours:
        assert missing(plan, replace(fine, ours=tuple(s for s in ours if s != step))) == [step]
    assert len(missing(plan, replace(fine, addresses=()))) == 2
    down = replace(fine, links=(*LAPTOP.links, HostLink(9, "zks0", "tun", up=False)))
    assert [type(s).__name__ for s in missing(plan, down)] == ["LinkUp"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bypass": networks("10.0.0.0/8", "10.1.0.0/16")}, "`host.bypass` 10.1.0.0/16 overlaps"),
        ({"only": networks("10.0.0.0/8", "10.0.0.0/8")}, "`host.only` 10.0.0.0/8 overlaps"),
        ({"only": networks("10.0.0.0/8"), "bypass": networks("11.0.0.0/8")}, "exclude each other"),
        ({"only": networks("10.0.0.0/8"), "bypass_users": (1,)}, "exclude each other"),
        ({"bypass": networks("::/0")}, "nothing would be tunnelled"),
        ({"inbound": (0,)}, "`host.inbound` 0 is not a port"),
        ({"mark": 0}, "`host.mark` 0x0 is out of range"),
        ({"mark": 0xFFFFFFFF}, "`host.mark` 0xffffffff is out of range"),
    ],
)
def test_wishes_that_contradict(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        HostConfig(**options)  # type: ignore[arg-type]


def test_excluded_programs_follow_the_name_server() -> None:
    """Not to the TUN's, which a resolver names as soon as it has been told of it."""
    config, state = CASES["exclude-resolved"]
    plan = make_plan(config, state)

    def moved(plan: Plan, *servers: str) -> Plan:
        return with_state(plan, replace(state, name_servers=servers))

    assert plan.name_server == "192.168.7.1"
    assert moved(plan, str(plan.peer4), "192.168.7.1").steps == plan.steps
    other = moved(plan, str(plan.peer4), "10.0.0.1", "192.168.7.1")
    assert other.name_server == "10.0.0.1"
    assert [str(step).count("10.0.0.1") for step in other.steps if isinstance(step, Nftables)] == [
        1
    ]
    assert moved(other, str(plan.peer4)).steps == moved(other).steps == other.steps
    late = make_plan(config, replace(state, name_servers=()))
    assert late.name_server == ""
    assert {*moved(late, "10.0.0.1").steps} == {*other.steps}
