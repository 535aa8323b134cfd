"""DNS the whole way: applications, TUN, lwIP, our service, and unbound and dnsdist at the far end.

While everything happens that can go wrong, no packet to or from port 53 may be seen on any
interface but the TUN.
"""

from __future__ import annotations

import contextlib
import json
import re
import resource
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kits import dns_daemons
from tests.kits.dns_daemons import Daemons
from tests.kits.netns import lab
from tests.kits.netns.child import Child, until
from tests.kits.netns.lab import PYTHON, Lab, Namespace
from tests.kits.netns.watch import Watch
from tests.kits.programs import find

pytestmark = pytest.mark.skipif(bool(dns_daemons.missing()), reason=dns_daemons.missing())

UNKNOWN4, UNKNOWN6 = "25.77.7.7", "2a0e:77::7"  # name servers that do not exist


@pytest.fixture(scope="module")
def resolvers(net: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemons]:
    """unbound and dnsdist in ``far``."""
    with contextlib.ExitStack() as stack:
        with net.far.entered():
            running = stack.enter_context(
                dns_daemons.daemons(tmp_path_factory.mktemp("dns"), address=lab.FAR4)
            )
        yield running


def options(resolvers: Daemons, *ports: int) -> list[str]:
    urls = [resolvers.url(port) for port in ports or (resolvers.unbound_doh,)]
    return [*(x for url in urls for x in ("--dns", url)), "--ca-file", str(resolvers.ca_file)]


@pytest.fixture(scope="module", params=["tunnel", "direct"])
def host(
    request: pytest.FixtureRequest, net: Lab, worker: Child, resolvers: Daemons
) -> Iterator[Namespace]:
    """A host whose names come from unbound: asked through the worker, or from this machine."""
    place = net.add_host()
    via = ["--dns-via", request.param]
    with net.connect(place, *via, *options(resolvers)) as running, Watch(place) as watch:
        yield place
        assert watch.frames and not watch.seen
    running.no_traceback()


def dig(net: Lab, host: Namespace, *arguments: str) -> str:
    child = net.application(host, "dig", "+tries=1", "+time=30", *arguments)
    child.wait()
    return "\n".join(child.stdout)


def test_the_detector_sees_plain_dns(net: Lab) -> None:
    """The control: without a tunnel, the same watch sees the same programs."""
    place = net.add_host()
    with Watch(place) as watch:
        assert lab.FAR4 in dig(net, place, f"@{lab.NAMES4}", "far.zks.test", "+short")
    assert len(watch.seen) >= 2


def test_whatever_server_is_asked(net: Lab, host: Namespace) -> None:
    for server in (lab.NAMESERVER, UNKNOWN4, UNKNOWN6):
        for transport in ("+notcp", "+tcp"):
            text = dig(net, host, f"@{server}", transport, "www.zks.test", "A")
            assert "192.0.2.1" in text and f"({server})" in text, text


def test_types_sizes_and_dnssec(net: Lab, host: Namespace) -> None:
    assert "alpn=" in dig(net, host, "www.zks.test", "HTTPS")
    assert "01020304" in dig(net, host, "odd.zks.test", "TYPE65280")
    assert "RRSIG" in dig(net, host, "+dnssec", "www.signed.test")
    assert "status: NXDOMAIN" in dig(net, host, "nothing.zks.test")
    text = dig(net, host, "big.zks.test", "TXT")
    assert "retrying in TCP mode" in text and text.count("xxxx") >= 20
    text = dig(net, host, "+ignore", "+bufsize=900", "big.zks.test", "TXT")
    assert re.search(r"flags:.* tc", text) and "ANSWER: 0" in text
    # 5 KB over UDP come in fragments, and whole.
    text = dig(net, host, "+ignore", "+bufsize=8192", "big.zks.test", "TXT")
    assert text.count("xxxx") >= 20 and "(UDP)" in text
    text = dig(net, host, "+tcp", "huge.zks.test", "TXT")
    assert text.count("yyyy") >= 240


def test_kdig_and_several_queries_on_one_connection(net: Lab, host: Namespace) -> None:
    argv = [
        "kdig",
        "+timeout=30",
        "+keepopen",
        "+tcp",
        f"@{UNKNOWN4}",
        "www.zks.test",
        "AAAA",
        "mail.zks.test",
        "MX",
    ]
    text = net.application(host, *argv).succeed()
    assert "2001:db8::1" in text and "10 www.zks.test." in text
    argv = ["kdig", "+timeout=30", "+bufsize=1232", "+dnssec", f"@{UNKNOWN6}", "www.signed.test"]
    text = net.application(host, *argv).succeed()
    assert "RRSIG" in text and "WARNING" not in text


