"""The way to the worker: addresses, TCP by Happy Eyeballs (RFC 8305), TLS, upgrade.

Every socket can be marked (``SO_MARK``) before it is connected, so that routing keeps it out of the
tunnel it carries. Nothing in here turns certificate verification off.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import ssl
import sys
from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from pathlib import Path

import trio

from .. import __version__
from .._descriptors import is_scarcity, warn_of_scarcity
from ..config import WorkerUrl
from ..errors import (
    AuthError,
    CertificateError,
    ConfigError,
    PrivilegeError,
    TunnelError,
    WorkerNotFound,
    WorkerUnreachable,
)
from .options import TunnelConfig
from .proxy import ask_proxy
from .tcp_info import round_trip, stretched
from .upgrade import upgrade_websocket
from .websocket import UpgradeRefused, WebSocketClosed, WsConnection

__all__ = ["SUBPROTOCOL", "connect_worker", "open_tcp", "tls_context"]

log = logging.getLogger(__name__)

SUBPROTOCOL = "zks-tunnel.v2"

_STAGGER = 0.25  # seconds until the next address is tried beside the last (RFC 8305 §8)
_MAX_ADDRESSES = 16
_SO_MARK: int | None = getattr(socket, "SO_MARK", 36 if sys.platform == "linux" else None)


def tls_context(ca_file: Path | None = None) -> ssl.SSLContext:
    """A verifying client context: the system's roots and ``ca_file``, TLS 1.2 or later, HTTP/1.1.

    Raises ConfigError if ``ca_file`` holds no certificates.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if ca_file is not None:
        try:
            context.load_verify_locations(cafile=ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"--ca-file {ca_file} cannot be used ({error}): give a PEM file of certificates."
            ) from None
    return context


async def connect_worker(
    config: TunnelConfig,
    nursery: trio.Nursery,
    *,
    context: ssl.SSLContext | None = None,
    subprotocol: str | None = SUBPROTOCOL,
    session: str | None = None,
    max_message: int = 1 << 20,
    queue: int = 16,
    slowness: float = 0.0,
) -> WsConnection:
    """Open a WebSocket to the worker; its reader runs in ``nursery``.

    ``context`` is what :func:`tls_context` gave, made here if None, and used for ``wss://``. A
    worker that does not select ``subprotocol`` is an error; None offers none. ``session`` goes into
    ``Zks-Session``. ``slowness`` is the round trip of other connections to the worker in seconds:
    the times of ``config`` are longer where it is. Raises WorkerUnreachable, which is worth another
    try, or AuthError, CertificateError, WorkerNotFound, ConfigError or PrivilegeError, which will
    not pass by themselves.
    """
    worker = config.worker
    if not worker.secure:
        context = None
    elif context is None:
        context = tls_context(config.ca_file)
    tcp = await _open_way(config, slowness)
    headers = [(b"User-Agent", f"zks-lwip/{__version__}".encode())]
    if config.token is not None:
        headers.append((b"Authorization", b"Bearer " + config.token.encode("ascii")))
    if session is not None:
        headers.append((b"Zks-Session", session.encode("ascii")))
    host = f"[{worker.host}]" if ":" in worker.host else worker.host
    default_port = 443 if worker.secure else 80
    try:
        limit = stretched(config.upgrade_timeout, 3, max(slowness, round_trip(tcp.socket)))
        with trio.fail_after(limit):
            stream: trio.abc.Stream = tcp
            if context is not None:
                stream = await _start_tls(tcp, worker, context)
            connection = await upgrade_websocket(
                nursery,
                stream,
                host=host if worker.port == default_port else f"{host}:{worker.port}",
                path=worker.path,
                subprotocols=[] if subprotocol is None else [subprotocol],
                headers=headers,
                max_message=max_message,
                queue=queue,
            )
    except trio.TooSlowError:
        raise WorkerUnreachable(
            f"worker {worker} took the connection but did not finish the upgrade within "
            f"{limit:.3g} s: check that this is a worker, and not overloaded."
        ) from None
    except (WebSocketClosed, trio.BrokenResourceError) as error:
        raise WorkerUnreachable(
            f"worker {worker} closed the connection during the upgrade ({error}): check that a "
            "worker listens on that port, and whether it expects wss:// or ws://."
        ) from None
    except UpgradeRefused as refused:
        raise _explain(refused, worker, config) from None
    if subprotocol is not None and connection.subprotocol != subprotocol:
        await connection.aclose(1002, f"no {subprotocol}")
        raise WorkerNotFound(
            f"{worker} speaks WebSocket, but not {subprotocol}: check the path, update the worker, "
            "or, if it is an original ZKS-Tunnel Worker, say --protocol v1."
        )
    return connection


