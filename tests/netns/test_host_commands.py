"""``connect`` and the commands beside it: status, disconnect, pause, recover; and its options."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.kits.netns import client, lab, machine
from tests.kits.netns.child import Child
from tests.kits.netns.commands import (
    current_state,
    direct,
    host,
    run,
    status,
    unchanged,
    wait_for_no_tun,
    workers_of,
)
from tests.kits.netns.lab import NOBODY, PYTHON, WORKER4, WORKER_PORT, ZKS, Lab, Namespace

__all__ = ["host", "unchanged"]  # the fixtures

DIRECT4 = "25.1.{}.2"  # a host's own address, as the far end sees it without a tunnel


def test_where_nothing_runs(host: Namespace, unchanged: None) -> None:
    assert "nothing runs here" in run(host, "status", code=30).stdout[0]
    assert "nothing runs here" in run(host, "pause", code=1).stderr[0]
    assert "nothing runs here" in run(host, "disconnect").stderr[0]
    assert run(host, "recover").stdout == ["nothing was left"]


@pytest.mark.parametrize("command", ["status", "disconnect", "pause", "recover"])
def test_without_privilege(net: Lab, worker: Child, host: Namespace, command: str) -> None:
    with net.connect(host):
        child = run(host, command, code=3, user=NOBODY)
    assert "root" in child.stderr[-1]


def test_status_disconnect_and_a_second_instance(
    net: Lab, worker: Child, host: Namespace, unchanged: None
) -> None:
    before = machine.picture(host.path)
    with net.connect(host, "--bypass", "203.0.113.0/24", "--lan", "block") as child:
        told = status(host)
        assert told["state"] == "connected" and told["pid"] == child.pid
        assert told["peers"] == [f"{WORKER4}/32"] and told["bypass"] == ["203.0.113.0/24"]
        lines = run(host, "status").stdout
        assert lines[0].startswith("connected: zks0 → ws://"), lines
        assert any(line.startswith("kill switch: strict, 0 packets refused") for line in lines)
        assert "LAN: blocked" in lines
        assert any("rule add priority 130" in x for x in run(host, "status", "-v").stdout)
        second = net.connect(host, "--tun", "zks1", ready=False)
        assert second.wait() == 4 and "another instance" in second.stderr[-1], second.output
        assert status(host)["state"] == "connected"
        assert run(host, "recover").stdout[0].startswith("nothing was left (what runs")
        with host.entered():
            assert client.who(lab.FAR4) == lab.MID4
        run(host, "disconnect")
        changed = machine.difference(before, machine.picture(host.path))
        assert not changed, f"disconnect did not wait for its end:\n{changed}"
        assert child.wait() == 0
    child.no_traceback()
    run(host, "disconnect")


def test_while_it_connects(net: Lab, host: Namespace, unchanged: None) -> None:
    """Closed, asked about, and ended, without ever having been connected."""
    for _ in range(3):  # (a busy machine is not always in the way)
        with net.connect(host, "--grace", "1", url=f"ws://{WORKER4}:9", ready=False) as child:
            child.wait_for("Trying again")
            with host.entered():
                began = time.monotonic()
                assert client.connect_error(lab.FAR4, 80) == "ENETUNREACH"
                took = time.monotonic() - began
            told = status(host, code=31)
            assert told["state"] == "connecting" and "refused" in str(told["problem"])
            run(host, "disconnect")
            assert child.wait() == 0
        if took < 8:
            break
    assert took < 8, "the default is 10 s"


def test_a_pause(net: Lab, worker: Child, host: Namespace, unchanged: None) -> None:
    own = direct(host)
    with net.connect(host) as child, host.entered():
        assert client.who(lab.FAR4) == lab.MID4
        assert "PAUSED for 2 s" in run(host, "pause", "--for", "2s").stdout[0]
        child.wait_for("the pause has ended")
        assert client.who(lab.FAR4) == lab.MID4
        run(host, "pause", "--for", "1h")
        assert client.who(lab.FAR4) == own
        lines = run(host, "status", code=33).stdout
        assert any(line.startswith("PAUSED since") for line in lines)
        run(host, "pause", "--end")
        assert client.who(lab.FAR4) == lab.MID4
        lines = run(host, "status").stdout
        assert any(line.startswith("last pause: ") and "asked for" in line for line in lines)
        run(host, "pause", "--end", code=2)
        run(host, "pause", "--for", "2h", code=2)
        run(host, "pause", "--for", "1h")
        assert child.stop() == 0  # in the middle of it


def test_killed_and_recovered(net: Lab, worker: Child, host: Namespace, unchanged: None) -> None:
    with net.connect(host) as child:
        child.signal(signal.SIGKILL)
        child.wait()
    with host.entered():
        assert client.connect_error(lab.FAR4, 80, syn_retries=1) in ("EHOSTUNREACH", "ENETUNREACH")
    assert "the machine is closed" in run(host, "status", code=35).stdout[0]
    assert "the machine is closed" in run(host, "pause", code=1).stderr[0]
    assert "closed" in run(host, "disconnect", code=4).stderr[-1]
    lines = run(host, "recover", "-v").stdout
    assert lines[-1] == "the machine is as it was before" and lines[0].startswith("[#] ")
    assert run(host, "recover").stdout == ["nothing was left"]
    with host.entered():
        assert client.who(lab.FAR4) == direct(host)


@pytest.mark.parametrize("switch", ["strict", "route", "off"])
def test_killed_and_open(
    net: Lab, worker: Child, host: Namespace, unchanged: None, switch: str
) -> None:
    """In a pause, or without a kill switch: what is said of the machine is what it is."""
    with net.connect(host, "--kill-switch", switch) as child:
        if switch != "off":
            run(host, "pause", "--for", "1h")
        child.signal(signal.SIGKILL)
        child.wait()
    wait_for_no_tun(host)
    with host.entered():
        assert client.who(lab.FAR4) == direct(host)
    assert "the machine is OPEN" in run(host, "status", code=36).stdout[0]
    assert "the machine is OPEN" in run(host, "pause", code=1).stderr[0]
    assert "the machine is open" in run(host, "disconnect", code=4).stderr[-1]
    if switch == "route":
        with net.connect(host, "--kill-switch", switch) as child:  # the control
            child.signal(signal.SIGKILL)
            child.wait()
        assert "the machine is closed" in run(host, "status", code=35).stdout[0]
    run(host, "recover")
    assert "nothing runs here" in run(host, "status", code=30).stdout[0]


def test_status_where_the_firewall_cannot_be_read(
    net: Lab, worker: Child, host: Namespace, unchanged: None
) -> None:
    """The state, and why, as long as another program has deleted the table, say."""
    nft = shutil.which("nft", path=f"{os.defpath}:/usr/sbin:/sbin")
    assert nft is not None
    real, broken = net.directory / "nft", net.directory / "nft-is-broken"
    shutil.copy(nft, real)
    script = net.file(
        "nft.sh",
        f"""#!/bin/sh
