"""Addresses of names that are needed before there is a tunnel: the worker's own, first of all.

They are looked up as the applications' names are (hosts file, --dns-static, --dns-forward, then
DNS over HTTPS or TLS), but always from this machine, by marked sockets; never by plain DNS.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import trio

from ..errors import DnsError
from .local import StaticName
from .message.addresses import addresses_in, reason_of
from .message.wire import (
    Type,
    WireError,
    encode_name,
    opt_record,
)
from .options import DnsOptions, Network, make_service
from .upstream.select import Via

__all__ = ["Bootstrap"]

_IN = 1
_HEADER = struct.pack("!HHHHHH", 0, 0x0100, 1, 0, 0, 1)  # RD, one question, an OPT record


class _NoTunnel:
    """The tunnel of resolvers that are asked directly: it is never used."""

    up = False
    silent = False
    hopeless = True

    def slowness(self) -> float:
        return 0.0

    def start_dns_query(self, message: bytes, on_answer: Callable[[bytes | None], None]) -> None:
        return None

    async def dns_query(self, message: bytes) -> bytes:
        raise DnsError("there is no tunnel yet")

    async def connect_tcp(self, host: str, port: int) -> trio.abc.HalfCloseableStream:
        raise DnsError("there is no tunnel yet")


class Bootstrap:
    """Looks names up from this machine; :meth:`run` must be running.

    :param mark: the firewall mark of its sockets.
    :param ca_file: certificates to trust besides the system's.
    :param static: names that are answered here.
    :raises ConfigError: an option is no good.
    """

    def __init__(
        self,
        options: DnsOptions,
        *,
        mark: int | None,
        ca_file: Path | None = None,
        static: Sequence[StaticName] = (),
        hosts: Path | str | None = "/etc/hosts",
    ) -> None:
        self._service = make_service(
            _direct(options),
            _NoTunnel(),
            embedded=False,
            mark=mark,
            ca_file=ca_file,
            static=static,
            hosts=hosts,
            grace=0,
        )

    @staticmethod
    def outside(options: DnsOptions) -> tuple[Network, ...]:
        """Return the addresses that are asked."""
        return _direct(options).outside(embedded=False)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled."""
        await self._service.run(task_status=task_status)

    async def addresses(self, name: str) -> list[str]:
        """Return the addresses of a name, those of IPv6 first; at least one.

        :raises OSError: there is none; the text says why.
        """
        found: dict[Type, list[str] | str] = {}

        async def ask(kind: Type) -> None:
            try:
                question = encode_name(name) + struct.pack("!HH", kind, _IN)
                query = _HEADER + question + opt_record(1232)
                answer = await self._service.resolve(query)
                none = f"the name has no addresses{reason_of(answer)}"
                found[kind] = addresses_in(answer, kind) or none
            except (DnsError, WireError) as error:
                found[kind] = str(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, Type.AAAA)
            nursery.start_soon(ask, Type.A)
        lists = [found[Type.AAAA], found[Type.A]]
        addresses = [address for one in lists if isinstance(one, list) for address in one]
        if not addresses:
            reasons = dict.fromkeys(one for one in lists if isinstance(one, str))
            raise OSError("; ".join(reasons))
        return addresses


def _direct(options: DnsOptions) -> DnsOptions:
    return replace(options, via=Via.DIRECT, block=())