async def _open_way(config: TunnelConfig, slowness: float) -> trio.SocketStream:
    """TCP to the worker, through the proxy if there is one."""
    limit = stretched(config.connect_timeout, 3, slowness)
    worker, proxy = config.worker, config.proxy
    whom = f"worker {worker}" if proxy is None else f"the proxy {proxy}"
    port = worker.port if proxy is None else proxy.port
    tcp = None
    addresses: Sequence[str] | None = None
    try:
        with trio.fail_after(limit):
            addresses = await (_addresses(config) if proxy is None else _of_proxy(config))
            tcp = await open_tcp(
                addresses, port, mark=config.mark, configure=config.configure_socket
            )
            if proxy is not None:
                await ask_proxy(tcp, proxy, config.address or worker.host, worker.port)
    except BaseException as error:
        if tcp is not None:
            await trio.aclose_forcefully(tcp)
        if isinstance(error, trio.TooSlowError) and addresses is None:
            raise WorkerUnreachable(
                f"the name of {whom} does not resolve (no answer within "
                f"{limit:.3g} s): check this machine's DNS and network."
            ) from None
        if isinstance(error, trio.TooSlowError):
            raise WorkerUnreachable(
                f"{whom} does not answer (nothing within {limit:.3g} s): check "
                "its address, the network and firewalls on the way."
            ) from None
        if is_scarcity(error):
            warn_of_scarcity(f"no connection to {whom} can be opened", error)
            raise WorkerUnreachable(
                f"no connection to {whom} can be opened: {error}; raise the limit of descriptors "
                "(`ulimit -n`, with systemd LimitNOFILE=)."
            ) from None
        if isinstance(error, (OSError, trio.BrokenResourceError)):
            raise WorkerUnreachable(
                f"{whom} cannot be reached ({error}): check that it runs there."
            ) from None
        raise
    return tcp


def _explain(refused: UpgradeRefused, worker: WorkerUrl, config: TunnelConfig) -> TunnelError:
    """One sentence for the answer that was no upgrade."""
    status = refused.status
    if status is None:
        return WorkerNotFound(
            f"{worker} does not answer as a WebSocket server ({refused}): check host and port."
        )
    if status in (401, 403):
        said = "asks for a token" if config.token is None else "does not accept this token"
        if status == 403:
            said = "does not let this client in"
        return AuthError(
            f"worker {worker} {said} ({status}): name a file with a token that it knows with "
            "--token-file."
        )
    if status == 429 or status >= 500:
        return WorkerUnreachable(
            f"worker {worker} cannot serve now ({status}): wait, or look at the worker's log."
        )
    if 300 <= status < 400:
        location = next((v for k, v in refused.headers if k.lower() == b"location"), b"")
        return WorkerNotFound(
            f"{worker} redirects ({status}) to {location[:200].decode('ascii', 'replace')!r}, and "
            "redirects are never followed: name the worker's own URL with --worker."
        )
    kind = next((v for k, v in refused.headers if k.lower() == b"content-type"), b"")
    page = ", a web page" if kind.lower().startswith(b"text/html") else ""
    return WorkerNotFound(
        f"there is no worker at {worker} ({status}{page}): check host, port and path."
    )


async def _start_tls(
    tcp: trio.SocketStream, worker: WorkerUrl, context: ssl.SSLContext
) -> trio.SSLStream[trio.SocketStream]:
    stream = trio.SSLStream(
        tcp,
        context,
        server_hostname=worker.host,
        https_compatible=True,  # lengths are in the frames; many servers send no close_notify
    )
    try:
        await stream.do_handshake()
    except BaseException as error:
        await trio.aclose_forcefully(tcp)
        cause = error.__cause__
        if not isinstance(error, trio.BrokenResourceError) or not isinstance(cause, ssl.SSLError):
            raise
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise CertificateError(
                f"the certificate of {worker} does not verify ({cause.verify_message}): check the "
                "host name and this machine's clock, or name a private authority with --ca-file."
            ) from None
        raise WorkerUnreachable(
            f"no TLS with {worker} ({cause.reason or cause}): check that the port speaks TLS 1.2 "
            "or later, and not ws://."
        ) from None
    return stream


