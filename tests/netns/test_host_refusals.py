"""``connect`` and ``recover`` refuse what is wrong, say why, and change nothing; and say what a
weaker kill switch does not do.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator

import pytest

from tests.kits.netns import client, lab, machine
from tests.kits.netns.child import Child, until
from tests.kits.netns.commands import direct, host, run, unchanged, wait_for_no_tun
from tests.kits.netns.lab import ZKS, Lab, Namespace

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
    "--mark 0": "--mark 0x0 is out of range: give 0x1 to 0xfffffffe",
    "--mark zk": "--mark zk: give a number such as 0x7a6b",
    "--netns no-such-namespace": "there is no network namespace no-such-namespace",
}


@pytest.mark.parametrize("options", REFUSED)
def test_bad_input(net: Lab, host: Namespace, unchanged: None, options: str) -> None:
    """Refused with the reason before anything is changed."""
    with net.connect(host, *options.split(), "-v", ready=False) as child:
        assert child.wait() == 2, child.output
    assert REFUSED[options] in child.stderr[-1] and not any("[#]" in x for x in child.stderr)


OTHERS = {
    "link add zks0 type bridge": "the interface name zks0 is taken",
    "route add 10.9.0.0/16 dev up0 table 31339": "a route of another program is in table 31339",
    "rule add priority 999 lookup 31339": "ip -4 rule with priority 999 (table 31339)",
    "rule add priority 50 fwmark 0x7a6b/0xffff lookup 99": "ip -4 rule with priority 50",
    "addr add 198.18.0.1/15 dev up0": "every address that the TUN could have is taken",
}


@pytest.mark.parametrize("command", OTHERS)
def test_another_program_has_it(net: Lab, host: Namespace, unchanged: None, command: str) -> None:
    host.ip(command)
    before = machine.picture(host.path)
    with net.connect(host, ready=False) as child:
        assert child.wait() == 4, child.output
    assert OTHERS[command] in child.stderr[-1]
    assert machine.difference(before, machine.picture(host.path)) == ""
    host.ip(command.replace(" add ", " del "))


def sh(host: Namespace, script: str) -> str:
    return Child("sh", host.command(["sh", "-ec", script])).succeed()


@contextlib.contextmanager
def foreign_rules(host: Namespace, rules: str) -> Iterator[None]:
    """Another program has loaded these, and nothing of it is changed until the end of the block."""
    sh(host, f"nft -f - <<'END'\n{rules}\nEND")
    before = machine.picture(host.path)
    try:
        yield
        assert machine.difference(before, machine.picture(host.path)) == ""
    finally:
        sh(host, "nft flush ruleset")


FOREIGN = {
    "empty": "table inet zks_lwip { }",
    "of the original project, perhaps": """table inet zks_lwip {
        comment "made by another program"
        counter refused { }
        set lan4 { type ipv4_addr; elements = { 192.0.2.1 }; }
        chain leaving { type filter hook output priority 7; ip daddr @lan4 counter accept; }
    }""",
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_table_of_our_name(
    net: Lab, worker: Child, host: Namespace, unchanged: None, what: str
) -> None:
    """Another program's is neither replaced nor removed, whatever runs or has run."""
    with foreign_rules(host, FOREIGN[what]):
        with net.connect(host, ready=False) as child:
            assert child.wait() == 4, child.output
        assert "table inet zks_lwip is not of our making" in child.stderr[-1]
        assert "--kill-switch route" in child.stderr[-1]
        recovered = run(host, "recover")
        assert recovered.stdout == ["nothing was left"]
        assert "not of our making, and left as it is" in recovered.stderr[-1]
        with net.connect(host, "--kill-switch", "route") as child, host.entered():
            assert client.who(lab.FAR4) == lab.MID4
            run(host, "disconnect")
            assert child.wait() == 0
        with net.connect(host, "--kill-switch", "route") as child:
            child.signal(signal.SIGKILL)
            child.wait()
        recovered = run(host, "recover")
        assert recovered.stdout == ["the machine is as it was before"]
        assert "not of our making, and left as it is" in recovered.stderr[-1]


