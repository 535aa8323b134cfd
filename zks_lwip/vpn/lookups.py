"""Addresses of names, while all DNS of the host is captured."""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import trio

from ..config import DnsOptions, VpnConfig
from ..dns.bootstrap import Bootstrap
from ..errors import HostError
from ..host.resolv_conf import read_name_servers
from ..tunnel.tcp_path import ask_system
from .allowed_addresses import needs_names

__all__ = ["LookUps"]

_log = logging.getLogger(__name__)


class LookUps:
    """Looks names up past the capture, by marked sockets, where there is a mark.

    :param mark: SO_MARK of sockets that stay out of the TUN; None: the system's resolver is out of
        it anyhow.
    :param on_found: awaited with each new result of :meth:`resolve`, before it is used.
    :param system: the system's resolver.
    :param resolv_conf: what that reads on Linux, for a message.
    """

    def __init__(
        self,
        config: VpnConfig,
        mark: int | None,
        on_found: Callable[[Sequence[str]], Awaitable[None]],
        *,
        system: Callable[[str], Awaitable[Sequence[str]]] = ask_system,
        resolv_conf: Path = Path("/etc/resolv.conf"),
    ) -> None:
        self._config = config
        self._mark = mark
        self._on_found = on_found
        self._system = system
        self._resolv_conf = resolv_conf
        self._names: Bootstrap | None = None
        self._proxy: dict[str, Sequence[str]] = {}
        self._last: dict[str, Sequence[str]] = {}

    async def find_proxy(self) -> Sequence[str]:
        """Return the addresses of proxies' names, if they have to be looked up, else none.

        It is one of the local network's: ask as the system does, while the host is still open.

        :raises HostError: it does not resolve.
        """
        if self._mark is None:
            return ()
        proxies = [each.proxy for each in self._config.endpoints if each.proxy is not None]
        for host in dict.fromkeys(each.host for each in proxies if each.address is None):
            try:
                self._proxy[host] = await self._system(host)
            except OSError as error:
                raise HostError(
                    f"HTTPS_PROXY: the name {host} does not resolve ({error.strerror}), and once "
                    "the host is closed only its address can be used: write http://ADDRESS:PORT."
                ) from None
        return tuple(address for addresses in self._proxy.values() for address in addresses)

    async def start(self, nursery: trio.Nursery) -> None:
        """Start, in ``nursery``, what asks resolvers past the capture, where that is needed."""
        if self._mark is None or not needs_names(self._config):
            return
        self._names = Bootstrap(
            self._config.dns or DnsOptions(),
            mark=self._mark,
            ca_file=self._config.ca_file,
            static=self._config.dns_static,
        )
        await nursery.start(self._names.run)

    async def resolve(self, name: str) -> Sequence[str]:
        """Return the addresses of a worker, or of a proxy.

        Those of before are given where they cannot be looked up now.

        :raises OSError: there are none.
        """
        if name in self._proxy:
            return self._proxy[name]
        try:
            addresses = self._last[name] = await self.look_up(name)
        except OSError as error:
            if name not in self._last:
                raise
            _log.info("%s cannot be looked up now (%s): trying where it was", name, error)
            return self._last[name]
        await self._on_found(addresses)
        return addresses

    async def look_up(self, name: str) -> Sequence[str]:
        """Return what resolvers say now.

        :raises OSError: nothing, or that there are no addresses.
        """
        if self._names is not None:
            return await self._names.addresses(name)
        try:
            return await self._system(name)
        except OSError as error:
            if sys.platform != "linux":
                raise
            servers = ", ".join(read_name_servers(self._resolv_conf)) or "no server"
            text = f"{error.strerror or error}; {self._resolv_conf} names {servers}"
            raise OSError(error.errno, text) from None