if [ -e {broken} ] && [ "$1 $2 $3" = "-j list counter" ]; then echo no such table >&2; exit 1; fi
exec {real} "$@"
""",
        0o755,
    )
    argv = [*ZKS, "connect", *net.tunnel_options()]
    command = host.command(argv, resolv=net.resolv, binds={nft: script})
    with Child("connect", command) as child:
        child.wait_for("^ready: ")
        assert status(host)["firewall_problem"] == ""
        broken.touch()
        told = status(host)
        assert told["state"] == "connected" and told["refused"] is None
        assert "no such table" in str(told["firewall_problem"])
        lines = run(host, "status").stdout
        assert any(re.match("firewall: cannot be read: .*no such table", line) for line in lines)
        broken.unlink()
    child.no_traceback()


def test_an_error_keeps_the_host_closed_and_a_restart_takes_over(
    net: Lab, worker: Child, host: Namespace, unchanged: None
) -> None:
    """The TUN is taken away: that ends it, but the host is not opened; nor by a failed restart."""
    with net.connect(host) as child:
        host.ip("link del zks0")
        assert child.wait() == 4, child.output
    assert "stays closed" in child.output
    wrong = net.secret("wrong", "not-the-token\n")
    refused = net.connect(host, "--token-file", str(wrong), ready=False)
    assert refused.wait() == 13, refused.output
    with host.entered():
        assert client.connect_error(lab.FAR4, 80, syn_retries=1) in ("EHOSTUNREACH", "ENETUNREACH")
    with net.connect(host), host.entered():
        assert client.who(lab.FAR4) == lab.MID4


def test_always_on(net: Lab, worker: Child, host: Namespace, unchanged: None) -> None:
    """It is ready when the host is closed, and an error of the start does not open it."""
    wrong = net.secret("wrong", "not-the-token\n")
    with net.connect(host, "--always-on", "--token-file", str(wrong), ready=False) as child:
        assert child.wait() == 13, child.output
    with host.entered():
        assert client.connect_error(lab.FAR4, 80, syn_retries=1) in ("EHOSTUNREACH", "ENETUNREACH")
    told = net.directory / "notify-always-on"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(told))
        manager.settimeout(60)
        argv = [*ZKS, "connect", "--always-on", *net.tunnel_options(f"ws://{WORKER4}:9")]
        command = host.command(argv, resolv=net.resolv)
        with Child("connect", command, env={"NOTIFY_SOCKET": str(told)}) as child:
            assert manager.recv(1000) == b"READY=1\nSTATUS=closed; connecting"
            assert current_state(host) == "connecting"
            assert child.stop() == 0
    told.unlink()


def test_a_dry_run_changes_nothing_and_needs_no_root(
    net: Lab, host: Namespace, unchanged: None
) -> None:
    options = ["--worker", "wss://worker.example", "--bypass", "a.example", "--dry-run"]
    for user in (None, NOBODY):
        lines = run(host, "connect", *options, user=user).stdout
        assert lines[0].startswith("# the addresses of worker.example")
        assert "# the addresses of a.example are let out, too" in lines
        assert any(line.startswith("nft -f -") for line in lines)
        assert any("1.1.1.1" in line for line in lines), "the resolvers that are asked for them"
    # They can be typed.
    script = net.file("plan.sh", "\n".join(lines) + "\n")
    typed = Child("sh", host.command(["sh", "-ex", str(script)]))
    assert typed.wait() == 0, typed.output
    assert "zks_lwip" in Child("nft", host.command(["nft", "list", "tables"])).succeed()
    host.ip("link del zks0")
    assert run(host, "recover").stdout == ["the machine is as it was before"]
    host.sysctl("net.ipv4.conf.all.src_valid_mark=0")  # that one is in no journal


def test_only_what_is_needed_is_kept(
    net: Lab, worker: Child, host: Namespace, unchanged: None
) -> None:
    """One capability, no new privileges, another user; the embedded worker, too."""
    for embedded in (False, True):
        with net.connect(host, "--user", "nobody", embedded=embedded) as child:
            pids = [child.pid, *workers_of(child.pid)]
            assert len(pids) == (2 if embedded else 1)
            for pid in pids:
                seen = _tasks_of(pid)
                assert str(pid) in [fields["Pid"] for fields in seen]
                for fields in seen:
                    assert fields["Uid"].split() == [str(NOBODY)] * 4
                    for name in ("CapPrm", "CapEff", "CapInh", "CapBnd"):
                        assert int(fields[name], 16) in (0, 1 << 12), (pid, fields["Name"], name)
                    assert fields["NoNewPrivs"] == "1"
            with host.entered():
                assert client.who(lab.FAR4) == (direct(host) if embedded else lab.MID4)
            host.ip("rule del priority 130")
            child.wait_for("another program has undone")
            run(host, "pause", "--for", "1h")
            run(host, "pause", "--end")
            run(host, "disconnect")
            assert child.wait() == 0
        child.no_traceback()


_ENDED = (FileNotFoundError, ProcessLookupError)  # a thread that is not needed any more, or nft


def _tasks_of(pid: int) -> list[dict[str, str]]:
    """What /proc says of each of its threads."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(*_ENDED):
            lines = (task / "status").read_text().splitlines()
            found.append(dict(line.split(":\t", 1) for line in lines if ":\t" in line))
    return found


