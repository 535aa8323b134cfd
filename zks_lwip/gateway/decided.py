"""Flows of which a program decides: asked for each, then tunnelled, connected from here, given a
stream of the program's, or refused.

A TCP connection that does not go through the tunnel has two tasks, which copy.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import trio

from ..errors import StackError
from ..net.descriptors import Descriptors, is_scarcity, warn_of_scarcity
from ..net.sockets import end_in_reset, open_connection
from ..stack import Datagram, Flow, Reject, TcpStream
from .counters import GatewayCounters
from .decide import Decide, Direct, FlowRequest, Tunnel, read_decision, refusal_of
from .flow_table import HELD_SECONDS, FlowTable
from .flows import FlowInfo, Via
from .policy import NO_ROOM, FlowPolicy
from .trace import log_flow, logs_flows
from .udp import DEFAULT_IDLE

__all__ = ["DatagramDecisions", "DecidedFlow"]

_log = logging.getLogger(__name__)

_Address = tuple[str, int]

MAX_KNOWN = 4096
"""Pairs of a socket and a destination whose decision is remembered; the longest unused go first,
and those that have been unused for as long as an association may be idle."""
MAX_WAITING = 16
"""Datagrams of one pair that wait for a decision; over it new ones are dropped."""
MAX_BYTES = 8 << 20
"""Bytes of all datagrams that wait for one; over it new ones are dropped."""
_COPY = 65536  # bytes at a time


async def ask(decide: Decide, request: FlowRequest) -> Tunnel | Direct | Reject | trio.abc.Stream:
    """Return the program's decision; an OSError of its is a refusal."""
    try:
        decision = decide(request)
        if inspect.isawaitable(decision):
            decision = await decision
    except OSError as error:
        return refusal_of(error)
    return read_decision(decision, request)


class DecidedFlow:
    """One TCP connection of which the program decides; an entry of the flow table meanwhile.

    :param tunnel: serves it through the tunnel, to a host and port.
    :param mark: SO_MARK of a socket of our own.
    :param descriptors: those that such sockets may have.
    """

    def __init__(
        self,
        flow: Flow,
        table: FlowTable,
        counters: GatewayCounters,
        policy: FlowPolicy,
        clock: Callable[[], float],
        *,
        tunnel: Callable[[Flow, _Address | None], None],
        mark: int | None,
        descriptors: Descriptors,
    ) -> None:
        self._flow = flow
        self._table = table
        self._counters = counters
        self._policy = policy
        self._clock = clock
        self._tunnel = tunnel
        self._mark = mark
        self._descriptors = descriptors
        self._scope = trio.CancelScope()
        self._via: Via = "tunnel"
        self._accepted = False
        self._up = self._down = 0
        self.since = clock()
        flow.handler = self
        table.hold(self)

    async def run(self, decide: Decide) -> None:
        """Ask, and serve the connection until its end."""
        request = FlowRequest("tcp", self._flow.source, self._flow.destination)
        with self._scope:
            try:
                await self._serve(await ask(decide, request))
            finally:
                self._table.remove(self)

    async def _serve(self, decision: Tunnel | Direct | Reject | trio.abc.Stream) -> None:
        flow = self._flow
        host, port = flow.destination
        if isinstance(decision, Reject):
            self._refuse(decision, "as decided")
        elif isinstance(decision, Tunnel):
            if self._scope.cancel_called:
                return  # it has ended, and nothing here has waited since
            to = None
            if decision != Tunnel():
                to = (
                    self._policy.to_worker(host) if decision.host is None else decision.host,
                    port if decision.port is None else decision.port,
                )
                if not _can_be_host(to[0]):
                    self._refuse(Reject.HOST_UNREACHABLE, f"{to[0]!r} is no host")
                    return
            self._table.remove(self)
            flow.handler = None
            self._tunnel(flow, to)
        elif isinstance(decision, Direct):
            self._via = "direct"
            await self._leave(self._policy.to_worker(host), port)
        else:
            self._via = "stream"
            await self._relay(decision)

    async def _leave(self, host: str, port: int) -> None:
        """Connect from here, and serve the connection, while there is a descriptor for it."""
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(self._descriptors.taken())
                far = await open_connection(host, port, self._mark)
            except OSError as error:
                how = refusal_of(error)
                if is_scarcity(error):
                    warn_of_scarcity("a connection past the tunnel was not made", error)
                    self._counters.flows_over_limit += 1
                    how = NO_ROOM
                self._refuse(how, f"not connected: {error.strerror or error}")
            else:
                await self._relay(far)

    def _refuse(self, how: Reject, why: str) -> None:
        if logs_flows():
            log_flow("tcp", self._flow.source, self._flow.destination, f"refused here: {why}")
        self._flow.reject(how)

    async def _relay(self, far: trio.abc.Stream) -> None:
        """Copy both ways; the end of one end's bytes is told to the other, and so is a reset."""
        assert isinstance(far, trio.abc.HalfCloseableStream)
        near = TcpStream(self._flow)
        whole = False
        try:
            self._accepted = True
            self._table.accept(self)
            self._counters.flows_accepted += 1
            self._flow.accept()
            await near.wait_established()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._copy, near, far, self._count_up)
                nursery.start_soon(self._copy, far, near, self._count_down)
            whole = True
        except* (trio.BrokenResourceError, StackError) as errors:
            _log.debug("tcp %s: %s", self._flow.source, errors.exceptions[0])
            self._counters.flows_reset += 1
        finally:
            if not whole:  # what has come of it is not to look like all of it
                near.abort()
                if isinstance(far, trio.SocketStream):
                    with contextlib.suppress(OSError):
                        end_in_reset(far.socket)
            with trio.CancelScope(shield=True):
                await near.aclose()
                await trio.aclose_forcefully(far)

    async def _copy(
        self,
        source: trio.abc.ReceiveStream,
        target: trio.abc.HalfCloseableStream,
        count: Callable[[int], None],
    ) -> None:
        while data := await source.receive_some(_COPY):
            await target.send_all(data)
            count(len(data))
        await target.send_eof()

    def _count_up(self, count: int) -> None:
        self._up += count
        self._counters.bytes_up += count

    def _count_down(self, count: int) -> None:
        self._down += count
        self._counters.bytes_down += count

    def info(self, now: float) -> FlowInfo:
        """Return what is told of it."""
        return FlowInfo(
            "tcp",
            self._flow.source,
            self._flow.destination,
            self._via,
            "open" if self._accepted else "connecting",
            now - self.since,
            self._up,
            self._down,
        )

    # an entry of the table

    def refuse(self, how: Reject) -> None:
        """Give it up while it is held."""
        self._flow.reject(how)
        self._give_up()

    def end(self) -> None:
        """End it; a SYN that is held is refused."""
        if not self._accepted:
            self._flow.reject(Reject.RST)
        self._give_up()

    def _give_up(self) -> None:
        """Make room at once, and have its tasks end."""
        self._table.remove(self)
        self._scope.cancel()

    def expire_orphan(self, unmoved: float) -> None:
        """Do nothing: its tasks end with the application."""

    # a FlowHandler, until it is accepted

    def on_established(self) -> None:
        """Nothing: it is held."""

    def on_readable(self) -> None:
        """Nothing: it is held."""

    def on_writable(self) -> None:
        """Nothing: it is held."""

    def on_reset(self) -> None:
        """The application has given up."""
        self._counters.flows_reset += 1
        self._give_up()

    def on_closed(self) -> None:
        """The application is gone."""
        self._give_up()