def test_getaddrinfo(net: Lab, host: Namespace) -> None:
    text = net.application(host, "getent", "ahosts", "www.zks.test").succeed()
    assert "192.0.2.1" in text and "2001:db8::1" in text


@pytest.mark.skipif(find("dnsperf") is None, reason="dnsperf is not to be had")
@pytest.mark.parametrize("mode", ["udp", "tcp"])
def test_dnsperf(net: Lab, host: Namespace, tmp_path: Path, mode: str) -> None:
    names = tmp_path / "names"
    names.write_text("".join(f"h{number}.zks.test A\n" for number in range(1000)))
    found = find("dnsperf")
    assert found is not None
    path, environment = found
    argv = [path, "-s", UNKNOWN4, "-d", str(names), "-n", "3", "-q", "30", "-t", "30", "-m", mode]
    text = net.application(host, *argv, env=environment).succeed(120)
    assert re.search(r"Queries completed: +3000 \(100.00%\)", text), text
    assert re.search(r"Response codes: +NOERROR 3000", text), text


def test_one_resolver_after_the_other_goes_away(
    net: Lab, worker: Child, resolvers: Daemons, tmp_path: Path
) -> None:
    """SIGSTOP (a blackhole), SIGKILL, back again: answers or SERVFAIL, and nothing plain."""
    place = net.add_host()
    with contextlib.ExitStack() as stack:
        with net.far.entered():
            own = stack.enter_context(dns_daemons.daemons(tmp_path, address=lab.FAR4))
        ports = options(own, own.unbound_doh, own.dnsdist_doh)
        connect = stack.enter_context(net.connect(place, "--dns-via", "tunnel", *ports))
        watch = stack.enter_context(Watch(place))
        names = (f"n{number}.wild.zks.test" for number in range(1000))
        assert "192.0.2.3" in dig(net, place, next(names), "+short")
        # dnsdist asks unbound; so it answers from no cache, and with both stopped none does.
        own.processes["dnsdist"].send_signal(signal.SIGSTOP)
        _until_answered(net, place, names)
        own.processes["unbound"].send_signal(signal.SIGSTOP)
        text = dig(net, place, next(names), "+time=20")  # each of the two has 5 s
        assert "SERVFAIL" in text and "EDE" in text, text
        own.processes["unbound"].send_signal(signal.SIGCONT)
        own.processes["dnsdist"].kill()
        _until_answered(net, place, names)
        own.processes["unbound"].kill()
        own.processes["unbound"].wait()
        assert "SERVFAIL" in dig(net, place, next(names))
        assert watch.frames and not watch.seen
    connect.no_traceback()


def test_the_worker_asks_when_it_cannot_reach_any_resolver(
    net: Lab, worker: Child, resolvers: Daemons
) -> None:
    """`auto` with resolvers that refuse CONNECT, as 1.1.1.1 does from a Cloudflare Worker."""
    place = net.add_host()
    with net.connect(place, *options(resolvers, 1, 2)) as connect, Watch(place) as watch:
        assert lab.FAR4 in dig(net, place, "far.zks.test", "+short")
        assert not watch.seen
    connect.no_traceback()
    only = ["--dns-via", "tunnel"]
    with net.connect(place, *only, *options(resolvers, 1)) as connect, Watch(place) as watch:
        assert "SERVFAIL" in dig(net, place, "far.zks.test")
        assert not watch.seen
    connect.no_traceback()


def _until_answered(net: Lab, place: Namespace, names: Iterator[str]) -> None:
    until(lambda: "192.0.2.3" in dig(net, place, next(names), "+short"))


def dns_stats(connect: Child) -> dict[str, int]:
    seen = len(connect.stderr)
    connect.signal(signal.SIGUSR1)
    until(lambda: any(line.startswith("{") for line in connect.stderr[seen:]))
    told = json.loads(next(line for line in connect.stderr[seen:] if line.startswith("{")))
    counters: dict[str, int] = told["dns"]
    return counters


def queries_that_wait(connect: Child) -> int:
    return dns_stats(connect)["waiting"]