def test_the_worker_through_a_proxy(net: Lab, host: Namespace, unchanged: None) -> None:
    """Its name is known to the proxy only; nothing but the proxy is contacted."""
    import trustme

    authority = trustme.CA()
    ca = net.directory / "proxy-ca.pem"
    authority.cert_pem.write_to_path(ca)
    chain = net.directory / "proxy-worker.pem"
    authority.issue_cert("localhost", WORKER4).private_key_and_cert_chain_pem.write_to_path(chain)
    listen = f"{WORKER4}:8443"
    proxy = net.mid.command([*PYTHON, "-m", "tests.kits.connect_proxy", WORKER4, "3128"])
    with (
        net.worker("--tls-cert", str(chain), listen=listen),
        Child("proxy", proxy) as proxying,
    ):
        proxying.wait_for("proxy listens")
        argv = [*ZKS, "connect", "--worker", f"wss://{listen}", "--ca-file", str(ca)]
        argv += ["--token-file", str(net.token_file)]
        environment = {"HTTPS_PROXY": f"http://{WORKER4}:3128"}
        with Child("connect", host.command(argv, resolv=net.resolv), env=environment) as child:
            child.wait_for("^ready: ")
            with host.entered():
                assert client.who(lab.FAR4) == lab.MID4
            assert status(host)["peers"] == [f"{WORKER4}/32"]
        child.no_traceback()
        proxying.wait_for(f"asked for {listen}")


