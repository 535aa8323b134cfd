"""What a resolver, an application or a tunnel may do to DNS: answers or SERVFAIL, nothing plain.

While each of these happens, no packet to or from port 53 may be seen on any interface but the
TUN; that such a capture would see one is shown in ``test_dns``.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import dns.message
import dns.rcode
import pytest

from tests.kits import dns_daemons
from tests.kits.dns_daemons import Daemons
from tests.kits.netns import lab
from tests.kits.netns.child import Child, until
from tests.kits.netns.commands import current_state
from tests.kits.netns.lab import PYTHON, Lab, Namespace
from tests.kits.netns.watch import Watch

VIAS = ["tunnel", "direct"]
UNKNOWN = "25.77.7.7"  # a name server that does not exist


@dataclass
class BadResolver:
    """A resolver that does what one must not do; the query's name says what."""

    folder: Path
    ports: dict[str, int]
    child: Child

    def options(self, *names: str) -> list[str]:
        """``--dns`` and more, for the listeners "port", "other", "expired"."""
        urls = [
            f"https://dns.test:{self.ports[name]}/dns-query@{lab.FAR4}"
            for name in names or ["port"]
        ]
        return [*(x for url in urls for x in ("--dns", url)), "--ca-file", f"{self.folder}/ca.pem"]


@contextlib.contextmanager
def bad_resolver(net: Lab, folder: Path, port: int = 0) -> Iterator[BadResolver]:
    argv = [*PYTHON, "-m", "tests.kits.dns_servers", lab.FAR4, str(folder), str(port)]
    with Child("bad resolver", net.far.command(argv)) as child:
        child.wait_for(r"^ready")
        pairs = (line.split() for line in child.stdout if " " in line)
        yield BadResolver(folder, {name: int(number) for name, number in pairs}, child)


@pytest.fixture(scope="module")
def bad(net: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BadResolver]:
    with bad_resolver(net, tmp_path_factory.mktemp("bad")) as running:
        yield running


@contextlib.contextmanager
def quietly(net: Lab, place: Namespace, *options: str, url: str | None = None) -> Iterator[Child]:
    """``connect`` in `place`, where nothing of port 53 may be seen, nor beyond the worker."""
    with net.connect(place, *options, url=url) as connect:
        with Watch(place) as watch, Watch(net.mid) as mid:
            yield connect
        assert watch.frames and not watch.seen
        assert mid.frames and not mid.seen
    connect.no_traceback()


def dig(net: Lab, host: Namespace, *arguments: str) -> str:
    child = net.application(host, "dig", "+tries=1", "+time=30", *arguments)
    child.wait()
    return "\n".join(child.stdout)


QUICK = """ok http400 http429 http502 redirect wrongtype oversized large goaway rst tcpreset eof
garbage other wrongid loop closing""".split()
SLOW = ["silent", "slowloris"], ["blackhole"]


@pytest.mark.parametrize("via", VIAS)
def test_every_fault_of_a_resolver(net: Lab, worker: Child, bad: BadResolver, via: str) -> None:
    place = net.add_host()
    with quietly(net, place, "--dns-via", via, *bad.options()):
        for faults in (*([fault] for fault in QUICK), *SLOW):
            digs = {
                fault: net.application(place, "dig", "+tries=1", "+time=30", f"{fault}.example")
                for fault in faults
            }
            for fault, child in digs.items():
                child.wait()
                text = "\n".join(child.stdout)
                fine = fault in ("ok", "large", "closing")
                assert f"status: {'NOERROR' if fine else 'SERVFAIL'}" in text, (fault, text)
                assert fine or "EDE" in text, (fault, text)
        assert "192.0.2.1" in dig(net, place, "ok2.example", "+short")


@pytest.mark.parametrize("via", VIAS)
def test_a_certificate_that_is_not_the_resolvers(
    net: Lab, worker: Child, bad: BadResolver, via: str
) -> None:
    for port, words in (("other", "Hostname mismatch"), ("expired", "certificate has expired")):
        place = net.add_host()
        with quietly(net, place, "--dns-via", via, *bad.options(port)):
            text = dig(net, place, "ok.example")
            assert "SERVFAIL" in text and words in text, text
    place = net.add_host()
    with quietly(net, place, "--dns-via", via, *bad.options("other", "expired", "port")):
        assert "192.0.2.1" in dig(net, place, "ok.example", "+short")