def _can_be_host(host: str) -> bool:
    """Return whether a worker can be asked for it."""
    try:
        return 1 <= len(host.encode()) <= 255 and "\0" not in host
    except UnicodeEncodeError:
        return False


@dataclass(slots=True)
class _Known:
    """A decision, and when it was last asked for."""

    decision: Tunnel | Direct | Reject
    used: float


class DatagramDecisions:
    """What the program has decided of datagrams, by their source and destination.

    :param nursery: for the calls that wait.
    :param deliver: is given the datagrams that waited, when it has decided.
    :param clock: tells seconds; for tests.
    """

    def __init__(
        self,
        decide: Decide,
        nursery: trio.Nursery,
        counters: GatewayCounters,
        deliver: Callable[[list[Datagram]], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._decide = decide
        self._nursery = nursery
        self._counters = counters
        self._deliver = deliver
        self._clock = clock
        self._known: OrderedDict[tuple[_Address, _Address], _Known] = OrderedDict()
        self._waiting: dict[tuple[_Address, _Address], list[Datagram]] = {}
        self._bytes = 0  # of those that wait

    def of(self, datagram: Datagram) -> Tunnel | Direct | Reject | None:
        """Return the decision; None: the datagram waits for it, or is dropped."""
        pair = datagram.source, datagram.destination
        known = self._known.get(pair)
        if known is not None:
            known.used = self._clock()
            self._known.move_to_end(pair)
            return known.decision
        waiting = self._waiting.get(pair)
        if waiting is None and len(self._waiting) < MAX_KNOWN:
            waiting = self._waiting[pair] = []
            self._nursery.start_soon(self._ask, pair)
        size = len(datagram.payload)
        if waiting is None or len(waiting) >= MAX_WAITING or self._bytes + size > MAX_BYTES:
            self._counters.datagrams_dropped += 1
        else:
            kept = memoryview(bytes(datagram.payload))  # lest it pin those that came with it
            waiting.append(Datagram(*pair, kept, datagram.hop_limit, datagram.traffic_class))
            self._bytes += size
        return None

    async def _ask(self, pair: tuple[_Address, _Address]) -> None:
        try:
            with trio.move_on_after(HELD_SECONDS) as asking:
                decision = await ask(self._decide, FlowRequest("udp", *pair))
                assert isinstance(decision, (Tunnel, Direct, Reject))  # read_decision sees to it
                self._known[pair] = _Known(decision, self._clock())
                if len(self._known) > MAX_KNOWN:
                    self._known.popitem(last=False)
        finally:
            waiting = self._waiting.pop(pair)
            self._bytes -= sum(len(each.payload) for each in waiting)
        if asking.cancelled_caught:  # the next datagram asks again
            self._counters.datagrams_dropped += len(waiting)
        else:
            self._deliver(waiting)

    def expire(self, now: float, idle: float = DEFAULT_IDLE) -> None:
        """Forget what has not been asked for during ``idle`` seconds.

        :param now: by the clock of these decisions.
        """
        while self._known:
            pair, known = next(iter(self._known.items()))  # the longest unused
            if now - known.used < idle:
                break
            del self._known[pair]