def test_the_address_is_given(net: Lab, worker: Child, host: Namespace, unchanged: None) -> None:
    """--worker-address: the name is for TLS (here: for the Host field) only, and not looked up."""
    url = f"ws://worker.example:{WORKER_PORT}"
    with net.connect(host, "--worker-address", WORKER4, url=url), host.entered():
        assert client.who(lab.FAR4) == lab.MID4
        assert status(host)["peers"] == [f"{WORKER4}/32"]


def test_split_tunnels(net: Lab, worker: Child, host: Namespace, unchanged: None) -> None:
    own = direct(host)
    with net.connect(host, "--bypass", f"{lab.FAR4}/32"), host.entered():
        assert client.who(lab.FAR4) == own
        assert client.who(lab.FAR6) == lab.MID6
    with net.connect(host, "--only", f"{lab.FAR4}/32"), host.entered():
        assert client.who(lab.FAR4) == lab.MID4
        assert client.who(lab.FAR6) != lab.MID6
    halves = ["--bypass", "0.0.0.0/1", "--bypass", "::/1"]
    with net.connect(host, *halves), host.entered():
        assert client.who(lab.FAR4) == own
        assert client.who(lab.FAR6) != lab.MID6
    with net.connect(host, "--only", "0.0.0.0/0") as child, host.entered():
        assert client.who(lab.FAR4) == lab.MID4
        assert client.who(lab.FAR6) != lab.MID6
    assert not any("undone" in line for line in child.stderr), "a rule for everything has no `to`"
    with net.connect(host, "--bypass", "user:nobody"):
        argv = [*PYTHON, "-m", "tests.kits.netns.client", "who", lab.FAR4]
        for user, seen in ((NOBODY, own), (None, lab.MID4)):
            child = Child("who", host.command(argv, user=user))
            assert child.succeed().strip() == seen


def test_ssh_is_not_cut(net: Lab, worker: Child, host: Namespace, unchanged: None) -> None:
    own = direct(host)
    argv = host.command([*ZKS, "connect", *net.tunnel_options()], resolv=net.resolv)
    remote = {"SSH_CONNECTION": f"{lab.FAR4} 55555 {own} 22"}
    with Child("connect", argv, env=remote) as child:
        assert child.wait() == 2, child.output
    said = child.stderr[-1]
    assert f"--bypass {lab.FAR4}" in said and "--allow-inbound 22" in said and "--yes" in said
    for options in (["--yes"], ["--bypass", lab.FAR4], ["--allow-inbound", "22"]):
        with Child("connect", [*argv, *options], env=remote) as child:
            child.wait_for("^ready: ")
    elsewhere = {"SSH_CONNECTION": f"{lab.FAR4} 55555 192.0.2.99 22"}  # ends in another namespace
    with Child("connect", argv, env=elsewhere) as child:
        child.wait_for("^ready: ")


def test_in_a_namespace(net: Lab, worker: Child, host: Namespace, unchanged: None) -> None:
    inside = net.namespace("status")
    with net.connect(host, "--netns", inside.name):
        told = dict(json.loads(run(host, "status", "--netns", inside.name, "--json").stdout[0]))
        assert told["netns"] == inside.name and told["peers"] is None
        assert "nothing runs here" in run(host, "status", code=30).stdout[0]
        run(host, "disconnect", "--netns", inside.name)
