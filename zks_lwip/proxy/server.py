"""The proxy: listens, finds out what each client wants, and has the tunnel give it.

A client has one task, from its TCP connection to the end of that.
"""

from __future__ import annotations

import logging
import socket
from typing import Any

import trio

from .._util import one_line
from ..net.descriptors import is_scarcity, raise_descriptor_limit, warn_of_scarcity
from ..net.listen import listen
from ..net.readiness import Readiness, make_readiness
from .client import ProxyClient
from .counters import ProxyCounters
from .handshake import HandshakeFailed, Wanted, WrongPassword, handshake
from .options import ProxyConfig
from .passwords import PasswordFile
from .service import ProxyService, ProxyTunnel

__all__ = ["ProxyServer"]

_log = logging.getLogger(__name__)

_BATCH = 64
"""Connections that are accepted before others have their turn."""
_SCARCE = 0.1
"""Seconds until the next attempt to accept where a descriptor lacks."""
_RESERVE = 128
"""Descriptors for the tunnel, DNS and the interpreter."""


class ProxyServer:
    """SOCKS5 and HTTP on one port.

    It listens from its construction on, and serves while :meth:`run` does.

    :param readiness: watches the sockets; None: the best that this system has.
    :raises ConfigError: it cannot listen there, or the password file cannot be used.
    :raises PrivilegeError: the port needs privilege.
    """

    def __init__(self, config: ProxyConfig, *, readiness: Readiness | None = None) -> None:
        self.config = config
        self.counters = ProxyCounters()
        self._passwords = None
        if config.password_file is not None:
            self._passwords = PasswordFile(config.password_file)
        room = max(_RESERVE, raise_descriptor_limit() - _RESERVE)
        self._max_handshakes = max(1, min(config.max_handshakes, room // 4))
        associations = max(1, min(config.max_associations, room // 8))
        flows = min(config.max_flows, room - self._max_handshakes - 2 * associations)
        self._socket, self.address = listen(config.host, config.port)
        self._readiness = readiness or make_readiness()
        self._service = ProxyService(
            config, self._readiness, self.counters, flows=flows, associations=associations
        )
        self._clients: dict[trio.CancelScope, ProxyClient] = {}
        self._handshakes: dict[trio.CancelScope, None] = {}  # the oldest first

    def close(self) -> None:
        """Stop listening; harmless a second time."""
        self._socket.close()
        self._readiness.close()

    def reload(self) -> None:
        """Read the password file again, and end what clients have whose names are gone.

        :raises ConfigError: the file cannot be used; what was read before stays in force.
        """
        if self._passwords is None:
            return
        self._passwords.reload()
        for scope, client in tuple(self._clients.items()):
            if client.name and client.name not in self._passwords.names:
                scope.cancel()

    def stats(self) -> dict[str, Any]:
        """Return the counters, and how much is open at this moment."""
        return self.counters.as_dict() | {
            "handshakes": len(self._handshakes),
            "flows": self._service.flows,
            "associations": self._service.associations,
        }

    async def run(
        self,
        tunnel: ProxyTunnel,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until cancelled; all clients are then reset."""
        self._service.use(tunnel)
        async with trio.open_nursery() as nursery:
            await nursery.start(self._readiness.run)
            task_status.started()
            while True:
                await trio.lowlevel.wait_readable(self._socket)
                try:
                    for _ in range(_BATCH):
                        self._accept(nursery)
                except BlockingIOError:
                    continue
                except OSError as error:
                    if is_scarcity(error):
                        warn_of_scarcity("a connection to the proxy was not accepted", error)
                        await trio.sleep(_SCARCE)
                # More wait, or one that waited has gone (ECONNABORTED).
                await trio.lowlevel.checkpoint()

    def _accept(self, nursery: trio.Nursery) -> None:
        sock, _ = self._socket.accept()
        sock.setblocking(False)
        self.counters.clients += 1
        if len(self._handshakes) >= self._max_handshakes:
            oldest = next(iter(self._handshakes))  # an honest client does not take long
            del self._handshakes[oldest]
            oldest.cancel()
            self.counters.clients_evicted += 1
        scope = trio.CancelScope()
        self._handshakes[scope] = None
        nursery.start_soon(self._serve, sock, scope)

    # one client

    async def _serve(self, sock: socket.socket, scope: trio.CancelScope) -> None:
        try:
            client = self._clients[scope] = ProxyClient(sock)
            with scope:
                wanted = await self._shake_hands(client)
                self._handshakes.pop(scope, None)
                if wanted is not None:
                    await self._service.give(client, wanted)
        except* (trio.BrokenResourceError, trio.ClosedResourceError) as group:
            _log.debug("a client has gone: %s", group.exceptions[0])
        except* OSError as group:
            if not any(map(is_scarcity, group.exceptions)):
                _log.debug("a client has gone: %s", group.exceptions[0])
            else:
                warn_of_scarcity("a client of the proxy was not served", group.exceptions[0])
        except* Exception:  # a bug costs this client, not the others
            _log.exception("internal error in the service of a client")
        finally:
            self._handshakes.pop(scope, None)
            self._clients.pop(scope, None)
            sock.close()

    async def _shake_hands(self, client: ProxyClient) -> Wanted | None:
        with trio.move_on_after(self.config.handshake_timeout) as limit:
            try:
                return await handshake(client, self._passwords)
            except HandshakeFailed as error:
                if isinstance(error, WrongPassword):
                    self.counters.auth_failures += 1
                    _log.warning("proxy: authentication failed from %s", client.peer[0])
                    await trio.sleep(self.config.failure_delay)
                else:
                    self.counters.clients_malformed += 1
                    _log.debug("%s is refused: %s", client, one_line(str(error)))
                await client.refuse(error.answer)
        if limit.cancelled_caught:
            self.counters.clients_late += 1
        return None
