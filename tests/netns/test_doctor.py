"""``doctor`` against real workers, an instance that runs, and what is wrong with them."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest
import trustme

from tests.kits.netns import lab, servers
from tests.kits.netns.child import Child
from tests.kits.netns.commands import host, run, unchanged
from tests.kits.netns.lab import NOBODY, WORKER4, ZKS, Lab, Namespace
from zks_lwip.daemon import no_status
from zks_lwip.doctor.leaks import examine_leaks
from zks_lwip.net.netns import run_in_netns

__all__ = ["host", "unchanged"]  # the fixtures


def findings(
    host: Namespace, *argv: str, code: int | None = 0, user: int | None = None
) -> dict[str, Any]:
    """What ``doctor --json`` has found, by name; of several of a name, the worst."""
    child = Child("doctor", host.command([*ZKS, "doctor", "--json", *argv], user=user))
    assert child.wait() in ((0, 38) if code is None else (code,)), child.output
    child.no_traceback()
    found: dict[str, Any] = {}
    order = ["ok", "note", "warning", "failure"]
    for each in json.loads(child.stdout[0])["findings"]:
        assert each.keys() == {"name", "level", "text", "remedy"}
        assert (each["remedy"] != "") or each["level"] in ("ok", "note"), each
        before = found.get(each["name"])
        if before is None or order.index(each["level"]) > order.index(before["level"]):
            found[each["name"]] = each
    return found


def test_a_worker_that_is_well(net: Lab, worker: Child, host: Namespace, unchanged: None) -> None:
    page = net.pages / "large"
    page.write_bytes(bytes(3_000_000))
    url = f"http://{lab.FAR4}:{servers.HTTP}"
    found = findings(host, *net.tunnel_options(), "--download", f"{url}/large")
    levels = {name: each["level"] for name, each in found.items()}
    for name in ("kernel", "privileges", "TUN", "nft", "worker", "MTU", "token", "version", "UDP"):
        assert levels[name] == "ok", found[name]
    for name in ("IPv6", "round trip", "connections", "resume", "throughput"):
        assert levels[name] == "ok", found[name]
    assert levels["TLS"] == levels["leaks"] == "note"
    assert "3.0 MB" in found["throughput"]["text"] and "Mbit/s" in found["throughput"]["text"]
    lines = run(host, "doctor", *net.tunnel_options(), user=NOBODY, code=2).stderr
    assert "--token-file" in lines[-1], "that file is another user's"
    found = findings(host, *net.tunnel_options(), "--download", f"{url}/none", code=38)
    assert "404" in found["throughput"]["text"]
    page.unlink()


def test_what_is_wrong_with_a_worker(net: Lab, host: Namespace, unchanged: None) -> None:
    """A line says FAIL, with the remedy, and the exit code tells scripts."""
    address = f"{WORKER4}:8791"
    options = ["--plaintext", "--worker", f"ws://{address}"]
    found = findings(host, *options, code=38)
    assert found["worker"]["level"] == "failure" and "refused" in found["worker"]["text"]
    assert "token" not in found
    with net.worker(listen=address):
        found = findings(host, *options, code=38)
        assert found["worker"]["level"] == "ok"
        assert found["token"]["level"] == "failure" and "--token-file" in found["token"]["remedy"]
        child = run(host, "doctor", *options, code=38)
        assert any(line.startswith("FAIL  token: ") for line in child.stdout), child.output
    authority = trustme.CA(organization_name="an\x1b[31mother")
    certificate = authority.issue_cert("worker.zks.test")
    chain, root = net.directory / "doctor.pem", net.directory / "doctor-ca.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(str(chain))
    authority.cert_pem.write_to_path(str(root))
    options = ["--worker", f"wss://worker.zks.test:{8791}", "--worker-address", WORKER4]
    options += ["--token-file", str(net.token_file)]
    with net.worker("--tls-cert", str(chain), listen=address):
        found = findings(host, *options, code=38)
        assert found["TLS"]["level"] == "failure" and "--ca-file" in found["TLS"]["remedy"]
        found = findings(host, *options, "--ca-file", str(root))
        assert found["TLS"]["level"] == "ok" and "TLSv1.3" in found["TLS"]["text"]
        child = run(host, "doctor", *options, "--ca-file", str(root))
        assert "certificate by an?[31mother" in child.output and "\x1b" not in child.output


def test_leaks(net: Lab, worker: Child, host: Namespace, unchanged: None) -> None:
    with net.connect(host, "--control-group", "nogroup"):
        for user in (None, NOBODY):
            found = findings(host, user=user, code=None)  # this machine may let root alone `run`
            assert found["instance"]["level"] == found["leaks"]["level"] == "ok", found
            assert "status" in found["worker"]["text"]
    with net.connect(host, "--kill-switch", "route", "--bypass", "203.0.113.0/24"):
        assert findings(host)["leaks"]["level"] == "warning"
    # A host that is said to be captured, and is not.
    told = no_status() | {"state": "connected", "interface": "zks0", "kill_switch": "strict"}
    leaks = run_in_netns(host.path, lambda: list(examine_leaks(told)))  # type: ignore[arg-type]
    assert [each.level.value for each in leaks] == ["failure"] * 4, leaks
    for each, family in zip(leaks[2:], ("IPv4", "IPv6"), strict=True):
        assert f"{family}: a socket bound to up0 gets out" in each.text


def test_a_stopped_connect_fails(net: Lab, worker: Child, host: Namespace, unchanged: None) -> None:
    """As by Ctrl-Z: it holds all traffic up, and the remedy names its process."""
    with net.connect(host) as child:
        child.signal(signal.SIGSTOP)
        try:
            found = findings(host, *net.tunnel_options(), code=38)
        finally:
            child.signal(signal.SIGCONT)
    assert found["instance"]["level"] == "failure" and "is stopped" in found["instance"]["text"]
    assert "`fg`" in found["instance"]["remedy"]
    assert f"`kill -CONT {child.pid}`" in found["instance"]["remedy"]
    assert found["worker"]["level"] == "note", "what does not pass says nothing of the worker"


def test_no_way_out_is_no_firewall(net: Lab) -> None:
    """Where nothing can be sent anyhow, it is not said that a firewall has refused it."""
    told = no_status() | {"state": "connected", "interface": "zks0", "kill_switch": "strict"}
    alone = net.namespace("without")
    alone.ip("link add up0 type veth peer name up1")
    leaks = run_in_netns(alone.path, lambda: list(examine_leaks(told)))  # type: ignore[arg-type]
    assert [each.level.value for each in leaks] == ["ok", "ok", "note", "note"], leaks
    assert all("not tried" in each.text for each in leaks[2:])


@pytest.mark.parametrize(
    "url", ["ftp://h/f", "http://", "https://a b/", "https://a/b c", "https://u:p@h/", "x"]
)
def test_what_cannot_be_downloaded(host: Namespace, url: str) -> None:
    assert "--download" in run(host, "doctor", "--download", url, code=2).stderr[-1]
