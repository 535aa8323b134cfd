"""Hosts in memory, their names and addresses, and trio's hooks that lead programs to them."""

from __future__ import annotations

import ipaddress
import random
import socket
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any

import trio

from .._util import single_error
from ..net.names import InvalidName, host_name
from ..stack import Datagram, Flow, Reject, Stack, open_stack
from ._links import Link, Links, MachineDevice
from ._sockets import LOOPBACKS, Machine, MemorySocket

__all__ = ["Network", "network"]

_HERE = ("198.19.255.1", "fdb5:7a6b:7300:ffff::1")
"""The addresses of the host of programs that run on none."""
_HOST: ContextVar[Machine | None] = ContextVar("zks_lwip.testing.host", default=None)


class Network:
    """A network in memory; made by :func:`network`."""

    def __init__(self, machines: Mapping[str, Machine], link: Link, links: Links) -> None:
        self._machines = dict(machines)
        self._default = link
        self._links = links
        self._between: dict[frozenset[MachineDevice], Link] = {}

    @contextmanager
    def host(self, name: str) -> Iterator[None]:
        """Run what is inside on a host: sockets that are made there, and tasks that are started.

        Outside of any, a socket that is bound to a host's address is that host's, and others are of
        a host without a name.

        :raises KeyError: there is no host of that name.
        """
        token = _HOST.set(self._machine(name))
        try:
            yield
        finally:
            _HOST.reset(token)

    def link(self, one: str, other: str) -> Link:
        """Return the link between two hosts, to be looked at or changed.

        :raises KeyError: there is no host of that name.
        :raises ValueError: they are the same.
        """
        a, b = self._machine(one).device, self._machine(other).device
        if a is b:
            raise ValueError(f"{one} and {other} are one host, which has no link to itself")
        return self.link_between(a, b)

    def link_between(self, a: MachineDevice, b: MachineDevice) -> Link:
        """Return the link between two devices."""
        pair = frozenset((a, b))
        link = self._between.get(pair)
        if link is None:
            default = self._default
            link = self._between[pair] = Link(default.delay, default.loss, default.up)
        return link

    def stack(self, name: str) -> Stack:
        """Return the stack of a host, for what lies below sockets.

        :raises KeyError: there is no host of that name.
        """
        return self._machine(name).stack

    def addresses(self, name: str) -> list[str]:
        """Return the addresses of a host.

        :raises KeyError: there is no host of that name.
        """
        return list(self._machine(name).addresses)

    def _machine(self, name: str) -> Machine:
        try:
            return self._machines[host_name(name)]
        except (KeyError, InvalidName):
            known = ", ".join(self._machines) or "none"
            raise KeyError(
                f"there is no host {name!r} in this network; there are: {known}"
            ) from None


class _Resolver(trio.abc.HostnameResolver):
    """The names of a network, and localhost."""

    def __init__(self, names: Mapping[str, Iterable[str]]) -> None:
        self._names = {"localhost": ("127.0.0.1", "::1"), **names}
        self._of = {address: name for name, all_ in self._names.items() for address in all_}

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        await trio.lowlevel.checkpoint()
        text = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)
        found: list[Any] = []
        for address in self._names.get(text.lower().rstrip("."), ()):
            if family in (0, socket.AF_INET6 if ":" in address else socket.AF_INET):
                numeric = flags | socket.AI_NUMERICHOST
                found += socket.getaddrinfo(address, port, family, type, proto, numeric)
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, f"{text}: no such name in this network")
        return found

    async def getnameinfo(
        self, sockaddr: tuple[str, int] | tuple[str, int, int, int], flags: int
    ) -> tuple[str, str]:
        await trio.lowlevel.checkpoint()
        host, service = socket.getnameinfo(sockaddr, flags | socket.NI_NUMERICHOST)
        if not flags & socket.NI_NUMERICHOST:
            host = self._of.get(host, host)
        return host, service


class _Sockets(trio.abc.SocketFactory):
    """Makes sockets of IPv4 and IPv6 in memory; others, such as those of UNIX, are real."""

    def __init__(self, here: Machine, find: Mapping[str, Machine]) -> None:
        self._here = here
        self._find = find

    def socket(
        self,
        family: socket.AddressFamily | int = socket.AF_INET,
        type: socket.SocketKind | int = socket.SOCK_STREAM,
        proto: int = 0,
    ) -> trio.socket.SocketType:
        if family not in (socket.AF_INET, socket.AF_INET6):
            return trio.socket.from_stdlib_socket(socket.socket(family, type, proto))
        host = _HOST.get()
        return MemorySocket(family, type, proto, host, self._here, self._find)


