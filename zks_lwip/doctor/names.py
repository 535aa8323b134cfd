"""A worker's name: what is found by ``connect``'s way, and what by the system's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import trio

from ..config import DnsOptions, VpnConfig
from ..dns.bootstrap import Bootstrap
from ..tunnel.tcp_path import ask_system
from .finding import Finding, failed, noted, warned, well

__all__ = ["Found", "compare", "look_up"]

_SECONDS = 15.0
"""For how long either is asked."""


@dataclass(frozen=True, slots=True)
class Found:
    """What one way has found."""

    addresses: Sequence[str]
    problem: str = ""
    """Why there are none."""
    seconds: float = 0.0

    def __str__(self) -> str:
        return ", ".join(self.addresses) or f"nothing ({self.problem})"


async def look_up(
    config: VpnConfig, name: str, *, as_connect: bool
) -> tuple[Finding, Sequence[str]]:
    """Look a worker's name up; return what to say of it, and where the worker is then.

    :param as_connect: once ``connect`` has captured this namespace it asks nothing but hosts file
        and resolvers; without that, it asks the system, as ``run`` and ``proxy`` do.
    """
    found: dict[str, Found] = {}

    async def ask(way: str) -> None:
        began = trio.current_time()
        addresses: Sequence[str] = ()
        problem = f"no answer within {_SECONDS:g} s"
        with trio.move_on_after(_SECONDS):
            try:
                addresses = await (ask_system(name) if way == "system" else _ask(config, name))
            except OSError as error:
                problem = error.strerror or str(error)
        found[way] = Found(addresses, problem, trio.current_time() - began)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "system")
        if as_connect:
            nursery.start_soon(ask, "connect")
    finding = compare(name, found.get("connect"), found["system"])
    ours = found.get("connect") or found["system"]
    return finding, ours.addresses or found["system"].addresses


def compare(name: str, ours: Found | None, system: Found) -> Finding:
    """Say what was found of a name.

    :param ours: by what ``connect`` asks once it has captured the host; None: it asks the system.
    """
    if ours is None:
        if system.addresses:
            return well("name", f"{name} is {system}, found in {system.seconds * 1e3:.0f} ms")
        return failed(
            "name",
            f"{name} does not resolve ({system.problem})",
            "check its spelling and this machine's DNS",
        )
    if not ours.addresses:
        theirs = (
            f"this system's resolver, which `run` and `proxy` ask, says {system}"
            if system.addresses
            else f"nor does this system's ({system.problem})"
        )
        return failed(
            "name",
            f"the resolvers that `connect` asks do not find {name} ({ours.problem}); {theirs}",
            "check its spelling, give its address by `worker_address`, or name resolvers that are "
            "reached from here by `dns.servers`",
        )
    text = f"{name} is {ours}, found in {ours.seconds * 1e3:.0f} ms as `connect` does it"
    if not system.addresses:
        return warned(
            "name",
            f"{text}; this system's resolver, which `run` and `proxy` ask, finds {system}",
            "look at /etc/resolv.conf, or give its address by `worker_address`",
        )
    if set(ours.addresses).isdisjoint(system.addresses):
        return noted(
            "name",
            f"{text}; this system's resolver, which `run` and `proxy` ask, says {system}",
            "where `connect` should go there, give that by `worker_address`, or by `dns.forward` "
            "the server that says so",
        )
    return well("name", text)


async def _ask(config: VpnConfig, name: str) -> Sequence[str]:
    """Ask as ``connect`` does, but without a mark: nothing is captured now.

    :raises OSError: there are no addresses; the text says why.
    """
    names = Bootstrap(
        config.dns or DnsOptions(), mark=None, ca_file=config.ca_file, static=config.dns_static
    )
    problem: OSError | None = None
    found: Sequence[str] = ()
    async with trio.open_nursery() as nursery:
        await nursery.start(names.run)
        try:
            found = await names.addresses(name)
        except OSError as error:  # raised here, it would come out in a group
            problem = error
        nursery.cancel_scope.cancel()
    if problem is not None:
        raise problem
    return found