PRIVATE_NAMES = [
    ["-x", "192.168.1.1"], ["-x", "fe80::1"], ["-x", "100.64.0.1"], ["foo.local"],
    ["nas.home.arpa", "AAAA"], ["printer"], ["x.onion", "+tcp"],
]  # fmt: skip


@pytest.mark.parametrize("embedded", [False, True])
def test_names_of_this_network_are_not_asked_outside(
    net: Lab, worker: Child, resolvers: Daemons, embedded: bool
) -> None:
    place = net.add_host()
    with net.connect(place, *options(resolvers), embedded=embedded) as connect:

        def queries() -> int:
            stats = dns_stats(connect)
            return sum(value for name, value in stats.items() if name.startswith("asked "))

        before = queries()
        for arguments in PRIVATE_NAMES:
            text = dig(net, place, *arguments)
            assert "SERVFAIL" not in text and "ANSWER: 0" in text and "SOA" in text, text
            assert "EDE: 29" in text, text
        assert queries() == before
        assert "192.0.2.1" in dig(net, place, "www.zks.test", "+short")  # the control
        assert queries() > before
    connect.no_traceback()


ASK_MANY = """
import socket, struct, sys
count, domain = int(sys.argv[1]), sys.argv[2]
zone = b"".join(bytes((len(part),)) + part.encode() for part in domain.split("."))
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
sock.settimeout(60)
sock.connect(("25.77.7.7", 53))
waiting, codes = set(range(count)), {}
def ask(number):
    name = b"%cn%05d" % (6, number)
    sock.send(struct.pack("!6H", number, 0x100, 1, 0, 0, 0) + name + zone + b"\\0\\0\\1\\0\\1")
for first in range(0, count, 100):
    for number in range(first, min(first + 100, count)):
        ask(number)
    try:
        sock.settimeout(0.05)
        while True:
            answer = sock.recv(512)
            waiting.discard(answer[0] << 8 | answer[1])
            codes[answer[3] & 15] = codes.get(answer[3] & 15, 0) + 1
    except TimeoutError:
        pass
print("all asked", flush=True)
sock.settimeout(60)
while waiting:
    answer = sock.recv(512)
    waiting.discard(answer[0] << 8 | answer[1])
    codes[answer[3] & 15] = codes.get(answer[3] & 15, 0) + 1
print(codes)
"""


def test_a_forwarded_domain_whose_server_is_silent(
    net: Lab, worker: Child, resolvers: Daemons
) -> None:
    """Its names have SERVFAIL, others their answers, and few descriptors are used."""
    place = net.add_host()
    forward = ["--grace", "1", "--dns-forward", f"dead.test={lab.SILENT4}"]
    with net.connect(place, *options(resolvers), *forward) as connect:
        process = connect.process.pid
        descriptors = Path(f"/proc/{process}/fd")
        least = len(list(descriptors.iterdir())) + 200
        resource.prlimit(process, resource.RLIMIT_NOFILE, (least, least))
        many = net.application(place, *PYTHON, "-c", ASK_MANY, "900", "dead.test")
        many.wait_for("all asked")
        assert "192.0.2.1" in dig(net, place, "www.zks.test", "+short")
        text = dig(net, place, "one.dead.test")
        assert "SERVFAIL" in text and "EDE: 22" in text, text
        assert len(list(descriptors.iterdir())) <= least - 60
        many.succeed(120)
        assert many.stdout[-1] == "{2: 900}"
        assert "192.0.2.1" in dig(net, place, "alias.zks.test", "+short")
    connect.no_traceback()
    assert "open files" not in connect.output


def test_in_run_they_are_not_asked_of_the_workers_name_server(net: Lab, worker: Child) -> None:
    place = net.add_host()
    script = "; ".join(
        f"dig +tries=1 +time=30 {' '.join(arguments)}"
        for arguments in ([*PRIVATE_NAMES, ["run-control.zks.test"]])
    )
    seen = len(net.names.stdout)
    child = net.run(place, "sh", "-c", script, options=["--dns-via", "worker"], user=1000)
    child.succeed(120)
    net.names.wait_for(r"^asked run-control\.zks\.test")
    asked = re.findall(r"asked (\S+)", "\n".join(net.names.stdout[seen:]))
    assert not [name for name in asked if not name.endswith("zks.test.")]


