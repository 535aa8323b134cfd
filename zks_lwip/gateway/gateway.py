"""The gateway: every flow of the stack meets its service here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import trio

from ..net.descriptors import Descriptors
from ..stack import Datagram, Flow, FramedDatagrams, FrameRules, Reject
from .backlog import DatagramBacklog
from .counters import GatewayCounters
from .decide import Decide, Direct, Tunnel
from .decided import DatagramDecisions, DecidedFlow
from .direct import DirectOpener, direct_descriptors
from .dns import DnsInterceptor, QueryHandler
from .flow_table import FlowTable
from .flows import FlowInfo
from .icmp import EchoResponder, EchoStack, EchoTunnel
from .options import GatewayOptions
from .policy import LOOP, NO_ROOM, FlowPolicy, Service, WorkerAbilities
from .tcp import StreamOpener, TcpBridge
from .trace import log_flow, logs_flows
from .udp import (
    DEFAULT_IDLE,
    MAX_ASSOCIATIONS,
    AssociationOpener,
    AssociationTable,
    FrameCarrier,
    FrameStack,
)

__all__ = ["Gateway", "GatewayStack", "GatewayTunnel"]

_Address = tuple[str, int]

SWEEP_SECONDS = 1.0
"""Seconds between two looks at what has been idle or held for too long."""
WAIT_SECONDS = 0.05
"""Seconds between two looks at the tunnel while datagrams wait for it."""


class GatewayStack(FrameStack, EchoStack, Protocol):
    """What the gateway needs of the stack, besides the flows that it gives."""

    on_flow: Callable[[Flow], None] | None
    on_datagrams: Callable[[list[Datagram]], None] | None
    on_frames: Callable[[FramedDatagrams], None] | None
    frame_rules: Callable[[], FrameRules | None] | None
    on_echo: Callable[[str, str, int, int, bytes], None] | None

    @property
    def moved(self) -> tuple[int, int]: ...


class GatewayTunnel(StreamOpener, AssociationOpener, FrameCarrier, EchoTunnel, Protocol):
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

    :param stack: its callbacks are the gateway's while it runs.
    :param tunnel: carries what goes to the worker.
    :param dns: answers what is sent to port 53.
    :param refuses: whether a flow to a port, whatever the address, is refused.
    :param is_loop: whether a flow, by source and destination, is one of the tunnel's own sockets.
    :param clock: tells seconds; for tests.
    :param decide: says of each flow whether it goes through the tunnel; None: all do.
    :param mark: SO_MARK of the sockets for flows that do not.
    :param descriptors: those that such sockets may have; None: half of the process's.
    """

    def __init__(
        self,
        stack: GatewayStack,
        tunnel: GatewayTunnel,
        dns: QueryHandler,
        options: GatewayOptions,
        *,
        refuses: Callable[[int], bool] = lambda port: False,
        is_loop: Callable[[_Address, _Address], bool] = lambda source, destination: False,
        clock: Callable[[], float] = time.monotonic,
        decide: Decide | None = None,
        mark: int | None = None,
        descriptors: Descriptors | None = None,
    ) -> None:
        self.counters = GatewayCounters()
        self.policy = FlowPolicy(
            ipv6=options.ipv6,
            icmp=options.icmp,
            worker=lambda: tunnel.peer,
            loopback_alias=options.loopback_alias,
            refuses=refuses,
        )
        self._stack = stack
        self._tunnel = tunnel
        self._options = options
        self._is_loop = is_loop
        self._clock = clock
        self._moved = stack.moved
        self._table = FlowTable(options.max_flows, self.counters, clock)
        self._associations = AssociationTable(
            stack, tunnel, self.policy, self.counters, clock=clock, carrier=tunnel
        )
        self._dns = DnsInterceptor(stack, dns, self.counters, clock=clock)
        self._backlog = DatagramBacklog(self.counters)
        self._decide = decide
        self._mark = mark
        self._descriptors = descriptors or direct_descriptors()
        self._nursery: trio.Nursery | None = None
        self._decisions: DatagramDecisions | None = None
        self._direct: AssociationTable | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the stack until cancelled."""
        stack = self._stack
        async with trio.open_nursery() as nursery:
            echoes = EchoResponder(stack, self._tunnel, self.policy, self.counters, nursery)
            self._nursery = nursery
            if self._decide is not None:
                self._decisions = DatagramDecisions(
                    self._decide, nursery, self.counters, self.on_datagrams, clock=self._clock
                )
                self._direct = AssociationTable(
                    stack,
                    DirectOpener(nursery, self._mark, self._descriptors),
                    self.policy,
                    self.counters,
                    limit=max(1, min(MAX_ASSOCIATIONS, self._descriptors.total // 2)),
                    clock=self._clock,
                    via="direct",
                )
            stack.on_echo = echoes.on_echo
            stack.on_datagrams = self.on_datagrams
            stack.on_frames = self._associations.send_frames
            stack.frame_rules = self._frame_rules
            stack.on_flow = self.on_flow
            task_status.started()
            try:
                nursery.start_soon(self._release)
                while True:
                    await trio.sleep(SWEEP_SECONDS)
                    self._sweep()
            finally:
                stack.on_flow = stack.on_datagrams = stack.on_echo = None
                stack.on_frames = stack.frame_rules = None
                self._associations.close()
                if self._direct is not None:
                    self._direct.close()

    def on_flow(self, flow: Flow) -> None:
        """Serve or refuse a new SYN, held by the stack."""
        self.counters.flows_opened += 1
        service = self.policy.decide(flow.destination)
        if self._is_loop(flow.source, flow.destination):
            self.counters.loops += 1
            self._reject(flow, LOOP, "it is one of the worker's, come back")
        elif isinstance(service, Reject):
            self._reject(flow, service, "no traffic to there")
        elif not self._table.make_room():
            why = f"{self._options.max_flows} connections are open"
            self._reject(flow, NO_ROOM, why)
        elif service is Service.DNS:
            if logs_flows():
                log_flow("tcp", flow.source, flow.destination, "DNS, answered here")
            self._dns.open_flow(flow, self._table)
        elif self._decide is not None and self._nursery is not None:
            decided = DecidedFlow(
                flow,
                self._table,
                self.counters,
                self.policy,
                self._clock,
                tunnel=self._bridge,
                mark=self._mark,
                descriptors=self._descriptors,
            )
            self._nursery.start_soon(decided.run, self._decide)
        else:
            self._bridge(flow)

    def _bridge(self, flow: Flow, to: _Address | None = None) -> None:
        """Serve a flow through the tunnel."""
        bridge = TcpBridge(flow, self._table)
        bridge.start(self._tunnel, self.policy, fast_connect=self._options.fast_connect, to=to)

    def _reject(self, flow: Flow, how: Reject, why: str) -> None:
        if logs_flows():
            log_flow("tcp", flow.source, flow.destination, f"refused here: {why}")
        flow.reject(how)

    async def _release(self) -> None:
        """Give out the datagrams that wait for the tunnel, when it is up or will not be soon."""
        while True:
            await self._backlog.wait()
            while not self._tunnel.up and not self._tunnel.hopeless:
                await trio.sleep(WAIT_SECONDS)
            self.on_datagrams(self._backlog.take())

    def on_datagrams(self, batch: Iterable[Datagram]) -> None:
        """Serve or refuse UDP datagrams of the applications."""
        up = self._tunnel.up
        carried = self.policy.carries_datagrams(hopeless=not up and self._tunnel.hopeless)
        decides = self._decisions is not None  # Direct needs no worker
        for datagram in batch:
            service = self.policy.decide_datagram(datagram.destination, carried=carried or decides)
            if service is Service.DNS:
                self._dns.on_datagram(datagram)
            elif isinstance(service, Reject):
                self._associations.refuse(datagram, service)
            elif decides and self._is_decided(datagram):
                pass
            elif not carried:
                self._associations.refuse(datagram, Reject.PORT_UNREACHABLE)
            elif up:
                self._associations.send(datagram)
            else:
                self._backlog.add(datagram)

    def _is_decided(self, datagram: Datagram) -> bool:
        """Return whether the program's decision has taken a datagram off the tunnel's way."""
        assert self._decisions is not None and self._direct is not None
        decision = self._decisions.of(datagram)
        if isinstance(decision, Tunnel):
            return False
        if isinstance(decision, Direct):
            self._direct.send(datagram)
        elif decision is not None:
            how = Reject.PORT_UNREACHABLE if decision is Reject.RST else decision
            self._associations.refuse(datagram, how)
        return True

    def flows(self) -> list[FlowInfo]:
        """Return what is told of each connection and association that is open."""
        now = self._clock()
        direct = [] if self._direct is None else self._direct.infos(now)
        return [
            *(entry.info(now) for entry in self._table),
            *self._associations.infos(now),
            *direct,
        ]

    def _frame_rules(self) -> FrameRules | None:
        """Return which datagrams go to the tunnel without being looked at here; None: none do."""
        if self._decide is None and self._tunnel.up:
            if self.policy.carries_datagrams(hopeless=False):
                return self.policy.frame_rules()
        return None

    def close_flow(self, flow: FlowInfo) -> bool:
        """End a connection (both its ends see a reset) or an association.

        :returns: whether there was one.
        """
        if flow.source is None:
            return False
        if flow.protocol == "udp":
            tables = [self._associations, *([] if self._direct is None else [self._direct])]
            return any(table.end(flow.source) for table in tables)
        now = self._clock()
        for entry in self._table:
            known = entry.info(now)
            if (known.source, known.destination) == (flow.source, flow.destination):
                entry.end()
                return True
        return False

    def stats(self) -> dict[str, Any]:
        """Return the counters, and how much is open at this moment."""
        self._count_moved()
        result = self.counters.as_dict()
        result["flows"] = len(self._table)
        result["flows_held"] = self._table.held
        result["associations"] = len(self._associations)
        return result

    def _count_moved(self) -> None:
        """Count what C has moved without the bridges."""
        before, self._moved = self._moved, self._stack.moved
        self.counters.bytes_up += self._moved[0] - before[0]
        self.counters.bytes_down += self._moved[1] - before[1]

    def _sweep(self) -> None:
        now = self._clock()
        peer = self._tunnel.peer
        idle = DEFAULT_IDLE if peer is None else min(DEFAULT_IDLE, peer.idle_udp)
        if peer is not None:
            self._associations.limit = min(MAX_ASSOCIATIONS, peer.associations)
        self._table.expire(now)
        self._associations.expire(now, idle)
        if self._direct is not None:
            self._direct.expire(now)
        if self._decisions is not None:
            self._decisions.expire(now)
        self._dns.expire(now)
