"""Connecting to the worker: addresses, TCP by Happy Eyeballs (RFC 8305), TLS, upgrade.

Every socket can be marked (``SO_MARK``) before it is connected, so that routing keeps it out of the
tunnel it carries.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import socket
import ssl
from collections.abc import Callable, Sequence

import trio

from .._version import __version__
from ..carrier.tcp_info import round_trip, stretched
from ..carrier.upgrade import upgrade_websocket
from ..carrier.versions import V2
from ..carrier.websocket import UpgradeRefused, WebSocketClosed, WsConnection
from ..errors import (
    AuthError,
    CertificateError,
    ConfigError,
    PrivilegeError,
    TunnelError,
    WorkerNotFound,
    WorkerUnreachable,
)
from ..net.descriptors import is_scarcity, warn_of_scarcity
from ..net.happy_eyeballs import ATTEMPT_DELAY, interleave, race
from ..net.names import join_host_port
from ..net.sockets import KEEPS_OUT, MarkRefused, open_socket
from ..net.tls import client_context
from ..protocol import Hello
from .endpoint import WorkerUrl
from .options import TunnelConfig
from .proxy import ask_proxy

__all__ = ["connect_worker", "open_tcp", "open_transport"]

_log = logging.getLogger(__name__)


MAX_ADDRESSES = 16
"""Addresses of one name that are tried."""

Configure = Callable[[trio.socket.SocketType, str, int], None]

_REFUSED = (errno.ECONNREFUSED, errno.ECONNRESET)
"""What connect(2) says where the address has answered. All else is the network's silence."""


class _Unconnected(OSError):
    """No address has taken the connection.

    :param answered: one of them has refused it.
    :param nobody_listens: all of them have.
    """

    def __init__(self, message: str, *, answered: bool, nobody_listens: bool) -> None:
        super().__init__(message)
        self.answered = answered
        self.nobody_listens = nobody_listens


async def connect_worker(
    config: TunnelConfig,
    nursery: trio.Nursery,
    *,
    context: ssl.SSLContext | None = None,
    subprotocol: str | None = V2.subprotocol,
    session: str | None = None,
    hello: Callable[[], Hello | None] = lambda: None,
    max_message: int = 1 << 20,
    slowness: float = 0.0,
    on_answer: Callable[[], None] | None = None,
    on_connected: Callable[[float], None] | None = None,
) -> WsConnection:
    """Open a WebSocket to the worker; what answers pings runs in ``nursery``.

    :param context: what :func:`~zks_lwip.net.tls.client_context` gave for ``http/1.1``, used for
        ``wss://``; None: it is made here.
    :param subprotocol: a worker that does not select it is an error; None offers none.
    :param session: goes into ``Zks-Session``.
    :param hello: called when the request is about to leave; what it returns goes into
        ``Zks-Hello``.
    :param max_message: bytes.
    :param slowness: the round trip of other connections to the worker, in seconds; the times of
        ``config`` are stretched by it.
    :param on_answer: called when the worker, or the proxy before it, has taken the connection.
    :param on_connected: called with the seconds that it took to connect, see
        :func:`open_transport`.
    :raises WorkerUnreachable: it is worth another try; see its ``answered``.
    :raises AuthError: this and the following do not pass by themselves.
    :raises CertificateError: the certificate does not verify.
    :raises WorkerNotFound: what answers is no worker.
    :raises ConfigError: the URL, or what its name resolves to, may not be used.
    :raises PrivilegeError: the mark is not allowed.
    """
    worker = config.worker
    if not worker.secure:
        context = None
    elif context is None:
        context = client_context("http/1.1", config.ca_file)
    tcp, began = await _open_path(config, slowness, on_answer)
    headers = [(b"User-Agent", f"zks-lwip/{__version__}".encode())]
    if config.token is not None:
        headers.append((b"Authorization", b"Bearer " + config.token.encode("ascii")))
    if session is not None:
        headers.append((b"Zks-Session", session.encode("ascii")))
    default_port = 443 if worker.secure else 80
    try:
        limit = stretched(config.upgrade_timeout, 3, max(slowness, round_trip(tcp.socket)))
        with trio.fail_after(limit):
            stream: trio.abc.Stream = tcp
            if context is not None:
                stream = await _start_tls(tcp, worker, context)
            if on_connected is not None:
                on_connected(trio.current_time() - began)
            said = hello()
            if said is not None:
                headers.append((b"Zks-Hello", said.encode_header()))
            connection = await upgrade_websocket(
                nursery,
                stream,
                host=join_host_port(
                    worker.host, None if worker.port == default_port else worker.port
                ),
                path=worker.path,
                subprotocols=[] if subprotocol is None else [subprotocol],
                headers=headers,
                max_message=max_message,
                proxied=config.proxy is not None,
            )
    except trio.TooSlowError:
        raise WorkerUnreachable(
            f"worker {worker} took the connection but did not finish the upgrade within "
            f"{limit:.3g} s: check that this is a worker, and not overloaded.",
            answered=False,
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
            "or, if it is an original ZKS-Tunnel Worker, set `protocol` to v1."
        )
    return connection


