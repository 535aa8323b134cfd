"""Connecting to the far end: Happy Eyeballs (RFC 8305) over addresses that the policy has
passed."""

from __future__ import annotations

import errno
import logging
import math
import socket
from collections.abc import Iterator

import trio

from .limits import QueryBudget
from .policy import InvalidHost, IPAddress, Policy
from .resolver import Lookup, Resolver
from .sockets import (
    close_in_order,
    connect,
    end_in_reset,
    family_of,
    open_socket,
    sockaddr,
)

__all__ = ["DialError", "Dialer", "error_code"]

log = logging.getLogger(__name__)

#: ERROR codes of PROTOCOL.md §4 that are no errno of Linux
REFUSED_BY_POLICY = 403
TOO_MANY = 429
OTHER = 502
GOING_AWAY = 503

NET_UNREACHABLE = 101
RESET = 104
TIMED_OUT = 110
REFUSED = 111
HOST_UNREACHABLE = 113

_SECONDS = 30.0  # for a whole connect; no far end that lives needs longer
_ATTEMPT_DELAY = 0.25  # RFC 8305 §5
_RESOLUTION_DELAY = 0.05  # RFC 8305 §3
_KEEPALIVE_IDLE = 300  # seconds; a far end that vanished is noticed in about ten minutes

_CODES = {
    errno.ENETUNREACH: NET_UNREACHABLE,
    errno.EAFNOSUPPORT: NET_UNREACHABLE,
    errno.EADDRNOTAVAIL: NET_UNREACHABLE,
    errno.ENETDOWN: NET_UNREACHABLE,
    errno.ECONNRESET: RESET,
    errno.ECONNABORTED: RESET,
    errno.EPIPE: RESET,
    errno.ETIMEDOUT: TIMED_OUT,
    errno.ECONNREFUSED: REFUSED,
    errno.EHOSTUNREACH: HOST_UNREACHABLE,
    errno.EHOSTDOWN: HOST_UNREACHABLE,
    errno.EACCES: REFUSED_BY_POLICY,
    errno.EPERM: REFUSED_BY_POLICY,
    errno.EADDRINUSE: TOO_MANY,  # no local port is left
    errno.EMFILE: TOO_MANY,
    errno.ENFILE: TOO_MANY,
    errno.ENOBUFS: TOO_MANY,
    errno.ENOMEM: TOO_MANY,
    errno.EMSGSIZE: 90,
}
if hasattr(errno, "ENONET"):
    _CODES[errno.ENONET] = HOST_UNREACHABLE

# Of several addresses that failed each in its way, what says most about the far end is told.
_TELLING = (REFUSED, RESET, TIMED_OUT, HOST_UNREACHABLE, NET_UNREACHABLE, TOO_MANY, OTHER)


def error_code(error: OSError) -> int:
    """The code of PROTOCOL.md §4 (and 90, §5) for an error of the system; 502 for any other."""
    return _CODES.get(error.errno or 0, OTHER)