@asynccontextmanager
async def network(
    hosts: Mapping[str, str | Iterable[str]],
    *,
    delay: float = 0.0,
    loss: float = 0.0,
    seed: int = 0,
) -> AsyncIterator[Network]:
    """Have trio's sockets and names be those of a network in memory, for an ``async with``.

    What is open at the end is reset. Names that are not in ``hosts`` (but for localhost, which is
    the host that asks) do not resolve, and other addresses are unreachable.

    :param hosts: each host's name, and its address or addresses, IPv4 or IPv6.
    :param delay: seconds that a packet takes from one host to another; see :meth:`Network.link`.
    :param loss: which part of the packets is lost, 0 to 1.
    :param seed: of what is lost: the same seed and program lose the same packets.
    :raises ValueError: a name or an address is none, or is given twice, or delay or loss is none.
    """
    names = _read_hosts(hosts)
    default = Link(delay, loss)
    by_bytes: dict[bytes, MachineDevice] = {}

    def find(sender: MachineDevice, address: bytes) -> MachineDevice | None:
        if address in LOOPBACKS.values():
            return sender
        return by_bytes.get(address, nowhere)

    def link_of(a: MachineDevice, b: MachineDevice) -> Link:
        return Link() if nowhere in (a, b) else result.link_between(a, b)

    links = Links(find, link_of, random.Random(seed))
    nowhere = MachineDevice(links)
    machines: dict[str, Machine] = {}
    with single_error() as bodies:
        async with AsyncExitStack() as parts:
            enter = parts.enter_async_context
            by_address: dict[str, Machine] = {}
            for name, addresses in [*names.items(), ("", _HERE)]:
                device = MachineDevice(links)
                own = [next((a for a in addresses if (":" in a) is six), None) for six in (0, 1)]
                stack = await enter(open_stack(device, own_addresses=[a for a in own if a]))
                machines[name] = Machine(name, tuple(addresses), stack, device)
                for address in addresses:
                    by_address[address] = machines[name]
                    by_bytes[ipaddress.ip_address(address).packed] = device
            unreachable = await enter(open_stack(nowhere))
            _refuse_all(unreachable)
            here = machines.pop("")
            result = Network(machines, default, links)
            nursery = await enter(trio.open_nursery())
            nursery.start_soon(links.run)
            old_factory = trio.socket.set_custom_socket_factory(_Sockets(here, by_address))
            parts.callback(trio.socket.set_custom_socket_factory, old_factory)
            old_resolver = trio.socket.set_custom_hostname_resolver(_Resolver(names))
            parts.callback(trio.socket.set_custom_hostname_resolver, old_resolver)
            try:
                yield result
            except BaseException as error:
                bodies.append(error)
                raise
            finally:
                nursery.cancel_scope.cancel()


def _read_hosts(hosts: Mapping[str, str | Iterable[str]]) -> dict[str, tuple[str, ...]]:
    names: dict[str, tuple[str, ...]] = {}
    seen: set[str] = set()
    for name, given in hosts.items():
        try:
            plain = host_name(name)
        except InvalidName as error:
            raise ValueError(f"{name!r} is no host name: {error}") from None
        if plain in names or plain == "localhost":
            raise ValueError(f"the name {name} is taken already")
        read: list[str] = []
        for text in [given] if isinstance(given, str) else given:
            address = ipaddress.ip_address(text)
            if address.is_loopback or address.is_multicast or address.is_unspecified:
                raise ValueError(f"{name}: {text} can be no host's address")
            if str(address) in seen:
                raise ValueError(f"{name}: {text} is taken already")
            seen.add(str(address))
            read.append(str(address))
        names[plain] = tuple(read)
    return names


def _refuse_all(stack: Stack) -> None:
    def refuse_flow(flow: Flow) -> None:
        flow.reject(Reject.HOST_UNREACHABLE)

    def refuse_datagrams(batch: list[Datagram]) -> None:
        for datagram in batch:
            stack.refuse_datagram(datagram, Reject.HOST_UNREACHABLE)

    stack.on_flow, stack.on_datagrams = refuse_flow, refuse_datagrams
