"""unbound and dnsdist as DNS-over-HTTPS servers with zones of their own; nothing leaves the
machine.

unbound serves ``zks.test`` and the signed ``signed.test`` over plain DNS, DoH and DoT, each on a
high port; dnsdist is a DoH server in front of it.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dns.dnssec
import dns.message
import dns.query
import dns.zone
import trustme
from cryptography.hazmat.primitives.asymmetric import ec

from tests.kits.programs import find

NAME = "dns.zks.test"
PATH = "/dns-query"

_BIG = "\n".join(f'big 300 IN TXT "{number:04d}{"x" * 240}"' for number in range(20))
_HUGE = "\n".join(f'huge 300 IN TXT "{number:04d}{"y" * 240}"' for number in range(240))
_HOSTS = "\n".join(
    f"h{number} 300 IN A 192.0.2.{number % 254 + 1}" for number in range(2000)
)  # fmt: skip

ZONE = f"""$ORIGIN zks.test.
@ 300 IN SOA ns.zks.test. root.zks.test. 1 3600 600 86400 60
@ 300 IN NS ns.zks.test.
ns 300 IN A 192.0.2.53
www 300 IN A 192.0.2.1
www 300 IN AAAA 2001:db8::1
www 300 IN HTTPS 1 . alpn=h2,h3 ipv4hint=192.0.2.1
_svc 300 IN SVCB 1 www.zks.test. port=8443
alias 300 IN CNAME www.zks.test.
short 2 IN A 192.0.2.2
mail 300 IN MX 10 www.zks.test.
odd 300 IN TYPE65280 \\# 4 01020304
text 300 IN TXT "some" "text"
*.wild 300 IN A 192.0.2.3
{_BIG}
{_HUGE}
{_HOSTS}
"""


@dataclass(frozen=True)
class Daemons:
    """What runs, and on which ports of `address`."""

    address: str
    plain: int
    unbound_doh: int
    unbound_dot: int
    dnsdist_doh: int
    dnsdist_plain: int
    ca_file: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def url(self, port: int) -> str:
        """The argument of ``--dns`` for one of the DoH ports."""
        return f"https://{NAME}:{port}{PATH}@{self.address}"


def missing() -> str:
    """Which programs are not to be had, for a reason to skip."""
    names = [name for name in ("unbound", "dnsdist") if find(name) is None]
    return f"not to be had: {', '.join(names)}" if names else ""


@contextmanager
def daemons(folder: Path, *, address: str = "127.0.0.1") -> Iterator[Daemons]:
    """Run both, on `address`, until the block ends; in the network namespace of the caller."""
    ports = _free_ports(address, 5)
    authority = trustme.CA()
    cert = authority.issue_cert(NAME)
    running = Daemons(address, *ports, folder / "ca.pem")
    authority.cert_pem.write_to_path(str(running.ca_file))
    cert.private_key_pem.write_to_path(str(folder / "key.pem"))
    for index, pem in enumerate(cert.cert_chain_pems):
        pem.write_to_path(str(folder / "cert.pem"), append=index > 0)
    (folder / "zks.zone").write_text(ZONE)
    (folder / "signed.zone").write_text(signed_zone())
    (folder / "unbound.conf").write_text(_unbound_conf(folder, running))
    (folder / "dnsdist.conf").write_text(_dnsdist_conf(folder, running))
    with ExitStack() as stack:
        arguments = ["-d", "-c", str(folder / "unbound.conf")]
        running.processes["unbound"] = stack.enter_context(_program("unbound", arguments, folder))
        arguments = ["--supervised", "--disable-syslog", "-C", str(folder / "dnsdist.conf")]
        running.processes["dnsdist"] = stack.enter_context(_program("dnsdist", arguments, folder))
        for port in ports:
            _wait(running.address, port, folder)
        yield running


@contextmanager
def _program(name: str, arguments: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    found = find(name)
    if found is None:
        raise RuntimeError(f"{name} is not to be had")
    path, environment = found
    with open(folder / f"{name}.log", "wb") as log:
        process = subprocess.Popen(
            [path, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(address: str, port: int, folder: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex((address, port)) == 0:
                return
        time.sleep(0.05)
    logs = "".join((folder / f"{name}.log").read_text() for name in ("unbound", "dnsdist"))
    raise RuntimeError(f"nothing listens on {address} port {port}:\n{logs[-2000:]}")


def _free_ports(address: str, count: int) -> list[int]:
    """Ports that are free for UDP and TCP."""
    with ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < count:
            stream = stack.enter_context(socket.socket())
            stream.bind((address, 0))
            port = stream.getsockname()[1]
            datagrams = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            with suppress(OSError):
                datagrams.bind((address, port))
                ports.append(port)
        return ports


def signed_zone() -> str:
    """``signed.test`` with a key made on the spot."""
    text = (
        "$ORIGIN signed.test.\n"
        "@ 300 IN SOA ns.signed.test. root.signed.test. 1 3600 600 86400 60\n"
        "@ 300 IN NS ns.signed.test.\n"
        "ns 300 IN A 192.0.2.53\n"
        "www 300 IN A 192.0.2.4\n"
    )
    zone = dns.zone.from_text(text, relativize=False)
    private = ec.generate_private_key(ec.SECP256R1())
    key = dns.dnssec.make_dnskey(private.public_key(), dns.dnssec.Algorithm.ECDSAP256SHA256, 257)
    with zone.writer() as changes:
        dns.dnssec.sign_zone(
            zone,
            changes,
            [(private, key)],
            add_dnskey=True,
            inception=datetime.now(UTC) - timedelta(hours=1),
            expiration=datetime.now(UTC) + timedelta(days=7),
        )
    return "$ORIGIN signed.test.\n" + zone.to_text(relativize=False)


def _unbound_conf(folder: Path, running: Daemons) -> str:
    return f"""
server:
    verbosity: 1
    use-syslog: no
    logfile: ""
    chroot: ""
    username: ""
    directory: "{folder}"
    pidfile: ""
    do-daemonize: no
    num-threads: 1
    incoming-num-tcp: 200
    interface: {running.address}@{running.plain}
    interface: {running.address}@{running.unbound_doh}
    interface: {running.address}@{running.unbound_dot}
    https-port: {running.unbound_doh}
    tls-port: {running.unbound_dot}
    http-endpoint: "{PATH}"
    tls-service-key: "{folder}/key.pem"
    tls-service-pem: "{folder}/cert.pem"
    access-control: 0.0.0.0/0 allow
    do-not-query-localhost: no
    module-config: "iterator"
    local-zone: "test." nodefault
auth-zone:
    name: "zks.test."
    zonefile: "{folder}/zks.zone"
    for-downstream: yes
    for-upstream: no
auth-zone:
    name: "signed.test."
    zonefile: "{folder}/signed.zone"
    for-downstream: yes
    for-upstream: no
forward-zone:
    name: "."
    forward-addr: 127.0.0.1@1
remote-control:
    control-enable: no
"""


def _dnsdist_conf(folder: Path, running: Daemons) -> str:
    return f"""
setSecurityPollSuffix("")
setLocal("{running.address}:{running.dnsdist_plain}")
setACL({{"0.0.0.0/0", "::/0"}})
addDOHLocal("{running.address}:{running.dnsdist_doh}", "{folder}/cert.pem", "{folder}/key.pem",
            "{PATH}")
newServer({{address="{running.address}:{running.plain}"}}):setUp()
"""


def ask_plain(running: Daemons, query: dns.message.Message) -> dns.message.Message:
    """Ask unbound itself over TCP: what the right answer is."""
    return dns.query.tcp(query, running.address, timeout=30, port=running.plain)
