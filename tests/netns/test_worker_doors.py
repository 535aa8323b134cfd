"""The worker's own machine is no way around its firewall: what it refuses of itself."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from tests.kits.netns import client, lab
from tests.kits.netns.child import Child
from tests.kits.netns.lab import Lab
from zks_lwip.worker.own_addresses import OwnAddresses

ADDED4, ADDED6 = "25.2.2.77", "2a0e:2:2::77"
ANYCAST6 = "2a0e:2:2::"  # RFC 4291 §2.6.1: every router of a subnet answers to it
REFUSED = {4: "EHOSTUNREACH", 6: "EACCES"}  # administratively prohibited, as Linux shows it


@contextlib.contextmanager
def doors(net: Lab) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP and a UDP server on every address of the worker's machine, on one port."""
    with contextlib.ExitStack() as stack, net.mid.entered():
        listener = stack.enter_context(
            socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        )
        datagrams = stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
        datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        datagrams.bind(("::", listener.getsockname()[1]))
        datagrams.setblocking(False)
        yield listener, datagrams


def tcp(host: str, port: int) -> str:
    return client.connect_error(host, port)


def send(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"knock", (host, port))


def pinged(net: Lab, host: str, patience: int) -> bool:
    ping = ["ping", "-n", "-c", "2", "-i", "0.3", "-W", str(patience), host]
    return net.application(net.host, *ping).wait() == 0


def test_own_addresses_are_refused_like_loopback(tunnel: Child, net: Lab) -> None:
    outsider = net.add_host()
    with doors(net) as (listener, datagrams):
        port = listener.getsockname()[1]
        try:
            net.mid.ip(f"addr add {ADDED4}/32 dev far0", f"addr add {ADDED6}/128 dev far0 nodad")
            own = [lab.MID4, lab.MID6, lab.WORKER4, lab.WORKER6, ADDED4, ADDED6]
            for host in own:
                with outsider.entered():  # control: the doors are there
                    assert tcp(host, port) == "connected"
                    send(host, port)
            listener.settimeout(60)
            datagrams.settimeout(60)
            for _ in own:
                listener.accept()[0].close()
                assert datagrams.recv(100) == b"knock"
            own += [f"64:ff9b::{lab.MID4}", "2002:1902:0201::1"]  # NAT64 and 6to4 of 25.2.2.1
            for host in own:
                with net.host.entered():
                    assert tcp(host, port) == REFUSED[6 if ":" in host else 4], host
                    send(host, port)
            assert not pinged(net, lab.MID4, 1)
            assert not pinged(net, lab.MID6, 1)
            assert pinged(net, lab.FAR4, 60)
            listener.setblocking(False)
            datagrams.setblocking(False)
            for nothing in (listener.accept, lambda: datagrams.recv(100)):
                with pytest.raises(BlockingIOError):
                    nothing()
        finally:
            net.mid.ip(f"addr del {ADDED4}/32 dev far0", f"addr del {ADDED6}/128 dev far0")


def test_the_operator_may_allow_them(net: Lab) -> None:
    host, listen = net.add_host(), f"{lab.WORKER4}:8798"
    with (
        net.worker("--allow", f"{lab.MID4}/32", listen=listen),
        net.connect(host, url=f"ws://{listen}"),
        doors(net) as (listener, datagrams),
        host.entered(),
    ):
        port = listener.getsockname()[1]
        assert tcp(lab.MID4, port) == "connected"
        send(lab.MID4, port)
        datagrams.settimeout(30)
        assert datagrams.recv(100) == b"knock"
        assert tcp(lab.MID6, port) == "EACCES"


def test_of_the_embedded_worker_the_machine_is_the_users_own(net: Lab) -> None:
    """A program in ``run`` reaches the addresses of its machine, as it does without."""
    host = net.add_host()
    with host.entered(), socket.create_server(("0.0.0.0", 0)) as listener:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect((lab.FAR4, 9))
            own, port = sock.getsockname()[0], listener.getsockname()[1]
        code = f"import socket; socket.create_connection(({own!r}, {port}), 20)"
        net.run(host, *lab.PYTHON, "-c", code, embedded=True).succeed()