class DialError(Exception):
    """The far end could not be reached; ``code`` is the ERROR code, the text goes to the client."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Dialer:
    """Opens TCP connections to the far ends.

    :param mark: SO_MARK for every socket.
    """

    def __init__(self, policy: Policy, resolver: Resolver, *, mark: int | None = None) -> None:
        self._policy = policy
        self._resolver = resolver
        self._mark = mark
        #: How long a connect may take.
        self.seconds = _SECONDS

    async def dial(self, host: str, port: int, budget: QueryBudget) -> socket.socket:
        """A connected, non-blocking socket, which ends in a reset until it has been given all that
        there is to send (:func:`~zks_lwip.worker.sockets.end_in_order`). Raises :class:`DialError`.
        """
        if not port:
            raise DialError(REFUSED, "port 0 cannot be connected to")
        try:
            lookup = self._resolver.lookup(host, budget)
        except InvalidHost as error:
            raise DialError(OTHER, str(error)) from None
        with trio.move_on_after(self.seconds):
            single = self._single(lookup)
            if single is None:
                return await self._race(lookup, port)
            self._check(single)
            try:
                return await self._connect(single, port)
            except OSError as error:
                raise DialError(error_code(error), error.strerror or str(error)) from None
        raise DialError(TIMED_OUT, "the far end did not answer in time")

    @staticmethod
    def _single(lookup: Lookup) -> IPAddress | None:
        """The one address, where there is no choice: the usual case, without a race."""
        if not lookup.done:
            return None
        addresses = lookup.v6.addresses + lookup.v4.addresses
        return addresses[0] if len(addresses) == 1 else None

    def _check(self, address: IPAddress) -> None:
        reason = self._policy.refusal(address)
        if reason is not None:
            raise DialError(REFUSED_BY_POLICY, f"refused by policy: {reason}")

    async def _connect(self, address: IPAddress, port: int) -> socket.socket:
        address = getattr(address, "ipv4_mapped", None) or address
        sock = open_socket(family_of(address), socket.SOCK_STREAM, self._mark)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # An urgent byte stays in its place (RFC 6093 §4), where recv() would leave it out.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            end_in_reset(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if hasattr(socket, "TCP_KEEPIDLE"):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE)
            try:
                await connect(sock, sockaddr(address, port))
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL and self._has_way(address, port):
                    raise OSError(errno.EADDRINUSE, "no local port is left") from None
                raise
            if address.is_loopback and sock.getsockname() == sock.getpeername():
                # nobody listens: the kernel joined the socket to itself (simultaneous open)
                raise OSError(errno.ECONNREFUSED, "Connection refused")
        except BaseException:
            sock.close()
            raise
        return sock

    def _has_way(self, address: IPAddress, port: int) -> bool:
        """Whether there is a route and a source address: then what lacks is a local port (bind(2)
        names both alike)."""
        try:
            with open_socket(family_of(address), socket.SOCK_DGRAM, self._mark) as probe:
                probe.connect(sockaddr(address, port))  # sends nothing
        except OSError:
            return False
        return True

    async def _race(self, lookup: Lookup, port: int) -> socket.socket:
        """Happy Eyeballs: attempts start 250 ms apart, or as one fails; the first to connect wins.

        Families alternate, IPv6 first; addresses that a slower look-up brings join on arrival.
        """
        failures: list[DialError] = []
        tried: set[IPAddress] = set()
        winner: socket.socket | None = None
        wake = trio.Event()
        running = 0
        next_attempt = 0.0

        def signal() -> None:
            nonlocal wake
            wake.set()
            wake = trio.Event()

        async def attempt(address: IPAddress) -> None:
            nonlocal winner, running, next_attempt
            try:
                sock = await self._connect(address, port)
                if winner is None:
                    winner = sock
                else:
                    close_in_order(sock)
            except OSError as error:
                failures.append(DialError(error_code(error), error.strerror or str(error)))
                next_attempt = 0.0
            finally:
                running -= 1
                signal()

        async def announce(done: trio.Event) -> None:
            await done.wait()
            signal()

        def next_address() -> IPAddress | None:
            for address in _alternate(lookup):
                if address in tried:
                    continue
                tried.add(address)
                try:
                    self._check(address)
                except DialError as error:
                    failures.append(error)
                    continue
                return address
            return None

        try:
            async with trio.open_nursery() as nursery:
                if not lookup.done:
                    await self._first_family(lookup)
                    nursery.start_soon(announce, lookup.v4.done)
                    nursery.start_soon(announce, lookup.v6.done)
                while winner is None:
                    due = not running or trio.current_time() >= next_attempt
                    address = next_address() if due else None
                    if address is not None:
                        running += 1
                        nursery.start_soon(attempt, address)
                        next_attempt = trio.current_time() + _ATTEMPT_DELAY
                    elif due and not running and lookup.done:
                        break
                    # past its turn with nothing left to try: only news can help
                    with trio.CancelScope(
                        deadline=math.inf if address is None and due else next_attempt
                    ):
                        await wake.wait()
                nursery.cancel_scope.cancel()
        except BaseException:
            if winner is not None:
                winner.close()
            raise
        if winner is not None:
            return winner
        if not failures:
            code = TOO_MANY if lookup.overload else TIMED_OUT if lookup.late else OTHER
            raise DialError(code, lookup.problem)
        raise min(failures, key=_rank)

    @staticmethod
    async def _first_family(lookup: Lookup) -> None:
        """Wait for IPv6, or for IPv4 and then 50 ms more (RFC 8305 §3)."""
        async with trio.open_nursery() as nursery:

            async def ipv4() -> None:
                await lookup.v4.done.wait()
                if lookup.v4.addresses:
                    await trio.sleep(_RESOLUTION_DELAY)
                else:
                    await lookup.v6.done.wait()
                nursery.cancel_scope.cancel()

            async def ipv6() -> None:
                await lookup.v6.done.wait()
                if not lookup.v6.addresses:
                    await lookup.v4.done.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(ipv4)
            nursery.start_soon(ipv6)


def _rank(error: DialError) -> int:
    return _TELLING.index(error.code) if error.code in _TELLING else len(_TELLING)


def _alternate(lookup: Lookup) -> Iterator[IPAddress]:
    """IPv6, IPv4, IPv6, … of what is known by now."""
    v6, v4 = lookup.v6.addresses, lookup.v4.addresses
    for index in range(max(len(v6), len(v4))):
        if index < len(v6):
            yield v6[index]
        if index < len(v4):
            yield v4[index]