async def open_transport(
    config: TunnelConfig, context: ssl.SSLContext | None, slowness: float = 0.0
) -> tuple[trio.abc.Stream, float]:
    """Connect to the worker as :func:`connect_worker` does, up to the upgrade.

    :param context: for ``wss://``, see there.
    :returns: the stream, which is TLS for ``wss://``, and the seconds that it took to connect, the
        look-up of its name not among them.
    :raises WorkerUnreachable: this and the following as there.
    :raises CertificateError: the certificate does not verify.
    :raises AuthError: the proxy wants credentials, or others.
    :raises TunnelError: the proxy refuses, or is none.
    :raises ConfigError: what its name resolves to may not be used.
    :raises PrivilegeError: the mark is not allowed.
    """
    tcp, began = await _open_path(config, slowness, None)
    stream: trio.abc.Stream = tcp
    if config.worker.secure:
        context = context or client_context("http/1.1", config.ca_file)
        limit = stretched(config.upgrade_timeout, 2, max(slowness, round_trip(tcp.socket)))
        try:
            with trio.fail_after(limit):
                stream = await _start_tls(tcp, config.worker, context)
        except trio.TooSlowError:
            raise WorkerUnreachable(
                f"worker {config.worker} took the connection but did not finish the handshake of "
                f"TLS within {limit:.3g} s: check that this is a worker, and not overloaded."
            ) from None
    return stream, trio.current_time() - began


async def _open_path(
    config: TunnelConfig, slowness: float, on_answer: Callable[[], None] | None
) -> tuple[trio.SocketStream, float]:
    """Connect TCP to the worker, through the proxy if there is one.

    :returns: the connection, and when its first attempt began (``trio.current_time``).
    """
    limit = stretched(config.connect_timeout, 3, slowness)
    worker, proxy = config.worker, config.proxy
    whom = f"worker {worker}" if proxy is None else f"the proxy {proxy}"
    port = worker.port if proxy is None else proxy.port
    tcp = None
    began = trio.current_time()
    addresses: Sequence[str] | None = None
    try:
        with trio.fail_after(limit):
            addresses = await (_addresses(config) if proxy is None else _of_proxy(config))
            began = trio.current_time()
            tcp = await open_tcp(
                addresses, port, mark=config.mark, configure=config.configure_socket
            )
            if on_answer is not None:
                on_answer()
            if proxy is not None:
                await ask_proxy(tcp, proxy, config.address or worker.host, worker.port)
    except BaseException as error:
        if tcp is not None:
            await trio.aclose_forcefully(tcp)
        if isinstance(error, trio.TooSlowError) and addresses is None:
            raise WorkerUnreachable(
                f"the name of {whom} does not resolve (no answer within "
                f"{limit:.3g} s): check this machine's DNS and network.",
                answered=False,
            ) from None
        if isinstance(error, trio.TooSlowError):
            raise WorkerUnreachable(
                f"{whom} does not answer (nothing within {limit:.3g} s): check "
                "its address, the network and firewalls on the way.",
                answered=False,
            ) from None
        if is_scarcity(error):
            warn_of_scarcity(f"no connection to {whom} can be opened", error)
            raise WorkerUnreachable(
                f"no connection to {whom} can be opened: {error}; raise the limit of descriptors "
                "(`ulimit -n`, with systemd LimitNOFILE=)."
            ) from None
        if isinstance(error, (OSError, trio.BrokenResourceError)):
            raise WorkerUnreachable(
                f"{whom} cannot be reached ({error}): check that it runs there.",
                answered=getattr(error, "answered", True),
                nobody_listens=proxy is None and getattr(error, "nobody_listens", False),
            ) from None
        raise
    return tcp, began


