"""The worker: is it reached, does TLS verify, is the token right, and what does it carry."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any

import h11
import trio

from .._util import single_error
from .._version import __version__
from ..carrier.tcp_info import carrier_of
from ..config import Protocol, VpnConfig, WorkerEndpoint
from ..errors import (
    AuthError,
    CertificateError,
    ConfigError,
    TunnelError,
    WorkerNotFound,
    WorkerUnreachable,
    ZksError,
)
from ..net.names import join_host_port
from ..net.tls import client_context
from ..protocol import Hello
from ..tunnel import Tunnel
from ..tunnel.dial import open_transport
from ..tunnel.options import TunnelConfig
from .download import Download, measure
from .finding import Finding, failed, noted, warned, well
from .names import look_up

__all__ = ["examine_worker"]

_DAY = 86400
_SOON = 14 * _DAY
"""A certificate that ends within this time is told."""
_MAX_SKEW = 120.0
"""Seconds by which clocks may differ; names and certificates notice hours."""
_FEW_STREAMS = 64
"""Fewer connections on a WebSocket than this are a limit that one meets."""
_SMALL_MTU = 1280
_IP_MTU, _IPV6_MTU = 14, 24  # of ip(7) and ipv6(7)
_MAX_HEAD = 16384
_HELLO_SECONDS = 20.0
_OPTIONS = {
    AuthError: "token",
    CertificateError: "TLS",
    WorkerNotFound: "worker",
    WorkerUnreachable: "worker",
}


async def examine_worker(
    config: VpnConfig,
    endpoint: WorkerEndpoint,
    source: Download | None,
    *,
    as_connect: bool = True,
) -> AsyncGenerator[Finding, None]:
    """Look at one worker, from its name to what it carries; ends where it goes no further.

    :param source: what to download through it; None: nothing.
    :param as_connect: as of :func:`~.names.look_up`.
    """
    resolve = None
    if not (endpoint.url.address or endpoint.address or endpoint.proxy):
        finding, addresses = await look_up(config, endpoint.url.host, as_connect=as_connect)
        yield finding
        if not addresses:
            return
        resolve = partial(_known, addresses)
    alone = TunnelConfig(
        url=endpoint.url,
        token=config.token if endpoint.token is None else endpoint.token,
        ca_file=config.ca_file,
        plaintext=config.plaintext,
        protocol=config.protocol,
        address=None if endpoint.address is None else str(endpoint.address),
        proxy=endpoint.proxy,
        resolve=resolve,
    )
    reached = False
    async with aclosing(_reach(alone)) as findings:
        async for finding in findings:
            reached = True
            yield finding
            if finding.remedy and finding.name in ("worker", "TLS"):
                return
    if not reached:
        return
    async with aclosing(_use(alone, source)) as findings:
        async for finding in findings:
            yield finding


async def _known(addresses: Sequence[str], name: str) -> Sequence[str]:
    return addresses


async def _reach(config: TunnelConfig) -> AsyncGenerator[Finding, None]:
    """Connect, shake hands, and ask what time it is there."""
    worker = config.worker
    context = client_context("http/1.1", config.ca_file) if worker.secure else None
    try:
        stream, seconds = await open_transport(config, context)
    except ZksError as error:
        yield _explain(error)
        return
    try:
        via = "" if config.proxy is None else f", through the proxy {config.proxy}"
        sock = carrier_of(stream)
        far = "" if sock is None else _address_of(sock)
        yield well(
            "worker",
            f"{worker}{far} takes connections: {seconds * 1e3:.0f} ms{via}",
        )
        if isinstance(stream, trio.SSLStream):
            yield _certificate(stream)
        else:
            yield noted("TLS", "none (ws://): token and traffic can be read on the way")
        if sock is not None:
            yield _mtu(sock)
        with trio.move_on_after(10):
            async with aclosing(_health(stream, config)) as findings:
                async for finding in findings:
                    yield finding
    finally:
        await trio.aclose_forcefully(stream)


def _address_of(sock: trio.socket.SocketType) -> str:
    """Return `` at ADDRESS``, of the other end; empty if it has hung up already."""
    try:
        return f" at {sock.getpeername()[0]}"
    except OSError:
        return ""


def _certificate(stream: Any) -> Finding:
    certificate = stream.getpeercert()
    left = ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()
    issuer = {key: value for part in certificate.get("issuer", ()) for key, value in part}
    by = issuer.get("organizationName") or issuer.get("commonName") or "?"
    text = f"{stream.version()}, certificate by {by}, for another {left / _DAY:.0f} days"
    if left < _SOON:
        return warned("certificate", text, "have the worker's certificate renewed")
    return well("TLS", text)


def _mtu(sock: trio.socket.SocketType) -> Finding:
    v6 = sock.family == socket.AF_INET6
    try:
        mtu = sock.getsockopt(
            *((socket.IPPROTO_IPV6, _IPV6_MTU) if v6 else (socket.IPPROTO_IP, _IP_MTU))
        )
    except OSError as error:
        return noted("MTU", f"of the way to the worker: not known ({error.strerror})")
    text = f"packets of up to {mtu} bytes on the way to the worker"
    if mtu < _SMALL_MTU:
        return warned("MTU", text, f"below {_SMALL_MTU} much is slow: look at the link's settings")
    return well("MTU", text)


async def _health(stream: trio.abc.Stream, config: TunnelConfig) -> AsyncGenerator[Finding, None]:
    """Ask ``GET /health``: what time is it there?"""
    worker = config.worker
    default_port = 443 if worker.secure else 80
    host = join_host_port(worker.host, None if worker.port == default_port else worker.port)
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
    request = h11.Request(
        method="GET",
        target=f"{worker.path.rpartition('/')[0]}/health",
        headers=[
            ("Host", host),
            ("User-Agent", f"zks-lwip/{__version__}"),
            ("Connection", "close"),
        ],
    )
    try:
        await stream.send_all(
            (client.send(request) or b"") + (client.send(h11.EndOfMessage()) or b"")
        )
        while (event := client.next_event()) is h11.NEED_DATA:
            client.receive_data(bytes(await stream.receive_some(4096)))
    except (trio.BrokenResourceError, h11.RemoteProtocolError) as error:
        yield noted("health", f"`GET /health` is not answered: {error}")
        return
    if not isinstance(event, h11.Response):
        yield noted("health", "`GET /health` is not answered")
        return
    if event.status_code >= 500:
        yield warned(
            "health", f"the worker cannot serve now ({event.status_code})", "look at its log"
        )
    dates = [value.decode("ascii", "replace") for name, value in event.headers if name == b"date"]
    if not dates:
        return
    try:
        skew = time.time() - parsedate_to_datetime(dates[0]).timestamp()
    except (ValueError, TypeError, OverflowError):
        return
    if abs(skew) > _MAX_SKEW:
        which = "ahead of" if skew > 0 else "behind"
        yield warned(
            "clock",
            f"{abs(skew):.0f} s {which} the worker's",
            "set the clock (`sudo timedatectl set-ntp true`), here or there",
        )
    else:
        yield well("clock", f"within {max(1, round(abs(skew)))} s of the worker's")


def _explain(error: ZksError) -> Finding:
    """Return what an error that names its remedy behind a colon says."""
    name = next((name for kind, name in _OPTIONS.items() if isinstance(error, kind)), "worker")
    text, colon, remedy = str(error).rpartition(": ")
    if not colon:
        text, remedy = str(error), "look at the worker, and at the way to it"
    return failed(name, text, remedy)


@asynccontextmanager
async def _session(config: TunnelConfig) -> AsyncIterator[tuple[Tunnel, Hello]]:
    """Open a tunnel of one session.

    :raises ZksError: there is none.
    """
    tunnel = Tunnel(config)
    with single_error() as bodies:
        async with trio.open_nursery() as nursery:
            hello = None
            with trio.move_on_after(_HELLO_SECONDS):
                hello = await nursery.start(tunnel.run)
            if hello is None:
                raise WorkerUnreachable(
                    tunnel.downtime.problem or "no session was opened: look at the worker's log"
                )
            try:
                yield tunnel, hello
            except BaseException as error:
                bodies.append(error)
                raise
            finally:
                nursery.cancel_scope.cancel()


async def _use(config: TunnelConfig, source: Download | None) -> AsyncGenerator[Finding, None]:
    """Open a session, and see what it carries."""
    findings: list[Finding] = []
    try:
        async with _session(config) as (tunnel, hello):
            findings += _hello(config, hello)
            findings.append(await _round_trip(tunnel, hello))
            findings.append(await _throughput(tunnel, source))
    except (TunnelError, ConfigError) as error:
        findings.append(_explain(error))
    for finding in findings:
        yield finding


def _hello(config: TunnelConfig, hello: Hello) -> list[Finding]:
    """Return what a worker says of itself."""
    token = "the token is accepted" if config.token is not None else "it asks for no token"
    version = "1, an original ZKS-Tunnel Worker: TCP and DNS only"
    v1 = config.protocol is Protocol.V1
    found = [
        well("token", token),
        noted("version", f"protocol {version}", "deploy a worker of version 2")
        if v1
        else well("version", f"protocol {hello.version}"),
        well("UDP", f"carried, {hello.associations} associations at a time")
        if hello.udp
        else warned(
            "UDP",
            "not carried: QUIC falls back to TCP, games and calls that need UDP fail",
            "use a worker on a server (`zks-lwip worker`): a Cloudflare Worker has no UDP",
        ),
        well("IPv6", "carried")
        if hello.ipv6
        else noted("IPv6", "the worker has none: it is refused at once, and programs use IPv4"),
        well("ping", "carried")
        if hello.icmp
        else noted(
            "ping",
            "not carried",
            "at the worker: `sysctl -w net.ipv4.ping_group_range='0 2147483647'`",
        ),
    ]
    limit = f"{hello.streams} connections on each WebSocket"
    if hello.streams < _FEW_STREAMS:
        found.append(
            noted(
                "connections",
                f"{limit}, as a Cloudflare Worker may have; more WebSockets are opened as needed",
            )
        )
    else:
        found.append(well("connections", f"up to {limit}"))
    if hello.resume:
        found.append(well("resume", f"open connections outlive the network for {hello.resume} s"))
    return found


async def _round_trip(tunnel: Tunnel, hello: Hello) -> Finding:
    """Time a question that the worker answers by itself, or ask the kernel."""
    if hello.dns:
        query = b"\0\0\1\0\0\1\0\0\0\0\0\0\0\0\2\0\1"  # the root's name servers
        began = trio.current_time()
        try:
            with trio.fail_after(5):
                await tunnel.dns_query(query)
        except (ZksError, trio.TooSlowError) as error:
            return warned(
                "DNS",
                f"the worker's name servers do not answer ({error or 'nothing within 5 s'})",
                "look at the worker's resolv.conf, or name one with its `resolvers`",
            )
        asked = trio.current_time() - began
        trip = next((each["round_trip"] for each in tunnel.sessions() if each["round_trip"]), 0.0)
        text = f"{trip * 1e3:.0f} ms to the worker, " if trip else ""
        return well("round trip", f"{text}{asked * 1e3:.0f} ms with a question to its name server")
    trip = next((each["round_trip"] for each in tunnel.sessions() if each["round_trip"]), 0.0)
    if not trip:
        return noted("round trip", "not known on this system")
    return well("round trip", f"{trip * 1e3:.0f} ms to the worker")


async def _throughput(tunnel: Tunnel, source: Download | None) -> Finding:
    if source is None:
        return noted(
            "throughput",
            "not measured",
            "name a large file that may be downloaded: `download` https://HOST/FILE",
        )
    try:
        count, seconds = await measure(tunnel, source)
    except (OSError, trio.BrokenResourceError, ValueError) as error:
        return failed("throughput", f"{source.url}: {error}", "name another file")
    rate = count * 8 / max(seconds, 1e-6) / 1e6
    return well("throughput", f"{rate:.1f} Mbit/s down: {count / 1e6:.1f} MB in {seconds:.1f} s")
