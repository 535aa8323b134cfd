"""Nothing leaves outside the TUN: probes of every kind against a detector that is shown to detect.

The host is set up as ``connect`` does; there is no tunnel, so whatever leaves is a leak.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from tests.kits.netns import leak
from tests.kits.netns.lab import NOBODY
from tests.kits.netns.leak import Detector, Packet, Prober, Probers, Space
from tests.kits.netns.talk import RP_FILTER
from tests.netns.host.conftest import Holder, execute, nothing, same
from zks_lwip.net.netns import run_in_netns

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes network namespaces")


@pytest.mark.parametrize("origin", leak.ORIGINS)
def test_the_detector_detects(
    detector: Detector, fast_probers: Probers, space: Space, origin: str
) -> None:
    """The control: without us each kind of probe is seen leaving, whichever user has sent it."""
    chosen = fast_probers.each[leak.ORIGINS.index(origin)]
    for other in fast_probers.each:
        if other is not chosen:
            other.stop()
    with detector.watching() as found:
        chosen.rounds()
    leak.check_control(found, origin)


@pytest.mark.parametrize("ipv6", [True, False], ids=["tunnel6", "block6"])
@pytest.mark.parametrize("lan", [True, False], ids=["lan", "nolan"])
@pytest.mark.parametrize("forward", [False, True], ids=["refused", "forward"])
def test_nothing_leaves(
    holder: Holder, detector: Detector, probers: Probers, forward: bool, lan: bool, ipv6: bool
) -> None:
    """Steady, stopped (SIGSTOP), killed, taken over, restarted; 300 probes a second."""
    config = {"lan": lan, "ipv6": ipv6, "forward": forward}
    holder.order("^closed", config)
    with detector.watching() as found:
        holder.expect("^applied")
        probers.rounds()
        holder.send("freeze")
        probers.rounds()
        holder.end("kill")
        probers.rounds()
        holder.apply(**config)
        probers.rounds()
    holder.end()
    nothing(found)


def test_the_probes_go_into_the_tun(holder: Holder, fast: Prober) -> None:
    """What is not bound to a device does; DNS does even where the sender chose an interface."""
    holder.apply()
    for packet in (
        "4 17 9999",
        "4 6 80",
        "4 1 .*",
        "4 17 53",
        "4 6 53",
        "6 17 9999",
        "6 6 80",
        "6 17 53",
    ):
        holder.in_tun(packet)
    holder.end()


def test_dns_of_a_resolver_that_chooses_the_interface(holder: Holder, space: Space) -> None:
    holder.apply()
    with Prober(space.client, "dns4-unicast-if", "landns4-unicast-if"):
        holder.in_tun("4 17 53")
    holder.end()


def test_blocked_ipv6_fails_at_once_and_its_dns_is_ours(holder: Holder, space: Space) -> None:
    holder.apply(ipv6=False)
    with run_in_netns(space.client.path, socket.socket, socket.AF_INET6) as probe:
        probe.setblocking(False)  # by the route, at once: no packet is made that could be refused
        with pytest.raises(OSError, match="unreachable"):
            probe.connect((leak.FAR6, 80))
    with Prober(space.client, "dns6", "landns6"):
        holder.in_tun("6 17 53")
    seen = len(holder.child.stdout)
    holder.update({"ipv6": True})
    with Prober(space.client, "tcp6"):
        holder.child.wait_for("^tun 6 6 80", after=seen)
    holder.update({"ipv6": False})
    holder.end()


VARIANTS: dict[str, dict[str, object]] = {
    "strict": {},
    "closed": {"lan": False, "ipv6": False},
    "exceptions": {
        "forward": True,
        "inbound": [22, 8022],
        "bypass": ["203.0.113.0/24", "2001:db8::/32"],
        "bypass_users": [NOBODY],
    },
    "only": {"only": ["25.2.0.0/16", "2a0e:2::/32"], "inbound": [22]},
    "embedded": {"peers": None},
    "route": {"kill_switch": "route", "forward": True, "bypass": ["203.0.113.0/24"]},
    "route only": {"kill_switch": "route", "only": ["25.2.0.0/16", "2a0e:2::/32"]},
    "off": {"kill_switch": "off"},
}


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest, space: Space) -> Iterator[dict[str, object]]:
    """Each way to be set up, on a host that looks at reverse paths strictly."""
    execute(space, RP_FILTER.format(1))
    yield VARIANTS[request.param]
    execute(space, RP_FILTER.format(0))


def test_a_death_before_each_step(
    holder: Holder, detector: Detector, fast_probers: Probers, variant: dict[str, object]
) -> None:
    """The host is untouched or closed; then the next instance takes over, or ``recover`` undoes.

    (Without a firewall it is closed by the last rule, not by the first step.)
    """
    before = holder.picture()
    steps = holder.steps(variant)
    assert steps > 15
    strict = "kill_switch" not in variant

    def closed(found: dict[Packet, int]) -> None:
        if strict:
            nothing(found)

    for number in range(steps):
        ways = ("recover", "take over")
        for after in ways if not variant else (ways[number % 2],):
            holder.order("^ended -9", variant, die=number)
            if number == 0:
                same(before, holder.picture())
            elif after == "recover":
                with detector.watching() as found:
                    fast_probers.rounds()
                closed(found)
            if after == "recover":
                assert holder.recover()["left"] == []
            else:
                with detector.watching() as found:
                    if number == 0 and strict:
                        holder.order("^closed", variant)
                        detector.forget()
                        holder.expect("^applied")
                    else:
                        holder.apply(**variant)
                closed(found)
                holder.end()
            same(before, holder.picture(), f"step {number}, {after}")
    assert holder.recover() == {"undone": [], "left": []}


@pytest.mark.parametrize("how", ["term", "fail"])
def test_an_orderly_end_in_each_step(holder: Holder, how: str, variant: dict[str, object]) -> None:
    before = holder.picture()
    steps = holder.steps(variant)
    for number in range(steps):
        code = holder.order(r"^ended -?\d+", variant, **{how: number})
        assert code == ("ended 0" if how == "term" else "ended 1")
        same(before, holder.picture(), f"step {number}")
    assert not list(holder.directory.glob("*.journal"))


def test_a_death_while_taking_over_by_others(
    holder: Holder, detector: Detector, fast_probers: Probers
) -> None:
    """From each way to be set up to another, dying in its middle and at its end: put back."""
    before = holder.picture()
    names = list(VARIANTS)
    for first, second in zip(names, [*names[1:], names[0]], strict=True):
        holder.apply(**VARIANTS[first])
        holder.end("kill")
        strict = not {"kill_switch"} & (VARIANTS[first].keys() | VARIANTS[second].keys())
        with detector.watching() as found:
            holder.order("^ended -9", VARIANTS[second], die=6)
            holder.apply(**VARIANTS[second])
            holder.end("kill")
            fast_probers.rounds()
        if strict:
            nothing(found)
        assert holder.recover()["left"] == []
        same(before, holder.picture(), f"{first}, {second}")


def test_a_failed_take_over_stays_closed(
    holder: Holder, detector: Detector, fast_probers: Probers
) -> None:
    holder.apply()
    holder.end("kill")
    with detector.watching() as found:
        holder.order("^ended 1", fail=5)
        fast_probers.rounds()
    nothing(found)
    assert holder.recover()["left"] == []
