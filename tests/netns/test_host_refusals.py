"""``connect`` and ``recover`` refuse what is wrong, say why, and change nothing; and say what a
weaker kill switch does not do.
"""

from __future__ import annotations

import os
import signal

import pytest

from tests.netns import client, lab, machine
from tests.netns.child import Child
from tests.netns.lab import Lab, Namespace
from tests.netns.test_host_commands import direct, host, run, unchanged

__all__ = ["host", "unchanged"]  # the fixtures


REFUSED = {
    "--bypass 10.1.2.3/8": "--bypass 10.1.2.3/8: 10.1.2.3/8 has host bits set",
    "--bypass 10.0.0.0/33": "does not appear to be an IPv4 or IPv6 network",
    "--bypass 300.1.1.1": "does not appear to be an IPv4 or IPv6 network",
    "--bypass 10.0.0.0/8 --bypass 10.1.0.0/16": "--bypass 10.1.0.0/16 overlaps --bypass 10.0.0.0/8",
    "--only fd00::/8 --only fd77::/64": "--only fd77::/64 overlaps --only fd00::/8",
    "--bypass 0.0.0.0/0": "nothing would be tunnelled",
    "--bypass ::/1 --bypass 8000::/1": "is all of IPv6: nothing would be tunnelled",
    "--only 10.0.0.0/8 --bypass 25.0.0.0/8": "exclude each other",
    "--only host.example": "does not appear to be an IPv4 or IPv6 network",
    "--bypass user:no-such-user": "there is no user of that name",
    "--user no-such-user": "--user no-such-user: there is no user of that name",
    "--allow-inbound 22 --kill-switch route": "--allow-inbound needs the firewall",
    "--tun a/b": "is no interface name",
    "--netns no-such-namespace": "there is no network namespace no-such-namespace",
}


@pytest.mark.parametrize("options", REFUSED)
def test_bad_input(net: Lab, host: Namespace, unchanged: None, options: str) -> None:
    """Refused with the reason before anything is changed."""
    with net.connect(host, *options.split(), "-v", ready=False) as child:
        assert child.wait(20) == 2, child.output
    assert REFUSED[options] in child.stderr[-1] and not any("[#]" in x for x in child.stderr)


OTHERS = {
    "link add zks0 type bridge": "the interface name zks0 is taken",
    "route add 10.9.0.0/16 dev up0 table 31339": "a route of another program is in table 31339",
    "rule add priority 999 lookup 31339": "ip -4 rule with priority 999 (table 31339)",
    "rule add priority 50 fwmark 0x7a6b/0xffff lookup 99": "ip -4 rule with priority 50",
    "addr add 198.18.0.1/15 dev up0": "every address that the TUN could have is taken",
}


@pytest.mark.parametrize("command", OTHERS)
def test_somebody_else_has_it(net: Lab, host: Namespace, unchanged: None, command: str) -> None:
    host.ip(command)
    before = machine.picture(host.path)
    with net.connect(host, ready=False) as child:
        assert child.wait(20) == 4, child.output
    assert OTHERS[command] in child.stderr[-1]
    assert machine.difference(before, machine.picture(host.path)) == ""
    host.ip(command.replace(" add ", " del "))


DAMAGED = {
    "unreadable": lambda text: "\x00\xff" * 400,
    "of version 9": lambda text: text.replace('"zks_lwip_journal": 1', '"zks_lwip_journal": 9'),
    "unreadable ": lambda text: "[" * 100_000,
    "": lambda text: text[:-20],
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_journal(
    net: Lab, worker: Child, host: Namespace, unchanged: None, damage: str
) -> None:
    """``recover`` undoes what bears our name and says what it left; ``connect`` takes over."""
    assert host.state is not None
    journal = host.state / f"net-{os.stat(host.path).st_ino}.journal"
    for command in ("recover", "connect"):
        with net.connect(host) as child:
            child.signal(signal.SIGKILL)
            child.wait(5)
        journal.write_text(DAMAGED[damage](journal.read_text()), encoding="latin-1")
        if command == "connect":
            with net.connect(host), host.entered():
                assert client.who(lab.FAR4) == lab.MID4
        elif damage:
            said = run(host, "recover", code=4).stderr[-1]
            assert f"the journal is {damage.strip()}" in said and "were left as they are" in said
        else:
            run(host, "recover")
        if damage:
            host.sysctl("net.ipv4.conf.all.src_valid_mark=0")  # which only the journal knew
        assert run(host, "recover").stdout == ["nothing was left"]
        with host.entered():
            assert client.who(lab.FAR4) == direct(host)


@pytest.mark.parametrize("mode", ["route", "off"])
def test_a_weaker_kill_switch_says_so(
    net: Lab, worker: Child, host: Namespace, unchanged: None, mode: str
) -> None:
    with net.connect(host, "--kill-switch", mode) as child, host.entered():
        child.wait_for(f"--kill-switch {mode}: ", timeout=1)
        assert client.who(lab.FAR4) == lab.MID4
        child.signal(signal.SIGKILL)
        child.wait(5)
        if mode == "off":
            assert client.who(lab.FAR4) == direct(host)
        else:
            assert client.connect_error(lab.FAR4, 80, syn_retries=1) in (
                "EHOSTUNREACH",
                "ENETUNREACH",
            )
    run(host, "recover")
