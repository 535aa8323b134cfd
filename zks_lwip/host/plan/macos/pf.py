"""The kill switch: rules of pf.conf(5) in an anchor of our own.

The anchor lies below ``com.apple``: the main ruleset of every Mac evaluates ``com.apple/*``, in
alphabetical order, so that ours comes first, and nothing of the main ruleset has to be changed or
put back. Every rule that ends the evaluation (``quick``) refuses, or passes what no rule of others
is about: loopback, the TUN, DHCP and neighbour discovery. What may leave directly falls through to
the machine's own rules, which refuse it or not as before.

There are no marks of sockets. The tunnel's own are known by where they go (``peers``) and by being
root's, so that other users' programs do not get beside the tunnel to the worker's address.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from ..config import HostConfig, Network

__all__ = ["ANCHOR", "ruleset"]

ANCHOR = "com.apple/000.zks_lwip"

_ALWAYS: tuple[Network, ...] = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1"))
_LINK_SCOPE = ("224.0.0.0/4", "255.255.255.255/32", "fe80::/10", "ff00::/8")


def ruleset(config: HostConfig, tun: str, lan: Iterable[Network]) -> str:
    """Return the rules that let nothing out but by the TUN and to where it may go directly.

    :param tun: name of the interface.
    :param lan: subnets that are reached directly.
    """
    peers = config.peers or ()
    direct = [*_ALWAYS, *peers, *config.bypass, *lan]
    scope = [ipaddress.ip_network(text) for text in _LINK_SCOPE] if config.lan else []
    lines = [_table("zks_peers", peers), _table("zks_direct", [*direct, *scope])]
    if config.only:
        lines.append(_table("zks_only", config.only))
    lines += [
        "pass quick on lo0 all no state",
        f"pass quick on {tun} all no state",
        "pass out quick proto udp from any port 68 to any port 67 no state",
        "pass out quick inet6 proto udp from any port 546 to any port 547 no state",
    ]
    # Router and neighbour solicitations and advertisements: without them the link is none.
    lines += [
        f"pass quick inet6 proto ipv6-icmp all icmp6-type {number} no state"
        for number in (133, 134, 135, 136)
    ]
    lines.append("block return out quick proto { tcp, udp } to <zks_peers> user != root")
    ports = "{ 53, 853 }" if config.block_dot else "53"
    lines.append(f"block return out quick proto {{ tcp, udp }} to ! <zks_peers> port {ports}")
    lines.append(f"block return out quick to {'<zks_only>' if config.only else '! <zks_direct>'}")
    return "".join(f"{line}\n" for line in lines)


def _table(name: str, networks: Iterable[Network]) -> str:
    found = " ".join(str(network) for network in dict.fromkeys(networks))
    return f"table <{name}> {{ {found} }}" if found else f"table <{name}> persist"