@pytest.mark.parametrize("how", ["connect", "recover"])
def test_a_table_of_ours_without_a_journal(
    net: Lab, worker: Child, host: Namespace, unchanged: None, how: str
) -> None:
    """It is known by what it is made of: a closed machine can always be opened."""
    assert host.state is not None
    journal = host.state / f"net-{os.stat(host.path).st_ino}.journal"
    with net.connect(host) as child:
        child.signal(signal.SIGKILL)
        child.wait()
    journal.unlink()
    if how == "connect":
        with net.connect(host), host.entered():
            assert client.who(lab.FAR4) == lab.MID4
        assert "zks_lwip" not in sh(host, "nft list tables")
    else:
        assert run(host, "recover").stdout == ["the machine is as it was before"]
    host.sysctl("net.ipv4.conf.all.src_valid_mark=0")  # which only the journal knew


def test_a_table_of_ours_that_another_program_has_changed(
    net: Lab, worker: Child, host: Namespace, unchanged: None
) -> None:
    """While we run it is brought back; afterwards a journal's word is enough to remove it."""
    exchange = "delete table inet zks_lwip; table inet zks_lwip { chain x { }; }"
    with net.connect(host) as child, host.entered():
        sh(host, f"nft '{exchange}'")
        child.wait_for("another program has undone `nft -f")
        until(lambda: "chain leaving" in sh(host, "nft list table inet zks_lwip"))
        assert client.who(lab.FAR4) == lab.MID4
        child.signal(signal.SIGKILL)
        child.wait()
    sh(host, f"nft '{exchange}'")
    assert run(host, "recover").stdout == ["the machine is as it was before"]


MARKS = {
    "ip filter hook output: meta mark 0x7a6b accept": "(0x7a6b)",
    "inet filter hook input: ct mark and 0xffff == 0x7a6b drop": "(0x7a6b/0xffff)",
    "ip6 route hook output: meta mark set meta mark and 0xffff00ff or 0x7a00": "(0x7a00/0xff00)",
    "ip filter hook prerouting: ct mark set ip saddr map { 192.0.2.1 : 0x7a6b }": "(0x7a6b)",
    "inet filter hook forward: meta mark vmap { 0x7a00-0x7aff : drop }": "(0x7a00-0x7aff)",
}


@pytest.mark.parametrize("what", MARKS)
def test_a_mark_in_another_programs_firewall(
    net: Lab, worker: Child, host: Namespace, unchanged: None, what: str
) -> None:
    start, rule = what.split(": ", 1)
    family, kind, _, hook = start.split()
    chain = f"chain theirs {{ type {kind} hook {hook} priority 5; {rule}; }}"
    with foreign_rules(host, f"table {family} other {{ {chain}; }}"):
        with net.connect(host, ready=False) as child:
            assert child.wait() == 4, child.output
        where = f"in chain theirs of the nftables table {family} other {MARKS[what]}"
        assert where in child.stderr[-1] and "another VPN perhaps" in child.stderr[-1]
        advice = child.stderr[-1].split("choose another (")[1].split(")")[0]
        with net.connect(host, *advice.split()), host.entered():
            assert client.who(lab.FAR4) == lab.MID4
        with net.connect(host, *advice.split()) as child:
            child.signal(signal.SIGKILL)
            child.wait()
        run(host, "recover")


def test_a_mark_in_a_named_set(net: Lab, host: Namespace, unchanged: None) -> None:
    with (
        foreign_rules(
            host, "table ip other { set theirs { type mark; elements = { 1, 0x7a6b }; }; }"
        ),
        net.connect(host, ready=False) as child,
    ):
        assert child.wait() == 4, child.output
    assert "in set theirs of the nftables table ip other (0x7a6b)" in child.stderr[-1]