@pytest.mark.parametrize("via", VIAS)
def test_a_resolver_that_is_down_at_the_start(
    net: Lab, worker: Child, tmp_path: Path, via: str
) -> None:
    with bad_resolver(net, tmp_path) as before:
        options = before.options()
    place = net.add_host()
    with quietly(net, place, "--dns-via", via, *options):
        text = dig(net, place, "ok.example")
        assert "SERVFAIL" in text and "EDE" in text, text
        with bad_resolver(net, tmp_path, before.ports["port"]):
            assert "192.0.2.1" in dig(net, place, "ok.example", "+short")


def test_queries_that_are_none(net: Lab, worker: Child, bad: BadResolver) -> None:
    """Over UDP and TCP: FORMERR or the like with the id, or nothing; the next one is answered."""
    good = dns.message.make_query("ok.example", "A", id=0x1234).to_wire()
    loop = good[:12] + b"\xc0\x0c\0\1\0\1"
    unread = [
        (good[:4] + b"\0\0" + good[6:], dns.rcode.FORMERR),  # QDCOUNT 0
        (good[:4] + b"\0\2" + good[6:] + good[12:], dns.rcode.FORMERR),
        (loop, dns.rcode.FORMERR),
        (good[:2] + b"\x11\0" + good[4:], dns.rcode.NOTIMP),  # a server status request
        (good[:-3], dns.rcode.FORMERR),
        (good + b"rubbish", dns.rcode.FORMERR),
        (good[:2] + b"\x81\x80" + good[4:], None),  # a response
        (good[:11], None),
    ]
    place = net.add_host()
    with quietly(net, place, "--dns-via", "tunnel", *bad.options()), place.entered():
        for message, rcode in unread:
            datagrams = socket.socket(type=socket.SOCK_DGRAM)
            stream = socket.create_connection((UNKNOWN, 53), 90)
            with datagrams, stream:
                datagrams.settimeout(90)
                datagrams.connect((UNKNOWN, 53))
                datagrams.send(message)
                datagrams.send(good[:1] + b"\x35" + good[2:])
                stream.sendall(_framed(message) + _framed(good[:1] + b"\x35" + good[2:]))
                for answers in (_datagrams(datagrams), _stream(stream)):
                    seen = {}
                    while b"\x12\x35" not in seen or (rcode is not None and len(seen) < 2):
                        answer = next(answers)
                        seen[answer[:2]] = answer
                    if rcode is None:
                        assert len(seen) == 1
                    else:
                        assert seen[b"\x12\x34"][3] & 15 == rcode
                    assert seen[b"\x12\x35"][3] & 15 == dns.rcode.NOERROR


def _framed(message: bytes) -> bytes:
    return struct.pack("!H", len(message)) + message


def _datagrams(connection: socket.socket) -> Iterator[bytes]:
    while True:
        yield connection.recv(65535)


def _stream(connection: socket.socket) -> Iterator[bytes]:
    with connection.makefile("rb") as file:
        while True:
            yield file.read(struct.unpack("!H", file.read(2))[0])


def test_an_answer_of_65_kilobytes(net: Lab, worker: Child, bad: BadResolver) -> None:
    place = net.add_host()
    with quietly(net, place, "--dns-via", "tunnel", *bad.options()):
        text = dig(net, place, "large.example", "TXT")
        assert "retrying in TCP mode" in text and text.count("x" * 250) == 260
        text = dig(net, place, "+ignore", "+bufsize=65535", "large.example", "TXT")
        assert " tc " in text and "ANSWER: 0" in text


@pytest.fixture(scope="module")
def resolvers(net: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemons]:
    """unbound and dnsdist in ``far``."""
    if reason := dns_daemons.missing():
        pytest.skip(reason)
    with contextlib.ExitStack() as stack:
        with net.far.entered():
            folder = tmp_path_factory.mktemp("dns")
            running = stack.enter_context(dns_daemons.daemons(folder, address=lab.FAR4))
        yield running


def trusted(resolvers: Daemons, *urls: str) -> list[str]:
    return [*(x for url in urls for x in ("--dns", url)), "--ca-file", str(resolvers.ca_file)]


def dropped(place: Namespace) -> int:
    """How many packets of applications did not fit into the TUN's queue."""
    argv = ["ip", "-n", place.name, "-s", "-j", "link", "show", "dev", "zks0"]
    text = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout
    return int(json.loads(text)[0]["stats64"]["tx"]["dropped"])


