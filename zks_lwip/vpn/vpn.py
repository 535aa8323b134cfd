"""A running VPN, as a program has it: what it opens through it, and what it is told of it."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import trio

from ..config import VpnConfig, WorkerUrl
from ..dns import DnsService
from ..dns.message.addresses import addresses_in
from ..dns.message.wire import HEADER, RD, Type, WireError, encode_name
from ..errors import DnsError
from ..gateway import FlowInfo, FlowPolicy, Gateway
from ..gateway.counters import GatewayCounters
from ..net.histogram import Histogram
from ..net.names import InvalidName, ends_in_number, host_name, join_host_port
from ..stack import Reject, Stack
from ..tunnel import Tunnel
from .stats import SessionInfo, VpnState, VpnStats, WorkerInfo
from .streams import OpenFlows, VpnTcpStream, VpnUdpSocket

__all__ = ["Vpn"]

_IN = 1
_REFUSALS = {Reject.NET_UNREACHABLE: errno.ENETUNREACH, Reject.RST: errno.ECONNREFUSED}


class Vpn:
    """A tunnel that is up, or was and will be again; made by :func:`~zks_lwip.open_vpn`.

    All of it belongs to the trio thread.
    """

    def __init__(
        self,
        config: VpnConfig,
        interface: str,
        stack: Stack | None,
        gateway: Gateway | None,
        dns: DnsService,
        tunnel: Tunnel,
    ) -> None:
        self.interface = interface
        """The name of the network device; empty if there is none, or it has none."""
        self._stack = stack
        self._gateway = gateway
        self._dns = dns
        self._tunnel = tunnel
        self._policy = FlowPolicy(
            ipv6=config.ipv6, worker=lambda: tunnel.peer, loopback_alias=config.loopback_alias
        )
        self._opened = OpenFlows(GatewayCounters() if gateway is None else gateway.counters)
        self._ended = trio.Event()

    # its state

    @property
    def up(self) -> bool:
        """Whether the worker can be reached at this moment."""
        return self._tunnel.up

    @property
    def state(self) -> VpnState:
        """The state at this moment."""
        if self._ended.is_set():
            return VpnState.DISCONNECTED
        downtime = self._tunnel.downtime
        if downtime.up:
            return VpnState.CONNECTED
        return VpnState.CONNECTING if self._tunnel.peer is None else VpnState.LOST

    @property
    def problem(self) -> str:
        """Why it is not connected, in one sentence; empty if it is."""
        state = self.state
        if state is VpnState.CONNECTED:
            return ""
        if state is VpnState.DISCONNECTED:
            return "the VPN has ended"
        return self._tunnel.downtime.problem or "not connected yet"

    async def wait_up(self) -> None:
        """Wait until the worker can be reached; return at once if it can.

        :raises trio.BrokenResourceError: the VPN has ended.
        """
        await trio.lowlevel.checkpoint()
        async for state in self.states():
            if state is VpnState.CONNECTED:
                return
        raise trio.BrokenResourceError("the VPN has ended")

    def states(self) -> AsyncIterator[VpnState]:
        """Iterate over the state, and then each other one, until the VPN has ended.

        States that come and go while the caller is busy with one are left out.
        """
        return _States(self)

    async def wait_change(self) -> None:
        """Wait until the state may be another one; it is not told which."""
        async with trio.open_nursery() as nursery:

            async def wait_end() -> None:
                await self._ended.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait_end)
            await self._tunnel.downtime.wait_change()
            nursery.cancel_scope.cancel()

    def end(self) -> None:
        """Note that it has ended. For :func:`~zks_lwip.open_vpn`; harmless twice."""
        self._ended.set()
        self._opened.end()

    # what is opened through it

    async def open_tcp_stream(self, host: str, port: int) -> VpnTcpStream:
        """Connect through the worker, and wait until it has connected.

        :param host: an address, or a name. Of names, those of ``dns_static``, the hosts file and
            the block lists are answered here, as those that are remembered; others the worker
            resolves. Without a worker elsewhere, 127.0.0.1 is this machine's.
        :param port: 1 to 65535.
        :raises ConnectionRefusedError: nothing listens there.
        :raises TimeoutError: nothing answers.
        :raises PermissionError: the worker does not let connections go there.
        :raises OSError: with the errno that a socket would have; ENETUNREACH, too, where the tunnel
            has been down for longer than ``grace``, or IPv6 is blocked.
        :raises trio.BrokenResourceError: the VPN has ended.
        :raises ValueError: that is no host, or no port.
        """
        if not 1 <= port <= 65535:
            raise ValueError(f"{port} is not a port that can be connected to")
        await trio.lowlevel.checkpoint()
        self._check_running()
        where = join_host_port(host, port)
        for number, (target, refused) in enumerate(targets := self._targets(host)):
            if refused is not None:
                raise OSError(refused, f"{where}: {os.strerror(refused)}")
            stream = VpnTcpStream(self._opened, self._tunnel.linger, (host, port))
            try:
                stream.attach(self._tunnel.open_stream(target, port, stream))
                await stream.wait_connected()
            except OSError as error:
                self._check_running()
                if number == len(targets) - 1:
                    raise OSError(error.errno, f"{where}: {error.strerror}") from None
            except BaseException:
                stream.abort()
                raise
            else:
                return stream
        raise AssertionError("there is one target at least")

    def _targets(self, host: str) -> list[tuple[str, int | None]]:
        """Return what the worker is asked for: one or several addresses, or a name.

        Each with the errno if it is refused here.
        """
        try:
            address = str(ipaddress.ip_address(host.strip("[]")))
        except ValueError:
            pass  # a name
        else:
            return [(self._policy.to_worker(address), self._refused(address))]
        try:
            name = host_name(host)
        except InvalidName as error:
            raise ValueError(f"{host!r} is neither an address nor a host name: {error}") from None
        if ends_in_number(name):
            raise ValueError(f"{host!r} is neither an address nor a host name")
        try:
            found = self._known_here(name)
        except DnsError as error:
            raise socket.gaierror(socket.EAI_NONAME, f"{host}: {error}") from None
        if not found:
            return [(name, None)]
        return [(self._policy.to_worker(each), self._refused(each)) for each in found]

    def _refused(self, address: str) -> int | None:
        # (Port 53 is not the DNS service's here: it is what the program has asked for.)
        how = self._policy.decide((address, 1))
        return _REFUSALS.get(how, errno.EACCES) if isinstance(how, Reject) else None

    def _known_here(self, name: str) -> list[str]:
        """Return addresses that are known without asking; none: ask.

        :raises DnsError: it is known that there is no such name.
        """
        found = []
        for kind in (Type.A, Type.AAAA):
            answer = self._dns.answer_now(_query(name, kind), transport="tcp")
            if answer is not None:
                found += addresses_in(answer, kind)
        return found

    def open_udp(self, *, queue: int = 256) -> VpnUdpSocket:
        """Open a UDP socket at the worker.

        :param queue: datagrams that wait for :meth:`VpnUdpSocket.receive`, 1 or more; where there
            are more, the oldest are dropped.
        :raises trio.BrokenResourceError: the VPN has ended.
        :raises ValueError: ``queue`` is less.
        """
        self._check_running()
        if queue < 1:
            raise ValueError(f"a queue of {queue} datagrams holds none: give 1 or more")
        udp = VpnUdpSocket(self._opened, queue)
        udp.attach(self._tunnel.open_association(udp))
        return udp

    async def resolve(self, name: str) -> list[str]:
        """Return the addresses of a name, as the VPN's applications get them; at least one.

        Those of IPv4 come first, and those of IPv6 only where it is not blocked.

        :param name: an address is its own.
        :raises DnsError: there is no such name, it has no addresses, or no resolver could tell.
        :raises trio.BrokenResourceError: the VPN has ended.
        """
        await trio.lowlevel.checkpoint()
        self._check_running()
        try:
            return [str(ipaddress.ip_address(name.strip("[]")))]
        except ValueError:
            pass  # a name
        try:
            plain = host_name(name)
        except InvalidName as error:
            raise DnsError(f"{name!r} is no host name: {error}") from None
        kinds = [Type.A]
        if not isinstance(self._policy.decide(("::", 1)), Reject):
            kinds.append(Type.AAAA)
        found: dict[Type, list[str] | DnsError] = {}

        async def ask(kind: Type) -> None:
            try:
                found[kind] = addresses_in(await self._dns.resolve(_query(plain, kind)), kind)
            except DnsError as error:
                found[kind] = error
            except WireError as error:
                found[kind] = DnsError(f"the answer is malformed: {error}")

        async with trio.open_nursery() as nursery:
            for kind in kinds:
                nursery.start_soon(ask, kind)
        errors = [each for each in found.values() if isinstance(each, DnsError)]
        lists = (found[kind] for kind in kinds)
        addresses = [a for each in lists if not isinstance(each, DnsError) for a in each]
        if not addresses:
            raise DnsError(f"{name}: {errors[0] if errors else 'the name has no addresses'}")
        return addresses

    def _check_running(self) -> None:
        if self._ended.is_set():
            raise trio.BrokenResourceError("the VPN has ended")

    # what is told of it

    def flush_dns(self) -> int:
        """Forget cached answers, and have hosts file and block lists read again soon after.

        :returns: how many answers.
        :raises ConfigError: a block list cannot be read; the old one stays in force.
        """
        return self._dns.flush()

    @property
    def worker(self) -> WorkerUrl:
        """The URL of the worker, of several that in use; the embedded one's has the port it got."""
        return self._tunnel.worker

    def workers(self) -> list[dict[str, Any]]:
        """Return what is known of each worker, see :meth:`zks_lwip.tunnel.Tunnel.workers`."""
        return self._tunnel.workers()

    def sessions(self) -> list[dict[str, Any]]:
        """Return what is known of each session, see :meth:`zks_lwip.tunnel.Tunnel.sessions`."""
        return self._tunnel.sessions()

    @property
    def dns_latency(self) -> Histogram:
        """Seconds until DNS queries that no cache answers had an answer."""
        return self._dns.latency

    def abilities(self) -> dict[str, bool]:
        """Return what the worker in use carries, see :meth:`zks_lwip.tunnel.Tunnel.abilities`."""
        return self._tunnel.abilities()

    def flows(self) -> list[FlowInfo]:
        """Return what is told of each TCP connection and UDP association, the oldest first."""
        carried = [] if self._gateway is None else self._gateway.flows()
        return sorted([*carried, *self._opened.infos()], key=lambda flow: -flow.seconds)

    def close_flow(self, flow: FlowInfo) -> bool:
        """End a flow that an application has opened; both ends of a connection see a reset.

        :returns: whether it was open.
        """
        return self._gateway is not None and self._gateway.close_flow(flow)

    def name_of(self, address: str) -> str:
        """Return the name that was last resolved to an address; empty: none that is known."""
        return self._dns.names.name_of(address)

    def slowest_names(self, count: int = 3) -> list[tuple[str, float]]:
        """Return the names that took longest to resolve in the last minute, and the seconds."""
        return self._dns.names.slowest(count)

    def stats(self) -> VpnStats:
        """Return state, traffic, workers and sessions at this moment."""
        counters, tunnel = self._opened.counters, self._tunnel
        changed = tunnel.downtime.changed
        held = 0 if self._gateway is None else self._gateway.stats()["flows"]
        return VpnStats(
            state=self.state,
            state_seconds=0.0 if changed is None else max(0.0, trio.current_time() - changed),
            problem=self.problem,
            worker=str(tunnel.worker),
            round_trip=tunnel.slowness(),
            bytes_up=counters.bytes_up,
            bytes_down=counters.bytes_down,
            datagrams_up=counters.datagrams_up,
            datagrams_down=counters.datagrams_down,
            datagram_bytes_up=counters.datagram_bytes_up,
            datagram_bytes_down=counters.datagram_bytes_down,
            connections=held + self._opened.connections,
            connections_opened=counters.flows_opened,
            connections_refused=sum(counters.refused.values()),
            dns_queries=counters.dns_queries,
            workers=tuple(WorkerInfo(**each) for each in tunnel.workers()),
            sessions=tuple(SessionInfo(**each) for each in tunnel.sessions()),
            counters=self.counters(),
        )

    def counters(self) -> dict[str, Any]:
        """Return counters and gauges of each part: ``gateway``, ``stack``, ``tunnel``, ``dns``.

        ``tasks`` is how many tasks trio runs in all. Their names are no part of the interface.
        """
        own = self._opened.counters.as_dict() if self._gateway is None else self._gateway.stats()
        return {
            "tasks": trio.lowlevel.current_statistics().tasks_living,
            "gateway": own,
            "stack": {} if self._stack is None else self._stack.stats(),
            "tunnel": self._tunnel.stats(),
            "dns": self._dns.stats(),
        }


class _States:
    """What :meth:`Vpn.states` returns. (Not a generator, which would have to be closed.)"""

    def __init__(self, vpn: Vpn) -> None:
        self._vpn = vpn
        self._told: VpnState | None = None

    def __aiter__(self) -> _States:
        return self

    async def __anext__(self) -> VpnState:
        if self._told is VpnState.DISCONNECTED:
            raise StopAsyncIteration
        await trio.lowlevel.checkpoint()
        while self._vpn.state is self._told:
            await self._vpn.wait_change()
        self._told = self._vpn.state
        return self._told


def _query(name: str, kind: Type) -> bytes:
    return HEADER.pack(0, RD, 1, 0, 0, 0) + encode_name(name) + struct.pack("!HH", kind, _IN)