def _explain(refused: UpgradeRefused, worker: WorkerUrl, config: TunnelConfig) -> TunnelError:
    """Say in one sentence what to make of an answer that was no upgrade."""
    status = refused.status
    if status is None:
        return WorkerNotFound(
            f"{worker} does not answer as a WebSocket server ({refused}): check host and port, and "
            "whether it expects wss:// or ws://."
        )
    if status in (401, 403):
        said = "asks for a token" if config.token is None else "does not accept this token"
        if status == 403:
            said = "does not let this client in"
        return AuthError(f"worker {worker} {said} ({status}): give one that it knows with `token`.")
    if status == 429 or status >= 500:
        return WorkerUnreachable(
            f"worker {worker} cannot serve now ({status}): wait, or look at the worker's log.",
            status=status,
        )
    if 300 <= status < 400:
        location = next((v for k, v in refused.headers if k.lower() == b"location"), b"")
        return WorkerNotFound(
            f"{worker} redirects ({status}) to {location[:200].decode('ascii', 'replace')!r}, and "
            "redirects are never followed: name the worker's own URL with `worker`."
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
        if not isinstance(error, trio.BrokenResourceError):
            raise
        cause = error.__cause__
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise CertificateError(
                f"the certificate of {worker} does not verify ({cause.verify_message}): check the "
                "host name and this machine's clock, or name a private authority with `ca_file`."
            ) from None
        # (A server that refuses at once may reset the connection before its alert is read.)
        reason = (isinstance(cause, ssl.SSLError) and cause.reason) or cause or error
        raise WorkerUnreachable(
            f"no TLS with {worker} ({reason}): check that the port speaks TLS 1.2 "
            "or later, and not ws://."
        ) from None
    return stream


async def _addresses(config: TunnelConfig) -> Sequence[str]:
    """Return the addresses of the worker, in the order to try them."""
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
                "wss://, or insist with `plaintext`."
            )
    return _by_family(found)


async def _of_proxy(config: TunnelConfig) -> Sequence[str]:
    """Return the addresses of the proxy, in the order to try them."""
    proxy = config.proxy
    assert proxy is not None
    if proxy.address is not None:
        return [proxy.host]
    found = await _resolve(config, proxy.host, f"the proxy {proxy}")
    return _by_family(found)


async def _resolve(config: TunnelConfig, host: str, whose: str) -> Sequence[str]:
    """Return a name's addresses, at least one.

    :raises WorkerUnreachable: it has none, or they cannot be found.
    """
    try:
        found = await (config.resolve or _ask_system)(host)
    except OSError as error:
        raise WorkerUnreachable(
            f"the name of {whose} does not resolve ({error.strerror or error}): check its "
            "spelling and this machine's DNS.",
            answered=False,
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


def _by_family(addresses: Sequence[str]) -> list[str]:
    """Alternate between the families, beginning with the first address's."""
    first = [each for each in addresses if (":" in each) == (":" in addresses[0])]
    other = [each for each in addresses if (":" in each) != (":" in addresses[0])]
    return interleave(first, other)[:MAX_ADDRESSES]


async def open_tcp(
    addresses: Sequence[str],
    port: int,
    *,
    mark: int | None = None,
    configure: Configure | None = None,
    delay: float = ATTEMPT_DELAY,
) -> trio.SocketStream:
    """Connect to the first of ``addresses`` that answers (RFC 8305 §5), with TCP_NODELAY.

    :param addresses: in text, in the order to try them; no names.
    :param mark: SO_MARK of every socket.
    :param configure: called with a socket, its address and its port before it is connected.
    :param delay: seconds until the next address is tried beside the last.
    :raises OSError: none takes it; says what became of the first ones.
    :raises PrivilegeError: the mark is not allowed.
    """
    failures: list[str] = []
    answered, nobody_listens = False, True
    scarcity: OSError | None = None

    async def connect(address: str) -> trio.SocketStream:
        sock, target = _make_socket(address, port, mark, configure)
        try:
            await sock.connect(target)
        except BaseException:
            sock.close()
            raise
        _log.debug("connected to %s", target)
        return trio.SocketStream(sock)

    def failed(address: str, error: OSError) -> None:
        nonlocal answered, nobody_listens, scarcity
        # What trio says of connect(2) repeats the address; getaddrinfo(3) has codes of its own.
        known = error.errno in errno.errorcode
        text = os.strerror(error.errno or 0) if known else error.strerror or error
        failures.append(f"{address}: {text}")
        answered |= error.errno in _REFUSED
        nobody_listens &= error.errno == errno.ECONNREFUSED
        scarcity = error if is_scarcity(error) else scarcity

    stream = await race(
        lambda: addresses,
        connect,
        errors=OSError,
        failed=failed,
        discard=trio.aclose_forcefully,
        delay=delay,
    )
    if stream is None:
        raise _Unconnected(
            "; ".join(failures[:4]), answered=answered, nobody_listens=nobody_listens
        ) from scarcity
    return stream


def _make_socket(
    address: str, port: int, mark: int | None, configure: Configure | None
) -> tuple[trio.socket.SocketType, tuple[object, ...]]:
    family, kind, proto, _, target = socket.getaddrinfo(
        address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
    )[0]
    if mark is not None and not KEEPS_OUT:
        raise ConfigError("sockets cannot be marked on this system: leave the mark out.")
    try:
        sock = trio.socket.from_stdlib_socket(open_socket(family, kind, mark, proto))
    except MarkRefused:
        raise PrivilegeError(
            f"the mark {mark:#x} cannot be set on a socket: run as root or with CAP_NET_ADMIN."
        ) from None
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if configure is not None:
            configure(sock, address, port)
    except BaseException:
        sock.close()
        raise
    return sock, target
