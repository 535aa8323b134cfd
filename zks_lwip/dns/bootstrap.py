"""Addresses of names that are needed before there is a tunnel: the worker's own, first of all.

They are looked up as the applications' names are (hosts file, --dns-static, --dns-forward, then
DNS over HTTPS or TLS), but always from this machine, by marked sockets; never by plain DNS.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import trio

from zks_lwip.dns.options import DnsOptions, Network, make_service
from zks_lwip.dns.upstreams import Via
from zks_lwip.dns.wire import (
    Option,
    Rcode,
    Type,
    WireError,
    encode_name,
    opt_record,
    split_options,
    walk,
)
from zks_lwip.errors import DnsError

__all__ = ["Bootstrap", "addresses_in"]

_IN = 1
_HEADER = struct.pack("!HHHHHH", 0, 0x0100, 1, 0, 0, 1)  # RD, one question, an OPT record


class _NoTunnel:
    """What the resolvers that are asked from here have no use for."""

    up = False
    hopeless = True

    def slowness(self) -> float:
        return 0.0

    async def dns_query(self, message: bytes) -> bytes:
        raise DnsError("there is no tunnel yet")

    async def connect_tcp(self, host: str, port: int) -> trio.abc.HalfCloseableStream:
        raise DnsError("there is no tunnel yet")


class Bootstrap:
    """Looks names up from this machine; :meth:`run` must be running.

    `mark` is the firewall mark of its sockets, `ca_file` holds certificates to trust besides the
    system's, `static` are texts NAME=ADDRESS. Raises :class:`~zks_lwip.errors.ConfigError`.
    """

    def __init__(
        self,
        options: DnsOptions,
        *,
        mark: int | None,
        ca_file: Path | None = None,
        static: Sequence[str] = (),
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
        """The addresses that are asked."""
        return _direct(options).outside(embedded=False)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled."""
        await self._service.run(task_status=task_status)

    async def addresses(self, name: str) -> list[str]:
        """The addresses of a name, those of IPv6 first; at least one.

        Raises OSError, with a text that says why there is none.
        """
        found: dict[Type, list[str] | str] = {}

        async def ask(kind: Type) -> None:
            try:
                question = encode_name(name) + struct.pack("!HH", kind, _IN)
                query = _HEADER + question + opt_record(1232)
                answer = await self._service.resolve(query)
                none = f"the name has no addresses{_reason(answer)}"
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


def addresses_in(message: bytes, kind: Type) -> list[str]:
    """The addresses in an answer to a query for A or AAAA records.

    Raises :class:`WireError` for a malformed answer, :class:`~zks_lwip.errors.DnsError` for one
    that says that there is no such name, or that nobody knows.
    """
    layout = walk(message)
    code = message[3] & 15
    if code == Rcode.NXDOMAIN:
        raise DnsError("there is no such name" + _reason(message))
    if code != Rcode.NOERROR:
        raise DnsError("no resolver could tell" + _reason(message))
    size = 4 if kind == Type.A else 16
    found = []
    for offset, _, section, record in layout.ttls:
        (length,) = struct.unpack_from("!H", message, offset + 4)
        if section == 1 and record == kind and length == size:
            raw = message[offset + 6 : offset + 6 + size]
            found.append(str(ipaddress.ip_address(raw)))
    return list(dict.fromkeys(found))


def _reason(message: bytes) -> str:
    """The text of an extended DNS error (RFC 8914), such as our service adds."""
    layout = walk(message)
    start = layout.opt + 11
    options = split_options(message[start : layout.opt_end]) if layout.opt else []
    texts = [value[2:].decode("utf-8", "replace") for code, value in options if code == Option.EDE]
    return "".join(f": {text}" for text in texts if text)
