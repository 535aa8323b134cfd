"""What a client wanted, given: a connection, a page, an association; or the reason why not.

What goes through is moved by callbacks (:mod:`.relay`, :mod:`.udp`), while the client's task waits;
:mod:`.forward` alone works in the task.
"""

from __future__ import annotations

import logging
from typing import Protocol

import trio

from .._util import one_line
from ..net.names import join_host_port
from ..net.readiness import Readiness
from ..tunnel import Association, StreamPeer, TunnelStream, TunnelTcpStream, UdpPeer
from .answers import answer_for, sentence_for
from .client import ProxyClient
from .counters import ProxyCounters
from .forward import OriginFailed, forward
from .handshake import Associate, ConnectRequest, Page, Wanted
from .names import Names
from .options import ProxyConfig
from .relay import Relay
from .socks5 import Reply, encode_reply
from .udp import ProxyAssociation

__all__ = ["ProxyService", "ProxyTunnel", "UdpAbilities"]

_log = logging.getLogger(__name__)

_MAX_ENDING = 256
"""Clients whose last words are waited for; more of them are closed at once."""
_TIMED_OUT, _TOO_MANY, _OTHER = 110, 429, 502
"""Codes of ERROR (PROTOCOL.md §4)."""


class UdpAbilities(Protocol):
    """What the worker's HELLO says (PROTOCOL.md §3)."""

    @property
    def udp(self) -> bool: ...
    @property
    def ipv6(self) -> bool: ...
    @property
    def associations(self) -> int: ...


class ProxyTunnel(Protocol):
    """What the proxy needs of the tunnel."""

    @property
    def peer(self) -> UdpAbilities | None: ...
    def open_stream(self, host: str, port: int, peer: StreamPeer, /) -> TunnelStream: ...
    def linger(self, stream: TunnelStream, /) -> None: ...
    def open_association(self, peer: UdpPeer, /) -> Association: ...
    async def dns_query(self, message: bytes, /) -> bytes: ...


class _Refused(Exception):
    """The far end cannot be had; ``code`` is one of ERROR, the text says more or is empty."""

    def __init__(self, code: int, message: str = "") -> None:
        super().__init__(message)
        self.code = code


class _Origin(TunnelTcpStream):
    """A stream to an origin, which remembers the code that ended it."""

    code = _OTHER
    message = ""

    def on_end(self, code: int, message: str) -> None:
        self.code, self.message = code, message
        super().on_end(code, message)