def test_the_workers_name_server_is_asked_for_what_is_forwarded_to_it(
    net: Lab, worker: Child, resolvers: Daemons
) -> None:
    """A private name of its network; others are answered here, or by the resolver."""
    place = net.add_host()
    forward = ["--dns-forward", "cluster.local=worker"]
    seen = len(net.names.stdout)
    with net.connect(place, *options(resolvers), *forward) as connect:
        assert "status: " in dig(net, place, "a.svc.cluster.local")
        net.names.wait_for(r"^asked a\.svc\.cluster\.local")
        assert "EDE: 29" in dig(net, place, "printer.local")
        assert "192.0.2.1" in dig(net, place, "www.zks.test", "+short")
    connect.no_traceback()
    asked = re.findall(r"asked (\S+)", "\n".join(net.names.stdout[seen:]))
    assert {name for name in asked if not name.endswith("zks.test.")} == {"a.svc.cluster.local."}


def test_the_worker_goes_away_and_comes_back(net: Lab, resolvers: Daemons) -> None:
    place = net.add_host()
    listen = f"{lab.WORKER4}:8799"
    with contextlib.ExitStack() as stack:
        worker = net.worker(listen=listen)
        patient = ["--grace", "60", *options(resolvers)]
        connect = stack.enter_context(net.connect(place, *patient, url=f"ws://{listen}"))
        watch = stack.enter_context(Watch(place))
        assert "192.0.2.1" in dig(net, place, "www.zks.test", "+short")
        worker.process.kill()
        worker.wait()
        connect.wait_for("Trying again")
        # What is in the cache is answered; the rest waits for the tunnel.
        assert "192.0.2.1" in dig(net, place, "www.zks.test", "+short")
        waiting = net.application(place, "dig", "+tries=1", "+time=90", "+short", "h7.zks.test")
        until(lambda: queries_that_wait(connect) == 1)
        with net.worker(listen=listen):
            assert "192.0.2.8" in waiting.succeed(120)
        assert not watch.seen
    connect.no_traceback()


def test_block_static_forward_and_dns_over_tls(net: Lab, worker: Child, resolvers: Daemons) -> None:
    place = net.add_host()
    block = net.file("block", "bad.zks.test\n0.0.0.0 zero.zks.test\n")
    more = [
        "--dns-block", str(block), "--dns-static", "fixed.zks.test=192.0.2.99", "--dot", "block",
        "--dns-forward", f"signed.test={lab.FAR4}:{resolvers.plain}",
    ]  # fmt: skip
    with net.connect(place, *options(resolvers), *more) as connect, Watch(place) as watch:
        assert "NXDOMAIN" in dig(net, place, "x.bad.zks.test")
        assert dig(net, place, "zero.zks.test", "+short").strip() == "0.0.0.0"
        assert dig(net, place, "fixed.zks.test", "+short").strip() == "192.0.2.99"
        assert "192.0.2.4" in dig(net, place, "www.signed.test", "+short")
        assert "NXDOMAIN" in dig(net, place, "use-application-dns.net")
        text = net.application(place, "kdig", "+tls", f"@{lab.FAR4}", "www.zks.test")
        assert text.wait() != 0 or "WARNING" in text.output or "ERROR" in text.output
        with place.entered(), socket.socket() as refused, pytest.raises(ConnectionRefusedError):
            refused.settimeout(90)
            refused.connect((lab.FAR4, 853))
        with place.entered(), socket.socket(type=socket.SOCK_DGRAM) as refused:
            refused.settimeout(90)
            refused.connect((lab.FAR4, 853))
            refused.send(b"x")
            with pytest.raises(ConnectionRefusedError):
                refused.recv(10)
        block.write_text("www.zks.test\n")
        assert Child("reload", place.command([*lab.ZKS, "reload"])).wait() == 0
        until(lambda: "NXDOMAIN" in dig(net, place, "www.zks.test"))
        assert not watch.seen
    connect.no_traceback()


def test_the_embedded_worker_is_never_asked(net: Lab, resolvers: Daemons) -> None:
    """Without --worker the resolver is asked from this machine, by marked sockets."""
    place = net.add_host()
    with net.connect(place, *options(resolvers), embedded=True) as connect, Watch(place) as watch:
        assert "192.0.2.1" in dig(net, place, "www.zks.test", "+short")
        assert "192.0.2.1" in dig(net, place, "www.zks.test", "+tcp", "+short", f"@{UNKNOWN6}")
        assert watch.frames and not watch.seen
    connect.no_traceback()
    child = net.connect(place, "--dns-via", "worker", embedded=True, ready=False)
    assert child.wait() == 2 and "plain DNS" in child.output
