"""The proxy and its tunnel, put together: no device, no host, no stack.

::

    async with open_proxy(VpnConfig(worker=...), ProxyConfig(port=1080)) as proxy:
        print(proxy.address)
        await trio.sleep_forever()
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import trio

from .._memory import give_back
from .._util import single_error
from ..config import Proxy, VpnConfig, WorkerUrl
from ..errors import ConfigError
from ..host.platform import is_supported
from ..net.listen import is_loopback
from ..proxy import ProxyConfig, ProxyServer
from ..tunnel import Tunnel
from .worker_end import open_worker_end

__all__ = ["RunningProxy", "open_proxy"]


class RunningProxy:
    """A proxy that serves, and whose tunnel is up, or was and will be again."""

    def __init__(self, server: ProxyServer, tunnel: Tunnel) -> None:
        self.address = server.address
        """Address and port on which it listens."""
        self._server = server
        self._tunnel = tunnel

    def reload(self) -> None:
        """Read the password file again, and end what clients have whose names are gone.

        :raises ConfigError: the file cannot be used; what was read before stays in force.
        """
        self._server.reload()

    @property
    def worker(self) -> WorkerUrl:
        """The URL of the worker, of several that in use; the embedded one's has the port it got."""
        return self._tunnel.worker

    def workers(self) -> list[dict[str, Any]]:
        """Return what is known of each worker, see :meth:`zks_lwip.tunnel.Tunnel.workers`."""
        return self._tunnel.workers()

    def abilities(self) -> dict[str, bool]:
        """Return what the worker in use carries, see :meth:`zks_lwip.tunnel.Tunnel.abilities`."""
        return self._tunnel.abilities()

    def sessions(self) -> list[dict[str, Any]]:
        """Return what is known of each session, see :meth:`zks_lwip.tunnel.Tunnel.sessions`."""
        return self._tunnel.sessions()

    @property
    def problem(self) -> str:
        """Why the worker cannot be reached, in one clause; empty while it can, or is not known."""
        return "" if self._tunnel.up else self._tunnel.downtime.problem

    @property
    def up(self) -> bool:
        """Whether the worker can be reached at this moment."""
        return self._tunnel.up

    def counters(self) -> dict[str, Any]:
        """Return counters and gauges of each part: ``proxy``, ``tunnel``.

        ``tasks`` is how many tasks trio runs in all; to be read in the trio thread.
        """
        return {
            "tasks": trio.lowlevel.current_statistics().tasks_living,
            "proxy": self._server.stats(),
            "tunnel": self._tunnel.stats(),
        }


class _NoCapture:
    """The local end where nothing is captured: the tunnel's sockets are like all others."""

    mark = None
    resolve = None


@asynccontextmanager
async def open_proxy(config: VpnConfig, options: ProxyConfig) -> AsyncIterator[RunningProxy]:
    """Serve SOCKS5 and HTTP clients through a worker, for the length of an ``async with``.

    The block is entered when the worker has said HELLO. Until then TunnelError is raised for what
    does not pass by itself (a refused token, a bad certificate, no worker there; of several
    workers, with each of them), and an unreachable worker is tried again; later nothing of that is
    raised.

    :param config: of it, what concerns the worker and the tunnel.
    :raises ConfigError: it cannot listen there, or the password file cannot be used.
    :raises PrivilegeError: the port needs privilege.
    :raises TunnelError: as said above.
    """
    if config.embedded and os.name == "nt":
        raise ConfigError("is needed on Windows, where no worker is started here.", "worker")
    config = replace(config, host_loopback=None)  # which a client on this machine has without
    with single_error():
        async with AsyncExitStack() as parts:
            server = ProxyServer(options)
            parts.callback(server.close)
            for endpoint in config.endpoints:
                _check_loop(endpoint.proxy, server.address)
            for_others = not is_loopback(options.host)
            worker = await parts.enter_async_context(
                open_worker_end(config, _NoCapture(), for_others=for_others)
            )
            max_memory = config.stack.max_memory << 20  # all of it: there is no stack
            tunnel = Tunnel(replace(worker.tunnel, max_memory=max_memory))
            nursery = await parts.enter_async_context(trio.open_nursery())
            nursery.start_soon(give_back, lambda: tunnel.memory)
            nursery.start_soon(worker.watch)
            if is_supported() and not config.embedded:  # that is on loopback
                from .roaming import follow_network

                nursery.start_soon(follow_network, tunnel, None)
            await nursery.start(server.run, tunnel)
            await nursery.start(tunnel.run)
            try:
                yield RunningProxy(server, tunnel)
            finally:
                nursery.cancel_scope.cancel()


def _check_loop(way: Proxy | None, address: tuple[str, int]) -> None:
    """Refuse to reach the worker through ourselves."""
    if way is None or way.port != address[1]:
        return
    host = "127.0.0.1" if way.host == "localhost" else str(way.address)
    anywhere = address[0] in ("0.0.0.0", "::") and way.address is not None
    if host == address[0] or (anywhere and is_loopback(host)):
        raise ConfigError(
            f"HTTPS_PROXY is {way}, which is this proxy itself: unset it here, and set it for the "
            "programs that are to use the proxy."
        )
