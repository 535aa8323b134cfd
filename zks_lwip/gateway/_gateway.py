"""The gateway: every flow of the stack meets its service here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import trio

from ..config import VpnConfig
from ..stack import Datagram, Flow, Reject
from ..stats import GatewayCounters
from .dns import DnsFront, DnsService
from .icmp import Echoes, EchoStack, EchoTunnel
from .policy import Policy, Service
from .talk import tell, told
from .tcp import FlowTable, StreamOpener, TcpBridge
from .udp import DEFAULT_IDLE, MAX_ASSOCIATIONS, AssociationOpener, Associations, UdpStack
from .waiting import Waiting

__all__ = ["Gateway", "GatewayStack", "GatewayTunnel", "WorkerAbilities"]

_Address = tuple[str, int]

#: Seconds between two looks at what has been idle or held for too long.
SWEEP_SECONDS = 1.0
#: Seconds between two looks at the tunnel while datagrams wait for it.
WAIT_SECONDS = 0.05


class WorkerAbilities(Protocol):
    """What the worker's HELLO says (PROTOCOL.md §3)."""

    @property
    def udp(self) -> bool: ...
    @property
    def icmp(self) -> bool: ...
    @property
    def ipv6(self) -> bool: ...
    @property
    def idle_udp(self) -> int: ...
    @property
    def associations(self) -> int: ...


class GatewayStack(UdpStack, EchoStack, Protocol):
    """What the gateway needs of the stack, besides the flows that it gives."""

    on_flow: Callable[[Flow], None] | None
    on_datagrams: Callable[[list[Datagram]], None] | None
    on_echo: Callable[[str, str, int, int, bytes], None] | None


class GatewayTunnel(StreamOpener, AssociationOpener, EchoTunnel, Protocol):
    """What the gateway needs of the tunnel."""

    @property
    def peer(self) -> WorkerAbilities | None: ...
    @property
    def up(self) -> bool: ...
    @property
    def hopeless(self) -> bool: ...


class Gateway:
    """Gives each flow what the policy says; :meth:`run` keeps it going.

    Everything but the echo requests that wait for a reply happens in the callbacks of the stack,
    the tunnel and the DNS service, in the trio thread.
    """

    def __init__(
        self,
        stack: GatewayStack,
        tunnel: GatewayTunnel,
        dns: DnsService,
        config: VpnConfig,
        *,
        is_loop: Callable[[_Address, _Address], bool] = lambda source, destination: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counters = GatewayCounters()
        self.policy = Policy(
            ipv6=config.ipv6,
            worker_ipv6=lambda: None if tunnel.peer is None else tunnel.peer.ipv6,
            loopback_alias=config.loopback_alias,
            **({} if config.dns is None else {"refuses": config.dns.refuses}),
        )
        self._stack = stack
        self._tunnel = tunnel
        self._config = config
        self._is_loop = is_loop
        self._clock = clock
        self._table = FlowTable(config.max_flows, self.counters)
        self._associations = Associations(stack, tunnel, self.policy, self.counters, clock=clock)
        self._dns = DnsFront(stack, dns, self.counters, clock=clock)
        self._waiting = Waiting(self.counters)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the stack until cancelled."""
        stack = self._stack
        async with trio.open_nursery() as nursery:
            echoes = Echoes(
                stack,
                self._tunnel,
                self.policy,
                self.counters,
                nursery,
                mode=self._config.icmp,
                worker_icmp=lambda: self._tunnel.peer is not None and self._tunnel.peer.icmp,
            )
            stack.on_echo = echoes.on_echo
            stack.on_datagrams = self.on_datagrams
            stack.on_flow = self.on_flow
            task_status.started()
            try:
                nursery.start_soon(self._release)
                while True:
                    await trio.sleep(SWEEP_SECONDS)
                    self._sweep()
            finally:
                stack.on_flow = stack.on_datagrams = stack.on_echo = None
                self._associations.close()

    def on_flow(self, flow: Flow) -> None:
        """A new SYN, held by the stack."""
        self.counters.flows_opened += 1
        service = self.policy.decide(flow.destination)
        if self._is_loop(flow.source, flow.destination):
            self.counters.loops += 1
            self._reject(flow, Reject.HOST_UNREACHABLE, "it is one of the worker's, come back")
        elif isinstance(service, Reject):
            self._reject(flow, service, "no traffic to there")
        elif not self._table.make_room():
            # Silence, as of a kernel without room for one more.
            why = f"{self._config.max_flows} connections are open"
            self._reject(flow, Reject.SILENT, why)
        elif service is Service.DNS:
            if told():
                tell("tcp", flow.source, flow.destination, "DNS, answered here")
            self._dns.open_flow(flow, self._table)
        else:
            bridge = TcpBridge(flow, self._table, self.counters, self._clock)
            bridge.start(self._tunnel, self.policy, fast_connect=self._config.fast_connect)

    def _reject(self, flow: Flow, how: Reject, why: str) -> None:
        if told():
            tell("tcp", flow.source, flow.destination, f"refused here: {why}")
        flow.reject(how)

    async def _release(self) -> None:
        """Give out the datagrams that wait for the tunnel, when it is up or will not be soon."""
        while True:
            await self._waiting.any()
            while not self._tunnel.up and not self._tunnel.hopeless:
                await trio.sleep(WAIT_SECONDS)
            self.on_datagrams(self._waiting.take())

    def on_datagrams(self, batch: Iterable[Datagram]) -> None:
        """UDP datagrams of the applications."""
        peer, up = self._tunnel.peer, self._tunnel.up
        no_udp = peer is not None and not peer.udp
        for datagram in batch:
            service = self.policy.decide(datagram.destination)
            if service is Service.DNS:
                self._dns.on_datagram(datagram)
            elif isinstance(service, Reject):
                refused = service is Reject.RST  # UDP has none
                how = Reject.PORT_UNREACHABLE if refused else service
                self._associations.refuse(datagram, how)
            elif no_udp or (not up and self._tunnel.hopeless):
                # (Of an unreachable host, Linux does not tell a connected socket.)
                self._associations.refuse(datagram, Reject.PORT_UNREACHABLE)
            elif up:
                self._associations.send(datagram)
            else:
                self._waiting.add(datagram)

    def stats(self) -> dict[str, Any]:
        """The counters, and how much is open at this moment."""
        result = self.counters.as_dict()
        result["flows"] = len(self._table)
        result["flows_held"] = self._table.held
        result["associations"] = len(self._associations)
        return result

    def _sweep(self) -> None:
        now = self._clock()
        peer = self._tunnel.peer
        idle = DEFAULT_IDLE if peer is None else min(DEFAULT_IDLE, peer.idle_udp)
        if peer is not None:
            self._associations.limit = min(MAX_ASSOCIATIONS, peer.associations)
        self._table.expire(now)
        self._associations.expire(now, idle)
        self._dns.expire(now)