def test_a_bit_of_our_mark(net: Lab, worker: Child, host: Namespace, unchanged: None) -> None:
    """A container engine's, say: told, not refused. With another mark it is taken over."""
    chain = "chain theirs { type nat hook postrouting priority 90; mark and 0x2000 != 0 masquerade;"
    with foreign_rules(host, f"table ip other {{ {chain} }}; }}"):
        with net.connect(host) as child, host.entered():
            child.wait_for(r"means something .*table ip other \(0x2000/0x2000\)")
            assert client.who(lab.FAR4) == lab.MID4
            child.signal(signal.SIGKILL)
            child.wait()
        with net.connect(host, "--mark", "0x1a6b") as child, host.entered():
            assert client.who(lab.FAR4) == lab.MID4
            assert "0x7a6b" not in sh(host, "ip rule; ip -6 rule; nft list ruleset")
        assert not any("means something" in line for line in child.stderr)


@pytest.mark.parametrize("kind", ["nft", "legacy"])
@pytest.mark.parametrize("program", ["iptables", "ip6tables"])
@pytest.mark.parametrize("rule", ["-j CONNMARK --set-mark 0x7a6b", "-m mark --mark 0x7a6b/0xffff"])
def test_a_mark_in_iptables(
    net: Lab, host: Namespace, unchanged: None, kind: str, program: str, rule: str
) -> None:
    if shutil.which(f"{program}-{kind}") is None:
        pytest.skip(f"{program}-{kind} is not installed")
    command = f"{program}-{kind} -t mangle -{{}} PREROUTING {rule}"
    sh(host, command.format("A"))
    try:
        before = machine.picture(host.path)
        with net.connect(host, ready=False) as child:
            assert child.wait() == 4, child.output
        assert machine.difference(before, machine.picture(host.path)) == ""
    finally:
        sh(host, f"{command.format('D')}; nft flush ruleset")
    assert "the mark 0x7a6b of our own packets, in chain PREROUTING of" in child.stderr[-1]
    assert f"of {program} (0x7a6b" in child.stderr[-1] or "(0x7a6b/0xffff)" in child.stderr[-1]


LIES = {
    'echo \'{"nftables": [{"rule": 5}]}\'': "it is no ruleset of ",
    "exit 3": "exit code 3",
    "exec yes": "printed more than 16 MiB",
    "exec sleep 60": "did not end within ",
}


@pytest.mark.parametrize("lie", LIES)
def test_programs_that_fail_or_print_nonsense(
    net: Lab, worker: Child, host: Namespace, unchanged: None, lie: str
) -> None:
    """No user is kept from connecting by what cannot be read, but it is told; the rest counts."""
    folder = net.directory / f"lies-{list(LIES).index(lie)}"
    folder.mkdir()
    nft = shutil.which("nft", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    programs = {
        "nft": f'case "$*" in *-j*ruleset*) {lie};; *) exec {nft} "$@";; esac',
        "iptables-save": "echo '# x'; echo '*nat'; echo '-A x -j MARK --set-xmark 0x7a6b/0xffff'",
        "ip6tables-save": lie,
    }
    for kind in ("nft", "legacy"):
        programs |= {
            f"{name}-{kind}-save": f"exec {name}-save" for name in ("iptables", "ip6tables")
        }
    for name, script in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    argv = host.command([*ZKS, "connect", *net.tunnel_options()], resolv=net.resolv)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}"}
    if "sleep" not in lie:  # once is enough for those that take their time
        with Child("connect", argv, env=environment) as child:
            assert child.wait() == 4, child.output
        assert "in chain x of the table nat of iptables (0x7a6b/0xffff)" in child.stderr[-1]
    with Child("connect", [*argv, "--mark", "0x1a6b"], env=environment) as child, host.entered():
        child.wait_for("^ready: ")
        told = [line for line in child.stderr if "whether others use our mark" in line]
        assert len(told) >= 2 and all(LIES[lie] in line for line in told), child.output
        assert client.who(lab.FAR4) == lab.MID4
    child.no_traceback()


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
            child.wait()
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
        child.wait_for(f"--kill-switch {mode}: ")
        assert client.who(lab.FAR4) == lab.MID4
        child.signal(signal.SIGKILL)
        child.wait()
        if mode == "off":
            wait_for_no_tun(host)
            assert client.who(lab.FAR4) == direct(host)
        else:
            assert client.connect_error(lab.FAR4, 80, syn_retries=1) in (
                "EHOSTUNREACH",
                "ENETUNREACH",
            )
    run(host, "recover")
