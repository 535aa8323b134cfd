"""Connecting to the far end: Happy Eyeballs (RFC 8305), with the policy asked for every address."""

from __future__ import annotations

import errno
import socket
from functools import lru_cache

import trio

from ..net.happy_eyeballs import ATTEMPT_DELAY, interleave, race
from ..net.sockets import (
    IN_PROGRESS,
    close_in_order,
    end_in_reset,
    error_text,
    family_of,
    open_socket,
)
from .limits import QueryBudget
from .policy import InvalidHost, IPAddress, Policy
from .resolver import Lookup, Resolver

__all__ = ["Attempt", "Destination", "DialError", "Dialer", "error_code"]

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

MAX_CONNECT = 30.0
"""Seconds for a whole connect; no far end that lives needs longer."""
RESOLUTION_DELAY = 0.05
"""Seconds that known IPv4 addresses wait for those of IPv6 (RFC 8305 §3)."""
_KEEPALIVE_IDLE = 300
"""Seconds; a far end that vanished is noticed in about ten minutes."""

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
    """Return the code of PROTOCOL.md §4 (and 90, §5) for an error of the system, else 502."""
    return _CODES.get(error.errno or 0, OTHER)


class DialError(Exception):
    """The far end could not be reached; ``code`` is the ERROR code, the text goes to the client."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Destination:
    """An address, and what is known of it once for all connections to it."""

    __slots__ = ("address", "family", "host", "is_loopback")

    def __init__(self, address: IPAddress) -> None:
        self.address = address
        address = getattr(address, "ipv4_mapped", None) or address
        self.host = str(address)
        self.family = family_of(address)
        self.is_loopback = address.is_loopback


class Attempt:
    """A connection that is being made to one address, by a socket that does not block.

    :raises OSError: there is no socket for it.
    """

    __slots__ = ("_code", "_destination", "_dialer", "_port", "sock")

    sock: socket.socket
    """The caller's to close, whatever comes of it. It ends in a reset until it has been given all
    that there is to send (:func:`~zks_lwip.net.sockets.end_in_order`)."""

    def __init__(self, dialer: Dialer, destination: Destination, port: int) -> None:
        self._dialer = dialer
        self._destination = destination
        self._port = port
        self.sock = sock = open_socket(destination.family, socket.SOCK_STREAM, dialer.mark)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # An urgent byte stays in its place (RFC 6093 §4), where recv() would leave it out.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            end_in_reset(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if hasattr(socket, "TCP_KEEPIDLE"):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE)
            self._code = sock.connect_ex((destination.host, port))
        except BaseException:
            sock.close()
            raise

    @property
    def decided(self) -> bool:
        """Whether it is known already what comes of it; else when ``sock`` can be written."""
        return self._code not in IN_PROGRESS

    def finish(self) -> None:
        """Take note that ``sock`` is connected.

        :raises DialError: it is not; says why.
        """
        sock, code = self.sock, self._code
        if code in IN_PROGRESS:
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not code and not self._destination.is_loopback:
            return
        text = ""
        if code == errno.EADDRNOTAVAIL and self._dialer.has_route(self._destination, self._port):
            code, text = errno.EADDRINUSE, "no local port is left"
        try:
            if not code and sock.getsockname() == sock.getpeername():
                # nothing listens: the kernel joined the socket to itself (simultaneous open)
                code = errno.ECONNREFUSED
        except OSError:  # ENOTCONN: it was reset since
            code = errno.ECONNRESET
        if code:
            raise DialError(error_code(OSError(code, "")), text or error_text(code))


class Dialer:
    """Opens TCP connections to the far ends.

    :param mark: SO_MARK for every socket.
    :param attempt_delay: seconds until the next address is tried beside the last.
    :param resolution_delay: seconds that known IPv4 addresses wait for those of IPv6.
    """

    def __init__(
        self,
        policy: Policy,
        resolver: Resolver,
        *,
        mark: int | None = None,
        attempt_delay: float = ATTEMPT_DELAY,
        resolution_delay: float = RESOLUTION_DELAY,
    ) -> None:
        self._policy = policy
        self._resolver = resolver
        #: SO_MARK of every socket; None: none.
        self.mark = mark
        self._attempt_delay = attempt_delay
        self._resolution_delay = resolution_delay
        #: How long a connect may take.
        self.seconds = MAX_CONNECT
        self.literal = lru_cache(maxsize=4096)(self._literal)
        """Returns the address that a host is, in any spelling; None: a name, for :meth:`dial`."""

    async def dial(self, host: str, port: int, budget: QueryBudget) -> socket.socket:
        """Return a connected, non-blocking socket.

        It ends in a reset until it has been given all that there is to send
        (:func:`~zks_lwip.net.sockets.end_in_order`).

        :param budget: of the DNS queries that the host may cost.
        :raises DialError: it is not connected; says why.
        """
        if not port:
            raise DialError(REFUSED, "port 0 cannot be connected to")
        try:
            lookup = self._resolver.lookup(host, budget)
        except InvalidHost as error:
            raise DialError(OTHER, str(error)) from None
        with trio.move_on_after(self.seconds):
            return await self._connect_any(lookup, port)
        raise DialError(TIMED_OUT, "the far end did not answer in time")

    async def _connect_any(self, lookup: Lookup, port: int) -> socket.socket:
        """Connect to the first address that answers: families alternate, IPv6 first; addresses
        that a slower look-up brings join on arrival.
        """
        failures: list[DialError] = []

        async def discard(sock: socket.socket) -> None:
            close_in_order(sock)

        if not lookup.done:
            await self._first_family(lookup)
        won = await race(
            lambda: interleave(lookup.v6.addresses, lookup.v4.addresses),
            lambda address: self._connect(address, port),
            errors=DialError,
            failed=lambda _, error: failures.append(error),
            discard=discard,
            more=(lookup.v4.done, lookup.v6.done),
            delay=self._attempt_delay,
        )
        if won is not None:
            return won
        if not failures:
            code = TOO_MANY if lookup.overload else TIMED_OUT if lookup.late else OTHER
            raise DialError(code, lookup.problem)
        raise min(failures, key=_rank)

    def _literal(self, host: str) -> Destination | None:
        address = self._resolver.literal(host)
        return None if address is None else Destination(address)

    def begin(self, destination: Destination, port: int) -> Attempt:
        """Begin to connect to one address, if the policy lets it be reached: the only way to any.

        :raises DialError: it is refused, or there is no socket for it.
        """
        if not port:
            raise DialError(REFUSED, "port 0 cannot be connected to")
        reason = self._policy.refusal(destination.address)
        if reason is not None:
            raise DialError(REFUSED_BY_POLICY, f"refused by policy: {reason}")
        try:
            return Attempt(self, destination, port)
        except OSError as error:
            raise DialError(error_code(error), error.strerror or str(error)) from None

    async def _connect(self, address: IPAddress, port: int) -> socket.socket:
        """Connect to one address."""
        attempt = self.begin(Destination(address), port)
        try:
            if not attempt.decided:
                await trio.lowlevel.wait_writable(attempt.sock)
            attempt.finish()
        except BaseException:
            attempt.sock.close()
            raise
        return attempt.sock

    def has_route(self, destination: Destination, port: int) -> bool:
        """Return whether there is a route and a source address: then what lacks is a local port.

        connect(2) names both alike.
        """
        try:
            with open_socket(destination.family, socket.SOCK_DGRAM, self.mark) as probe:
                probe.connect((destination.host, port))  # sends nothing
        except OSError:
            return False
        return True

    async def _first_family(self, lookup: Lookup) -> None:
        """Wait for IPv6, or for IPv4 and then the resolution delay (RFC 8305 §3)."""
        async with trio.open_nursery() as nursery:

            async def ipv4() -> None:
                await lookup.v4.done.wait()
                if lookup.v4.addresses:
                    await trio.sleep(self._resolution_delay)
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