class ProxyService:
    """Gives clients what they want, as far as there is room.

    :param flows: TCP connections at a time.
    :param associations: UDP associations at a time, and no more than the worker says.
    """

    def __init__(
        self,
        config: ProxyConfig,
        readiness: Readiness,
        counters: ProxyCounters,
        *,
        flows: int,
        associations: int,
    ) -> None:
        self._config = config
        self._readiness = readiness
        self._counters = counters
        self._max_flows = flows
        self._max_associations = associations
        self._tunnel: ProxyTunnel
        self._names: Names
        self._ending = 0
        self.flows = 0
        """TCP connections now."""
        self.associations = 0
        """UDP associations now."""

    def use(self, tunnel: ProxyTunnel) -> None:
        """Carry everything through ``tunnel``; to be called before :meth:`give`."""
        self._tunnel = tunnel
        self._names = Names(tunnel)

    async def give(self, client: ProxyClient, wanted: Wanted) -> None:
        """Serve a client until it has had what it wanted.

        :raises OSError: the client has gone, or the system lacks what is needed.
        :raises trio.BrokenResourceError: the client has gone.
        """
        if isinstance(wanted, Associate):
            await self._associate(client, wanted)
            return
        if isinstance(wanted, ConnectRequest):
            host, port = wanted.host, wanted.port
            self._counters.connects += 1
        else:
            host, port = wanted.target.host, wanted.target.port
            self._counters.forwarded += 1
        where = one_line(join_host_port(host, port))
        _log.debug("tcp %s -> %s: asked for", client, where)
        try:
            if self.flows >= self._max_flows:
                self._counters.over_limit += 1
                raise _Refused(_TOO_MANY, f"{self._max_flows} connections are open here")
            self.flows += 1
            try:
                if isinstance(wanted, ConnectRequest):
                    why = await self._connect(client, wanted)
                else:
                    why = await self._forward(client, wanted)
            finally:
                self.flows -= 1
        except _Refused as error:
            self._counters.refused[error.code] += 1
            text = sentence_for(error.code, str(error))
            why = f"refused: {error.code} {text}"
            await self._end(client, wanted.refused(answer_for(error.code), f"{where}: {text}."))
        _log.debug("tcp %s -> %s: %s", client, where, why)

    async def _connect(self, client: ProxyClient, wanted: ConnectRequest) -> str:
        """Carry a connection; return how it ended."""
        relay = Relay(client.sock, wanted.early, self._readiness, self._counters)
        try:
            relay.attach(self._open(wanted.host, wanted.port, relay))
            with trio.move_on_after(self._config.connect_timeout):
                await relay.decided.wait()
            if relay.connected:
                self._counters.connected += 1
                with trio.fail_after(self._config.handshake_timeout):
                    await client.stream.send_all(wanted.granted)
                await relay.run()
            elif not relay.ended.is_set():
                raise _Refused(_TIMED_OUT if relay.code is None else relay.code, relay.message)
            return relay.why
        except _Refused:
            relay.give_socket_back()
            raise
        except trio.TooSlowError:
            return "the client reads nothing"
        finally:
            relay.abort()

    async def _forward(self, client: ProxyClient, page: Page) -> str:
        """Carry one request and its response; return how it ended."""
        origin = _Origin(self._tunnel.linger)
        try:
            origin.attach(self._open(page.target.host, page.target.port, origin))
            with trio.move_on_after(self._config.connect_timeout) as limit:
                try:
                    await origin.wait_connected()
                except OSError:
                    raise _Refused(origin.code, origin.message) from None
            if limit.cancelled_caught:
                raise _Refused(_TIMED_OUT)
            client.end_in_reset()  # until the response is whole
            await forward(client, page, origin, self._counters)
            await origin.aclose()
        except BaseException as error:
            origin.abort()
            if isinstance(error, OriginFailed):
                if not error.answered:
                    raise _Refused(_OTHER, f"what answers is not HTTP ({error})") from None
                self._reset(client)
                return f"the response was cut: {error}"
            if isinstance(error, trio.BrokenResourceError):
                self._reset(client)
            raise
        await self._end(client, b"")  # there is no more
        return "closed"

    async def _end(self, client: ProxyClient, answer: bytes) -> None:
        """Send an answer and close in order."""
        self._ending += 1
        try:
            await client.refuse(answer, drain=self._ending <= _MAX_ENDING)
        finally:
            self._ending -= 1

    def _reset(self, client: ProxyClient) -> None:
        self._counters.resets += 1
        client.close()

    def _open(self, host: str, port: int, peer: StreamPeer) -> TunnelStream:
        try:
            return self._tunnel.open_stream(host, port, peer)
        except ValueError:
            raise _Refused(_OTHER, "that is no host") from None

    async def _associate(self, client: ProxyClient, wanted: Associate) -> None:
        worker = self._tunnel.peer
        if worker is not None and not worker.udp:
            await self._end(client, encode_reply(Reply.COMMAND_NOT_SUPPORTED))
            return
        most = self._max_associations
        if worker is not None:
            most = min(most, worker.associations)
        if self.associations >= most:
            self._counters.over_limit += 1
            await self._end(client, encode_reply(Reply.FAILURE))
            return
        self.associations += 1
        try:
            association = ProxyAssociation(
                client,
                wanted,
                self._readiness,
                self._names,
                self._counters,
                ipv6=worker is None or worker.ipv6,
            )
            _log.debug("udp %s: association opened", client)
            self._counters.associations_opened += 1
            try:
                await client.stream.send_all(encode_reply(Reply.SUCCEEDED, *association.address))
                await association.run(self._tunnel.open_association(association), client)
            finally:
                association.close()
            _log.debug("udp %s: association closed", client)
        finally:
            self.associations -= 1