def test_name_servers_are_asked_plain_questions_and_errors_say_why(net: Lab) -> None:
    """What the worker answers itself reaches the application with its reason (RFC 8914)."""
    host, listen = net.add_host(), f"{lab.WORKER4}:8800"
    argv = [*lab.ZKS, "worker", "--listen", listen, "--token-file", str(net.token_file)]
    silent = f"{lab.FAR4}:9"  # answers with ICMP port unreachable
    with Child("worker", net.mid.command([*argv, "--resolver", silent])) as worker:
        worker.wait_for(r"listening on \S+:\d+")
        with net.connect(host, "--dns-via", "worker", url=f"ws://{listen}"):
            for question, status, said in (
                (("dead.zks.test",), "SERVFAIL", "EDE: 22 .*no name server can be asked"),
                (("version.bind", "CH", "TXT"), "REFUSED", "EDE: 21"),
                (("far.zks.test", "ANY"), "NOERROR", 'HINFO\\s+"RFC8482"'),
            ):
                argv = ["dig", "+tries=1", "+time=20", f"@{lab.NAMESERVER}", *question]
                told = net.application(host, *argv).succeed()
                assert f"status: {status}" in told and re.search(said, told), told


@pytest.mark.parametrize("netlink", [True, False], ids=["netlink", "bind"])
def test_what_the_kernel_says(net: Lab, netlink: bool) -> None:
    routed = "25.77.0.0/24"
    own = [lab.MID4, lab.MID6, lab.WORKER4, lab.WORKER6, "127.0.0.1", "::1", "25.2.2.255"]
    others = [lab.FAR4, lab.FAR6, lab.NO_ROUTE4, lab.NO_ROUTE6, lab.NO_HOST4, "8.8.8.8", "2600::1"]
    own += ["25.77.0.9"]
    if netlink:
        own += [ANYCAST6]
    net.mid.ip(f"route add local {routed} dev lo")
    try:
        with net.mid.entered():
            addresses = OwnAddresses(netlink=netlink)
            try:
                for each in (addresses.owns, addresses.owned_lately):
                    said = {host: each(ip_address(host)) for host in own + others}
                    assert said == dict.fromkeys(own, True) | dict.fromkeys(others, False)
                late = ip_address(ADDED4)
                assert not addresses.owns(late)
                net.mid.ip(f"addr add {ADDED4}/32 dev far0")
                assert addresses.owns(late)
                net.mid.ip(f"addr del {ADDED4}/32 dev far0")
                assert not addresses.owns(late)
            finally:
                addresses.close()
    finally:
        net.mid.ip(f"route del local {routed} dev lo")


def test_what_the_kernel_has_said_holds_until_it_changes(net: Lab) -> None:
    routed = "25.77.0.9"
    net.mid.ip(f"route add local {routed} dev lo table 77")
    changes = [
        (ADDED4, "addr", f"{ADDED4}/32 dev far0"),
        (ADDED6, "addr", f"{ADDED6}/128 dev far0 nodad"),
        (routed, "route", f"local {routed} dev lo"),
        (routed, "rule", f"to {routed} table 77"),
        ("2a0e:77::9", "route", "local 2a0e:77::9 dev lo"),
    ]
    try:
        with net.mid.entered():
            addresses = OwnAddresses()
            try:
                for times in (1, 40):  # more news than are taken at a time, too
                    for text, what, words in changes:
                        address = ip_address(text)
                        assert not addresses.owns(address)
                        assert not addresses.owns(address), "known by now"
                        commands = [f"{what} add {words}", f"{what} del {words}"] * times
                        net.mid.ip(*commands[:-1])
                        assert addresses.owns(address) and addresses.owns(address), what
                        net.mid.ip(commands[-1])
                        assert not addresses.owns(address), what
            finally:
                addresses.close()
    finally:
        net.mid.ip(f"route del local {routed} dev lo table 77")
