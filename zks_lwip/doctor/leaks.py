"""Leaks: which way unmarked sockets would go, and whether one bound to an interface gets out.

Nothing but empty datagrams to addresses for documentation (RFC 5737, RFC 3849) is sent, and these
only where an instance says that it holds them back.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

from ..daemon.states import State, Status
from .finding import Finding, failed, noted, warned, well

__all__ = ["examine_leaks"]

_PLACES = (
    (socket.AF_INET, "IPv4", "192.0.2.1"),
    (socket.AF_INET6, "IPv6", "2001:db8::1"),
)
_DISCARD, _DNS = 9, 53
_REFUSED = {errno.EPERM, errno.EACCES}
"""What a socket is told when a firewall has refused its packet."""
_NO_WAY = {
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.EADDRNOTAVAIL,
    errno.ENODEV,
}
"""And when none was sent: there is no route, no address, or no interface any more."""
_HELD = {State.CONNECTED.value, State.CONNECTING.value, State.LOST.value, State.STOPPING.value}


def examine_leaks(status: Status) -> Iterator[Finding]:
    """Look at what leaves beside a running instance.

    :param status: of the instance that captures this namespace.
    """
    state = status["state"]
    if state == State.DISCONNECTED.value:
        yield noted("leaks", "no `connect` runs here: all traffic leaves as without a tunnel")
        return
    if state in (State.DEAD_CLOSED.value, State.DEAD_OPEN.value):
        yield _left(status["problem"])
        return
    if state not in _HELD:
        yield warned("leaks", f"{state}: traffic leaves beside the tunnel", "end the pause")
        return
    interface = status["interface"]
    places = [each for each in _PLACES if _is_there(each[0])]
    for family, name, address in places:
        if status["only"]:
            break  # most goes beside the tunnel, as was asked for
        yield _route(family, name, address, interface)
    if status["kill_switch"] == "strict":
        for family, name, address in places:
            yield _bound(family, name, address, interface)
    else:
        yield warned(
            "leaks",
            f"kill switch {status['kill_switch']}: sockets that are bound to an interface get past",
            "use `kill_switch` strict",
        )
    wishes = [*status["bypass"], *(f"only {each}" for each in status["only"])]
    if status["excluded"]:
        wishes.append(f"{len(status['excluded'])} processes of `exclude`")
    if wishes:
        yield noted("leaks", f"beside the tunnel, as was asked for: {', '.join(wishes)}")


def _left(problem: str) -> Finding:
    """What an instance that died has left, of which the second sentence says what to do."""
    text, _, remedy = problem.partition(". ")
    return failed("leaks", text, remedy[:1].lower() + remedy[1:])


def _is_there(family: int) -> bool:
    """Return whether the kernel has IPv4, or IPv6: without, nothing can leave by it."""
    try:
        socket.socket(family, socket.SOCK_DGRAM).close()
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:
            raise
        return False
    return True


def _route(family: int, name: str, address: str, interface: str) -> Finding:
    """Ask the kernel from which address a socket would send, of the web and of DNS."""
    ways = {}
    for port in (443, _DNS):
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((address, port))  # sends nothing
                ways[port] = probe.getsockname()[0]
            except OSError as error:
                if error.errno not in (errno.ENETUNREACH, errno.EACCES, errno.EHOSTUNREACH):
                    return noted("leaks", f"{name}: not known ({error.strerror})")
                ways[port] = ""
    ours = _addresses(interface)
    beside = [port for port, source in ways.items() if source and source not in ours]
    if beside:
        return failed(
            "leaks",
            f"{name} goes out beside {interface} (from {ways[beside[0]]})",
            "another program's rules come first (`ip rule`): stop it, then start `connect` again",
        )
    if not ways[443]:
        return well("leaks", f"{name} is refused at once")
    return well("leaks", f"{name} and its DNS go into {interface}")


def _addresses(interface: str) -> set[str]:
    """Return the addresses of an interface."""
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        index = ip.link_lookup(ifname=interface)
        return {
            str(each.get_attr("IFA_LOCAL") or each.get_attr("IFA_ADDRESS"))
            for each in (ip.get_addr(index=index[0]) if index else ())
        }


def _bound(family: int, name: str, address: str, interface: str) -> Finding:
    """Send an empty datagram out of each other interface, which the firewall must refuse."""
    out, refused, unknown = [], False, ""
    for _, link in socket.if_nameindex():
        if link in ("lo", interface):
            continue
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.encode() + b"\0")
            except OSError as error:  # EPERM before Linux 5.7: root's alone
                unknown = f"binding to {link}: {error.strerror}"
                continue
            try:
                probe.sendto(b"", (address, _DISCARD))
            except OSError as error:
                if error.errno in _REFUSED:
                    refused = True
                elif error.errno not in _NO_WAY:
                    unknown = f"sending by {link}: {error.strerror}"
                continue
        out.append(link)
    if out:
        return failed(
            "leaks",
            f"{name}: a socket bound to {', '.join(out)} gets out: the firewall is not in force",
            "another program has removed it (`nft list ruleset`): start `connect` again",
        )
    if unknown:
        return noted("leaks", f"{name}: not known whether bound sockets get out ({unknown})")
    if not refused:
        return noted("leaks", f"{name}: no other interface has a way out, the firewall not tried")
    return well("leaks", f"{name}: sockets bound to other interfaces are refused by the firewall")