async def _addresses(config: TunnelConfig) -> Sequence[str]:
    """The addresses of the worker, in the order to try them."""
    worker = config.worker
    if config.address is not None:
        found: Sequence[str] = [config.address]
    elif worker.address is not None:
        found = [worker.host]
    else:
        found = await _resolve(config, worker.host, f"worker {worker}")
    if not worker.secure and not config.plaintext:
        found = [each for each in found if _is_loopback(each)]
        if not found:
            raise ConfigError(
                f"{worker} is not encrypted and does not lead to this machine's loopback: use "
                "wss://, or insist with --plaintext."
            )
    return _interleave(found)[:_MAX_ADDRESSES]


async def _of_proxy(config: TunnelConfig) -> Sequence[str]:
    """The addresses of the proxy."""
    proxy = config.proxy
    assert proxy is not None
    if proxy.address is not None:
        return [proxy.host]
    found = await _resolve(config, proxy.host, f"the proxy {proxy}")
    return _interleave(found)[:_MAX_ADDRESSES]


async def _resolve(config: TunnelConfig, host: str, whose: str) -> Sequence[str]:
    """A name's addresses, at least one. Raises WorkerUnreachable."""
    try:
        found = await (config.resolve or _ask_system)(host)
    except OSError as error:
        raise WorkerUnreachable(
            f"the name of {whose} does not resolve ({error.strerror or error}): check its "
            "spelling and this machine's DNS."
        ) from None
    if not found:
        raise WorkerUnreachable(
            f"the name of {whose} has no addresses: check its spelling and DNS."
        )
    return found


async def _ask_system(host: str) -> list[str]:
    infos = await trio.socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in infos))


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _interleave(addresses: Sequence[str]) -> list[str]:
    """Alternate between the families, beginning with the first address's (RFC 8305 §4)."""
    first = [each for each in addresses if (":" in each) == (":" in addresses[0])]
    other = [each for each in addresses if (":" in each) != (":" in addresses[0])]
    pairs = chain.from_iterable(zip_longest(first, other))
    return [each for each in pairs if each is not None]


async def open_tcp(
    addresses: Sequence[str],
    port: int,
    *,
    mark: int | None = None,
    configure: Callable[[trio.socket.SocketType, str, int], None] | None = None,
) -> trio.SocketStream:
    """Connect to the first of ``addresses`` (IP literals) that answers (RFC 8305 §5).

    Sets ``SO_MARK`` to ``mark``, TCP_NODELAY, and calls ``configure`` before connecting. Raises
    OSError that says what each address answered, and PrivilegeError if the mark is not allowed.
    """
    sockets: list[tuple[str, trio.socket.SocketType, tuple[object, ...]]] = []
    failures: list[str] = []
    scarcity: OSError | None = None
    winner: trio.socket.SocketType | None = None

    async def attempt(
        address: str, sock: trio.socket.SocketType, target: object, failed: trio.Event
    ) -> None:
        nonlocal winner
        try:
            await sock.connect(target)
        except OSError as error:
            failures.append(f"{address}: {os.strerror(error.errno) if error.errno else error}")
            failed.set()
        else:
            if winner is None:
                winner = sock
                nursery.cancel_scope.cancel()

    try:
        for address in addresses:
            try:
                made = _make_socket(address, port, mark, configure)
            except OSError as error:
                failures.append(f"{address}: {error.strerror or error}")
                scarcity = error if is_scarcity(error) else scarcity
            else:
                sockets.append((address, *made))
        async with trio.open_nursery() as nursery:
            for address, sock, target in sockets:
                failed = trio.Event()
                nursery.start_soon(attempt, address, sock, target, failed)
                with trio.move_on_after(_STAGGER):
                    await failed.wait()
    finally:
        for _, sock, _ in sockets:
            if sock is not winner:
                sock.close()
    if winner is None:
        raise OSError("; ".join(failures[:4])) from (None if sockets else scarcity)
    log.debug("connected to %s", winner.getpeername())
    return trio.SocketStream(winner)


def _make_socket(
    address: str,
    port: int,
    mark: int | None,
    configure: Callable[[trio.socket.SocketType, str, int], None] | None,
) -> tuple[trio.socket.SocketType, tuple[object, ...]]:
    family, kind, proto, _, target = socket.getaddrinfo(
        address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
    )[0]
    sock = trio.socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if mark is not None:
            _set_mark(sock, mark)
        if configure is not None:
            configure(sock, address, port)
    except BaseException:
        sock.close()
        raise
    return sock, target


def _set_mark(sock: trio.socket.SocketType, mark: int) -> None:
    if _SO_MARK is None:
        raise ConfigError("sockets cannot be marked on this system: leave the mark out.")
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
    except PermissionError:
        raise PrivilegeError(
            f"the mark {mark:#x} cannot be set on a socket: run as root or with CAP_NET_ADMIN."
        ) from None