@pytest.mark.parametrize("via", VIAS)
def test_two_thousand_queries_at_once(
    net: Lab, worker: Child, resolvers: Daemons, via: str
) -> None:
    """From 20 sockets, in one go; every one is answered, none is asked in the clear.

    But for those that did not reach us: a busy machine's kernel drops what the TUN's queue, of
    some hundred, does not take; as always with UDP, they are sent again.
    """
    place = net.add_host()
    options = trusted(resolvers, resolvers.url(resolvers.dnsdist_doh))
    with quietly(net, place, "--dns-via", via, *options), contextlib.ExitStack() as stack:
        with place.entered():
            made = (socket.socket(type=socket.SOCK_DGRAM) for _ in range(20))
            sockets = [stack.enter_context(one) for one in made]
        for one in sockets:
            one.connect((UNKNOWN, 53))
            one.setblocking(False)
        unanswered = {(index, number) for index in range(20) for number in range(100)}

        def ask() -> None:
            for index, number in sorted(unanswered):
                name = f"n{index}-{number}.wild.zks.test"
                sockets[index].send(dns.message.make_query(name, "A", id=number).to_wire())

        def answered_but(lost: Callable[[], int]) -> bool:
            for one in select.select(sockets, [], [], 0.1)[0]:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        seen = dns.message.from_wire(one.recv(4096))
                        assert str(seen.answer[0][0]) == "192.0.2.3"
                        unanswered.discard((sockets.index(one), seen.id))
            return len(unanswered) <= lost()

        for _ in range(10):
            before = dropped(place)
            ask()
            until(partial(answered_but, lambda so_far=before: dropped(place) - so_far), 60)
            if not unanswered:
                break
        assert not unanswered


def test_get_and_dns_over_tls(net: Lab, worker: Child, resolvers: Daemons) -> None:
    """``--dns`` with ``{?dns}`` and with ``tls://``, through the tunnel and from here."""
    get = resolvers.url(resolvers.dnsdist_doh).replace("@", "{?dns}@")
    tls = f"tls://{dns_daemons.NAME}:{resolvers.unbound_dot}@{lab.FAR4}"
    for via in VIAS:
        for url in (get, tls):
            place = net.add_host()
            with quietly(net, place, "--dns-via", via, *trusted(resolvers, url)):
                assert "192.0.2.1" in dig(net, place, "www.zks.test", "+short")
                assert "RRSIG" in dig(net, place, "+dnssec", "www.signed.test")


def test_what_the_applications_ask_of_port_853_passes(
    net: Lab, worker: Child, resolvers: Daemons
) -> None:
    """``--dot allow`` is the default: their own DNS over TLS or QUIC goes through the tunnel."""
    place = net.add_host()
    with contextlib.ExitStack() as stack:
        with net.far.entered():
            far_stream = stack.enter_context(socket.create_server((lab.FAR4, 853)))
            far = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            far.bind((lab.FAR4, 853))
        far.settimeout(90)
        far_stream.settimeout(90)
        url = resolvers.url(resolvers.unbound_doh)
        stack.enter_context(quietly(net, place, *trusted(resolvers, url)))
        with place.entered():
            stack.enter_context(socket.create_connection((lab.FAR4, 853), 90))
            near = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
        accepted, source = far_stream.accept()
        accepted.close()
        assert source[0] == lab.MID4
        near.sendto(b"quic", (lab.FAR4, 853))
        data, source = far.recvfrom(100)
        assert (data, source[0]) == (b"quic", lab.MID4)


def test_the_cache_is_flushed_and_grace_runs_out(net: Lab, resolvers: Daemons) -> None:
    """The worker has gone: what is in the cache is answered, until `reload`; the rest never."""
    place = net.add_host()
    listen = f"{lab.WORKER4}:8797"
    options = ["-v", "--grace", "2", *trusted(resolvers, resolvers.url(resolvers.unbound_doh))]
    with contextlib.ExitStack() as stack:
        worker = net.worker(listen=listen)
        connect = stack.enter_context(quietly(net, place, *options, url=f"ws://{listen}"))
        for _ in range(2):  # the second one is repeated by the pump from then on
            assert "192.0.2.1" in dig(net, place, "+nocookie", "www.zks.test", "+short")
        for name in ("h7", "h8", "h9"):  # (a busy machine is not always in the way)
            seen, began = len(connect.stderr), time.monotonic()
            worker.process.kill()
            worker.wait()
            connect.wait_for("Trying again", after=seen)
            text = dig(net, place, f"{name}.zks.test")
            took = time.monotonic() - began
            assert "SERVFAIL" in text and "the tunnel is down" in text, text
            if took < 10:
                break
            worker = net.worker(listen=listen)
            until(lambda: current_state(place) == "connected")
        assert 2 <= took < 10, "the grace, not what it is by default"
        for option in ("+nocookie", "+cookie"):
            assert "192.0.2.1" in dig(net, place, option, "www.zks.test", "+short")
        assert Child("reload", place.command([*lab.ZKS, "reload"])).wait() == 0
        for option in ("+nocookie", "+cookie"):
            assert "SERVFAIL" in dig(net, place, option, "www.zks.test")
