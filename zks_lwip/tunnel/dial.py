"""Connecting to the worker: TLS and the upgrade, over what :mod:`.tcp_path` has connected."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import trio

from .._version import __version__
from ..carrier.tcp_info import round_trip, stretched
from ..carrier.upgrade import upgrade_websocket
from ..carrier.versions import V2
from ..carrier.websocket import UpgradeRefused, WebSocketClosed, WsConnection
from ..errors import (
    AuthError,
    CertificateError,
    TunnelError,
    WorkerNotFound,
    WorkerUnreachable,
)
from ..net.fast_open import is_deferred
from ..net.names import join_host_port
from ..net.tls import client_context
from ..protocol import Hello
from .endpoint import WorkerUrl
from .options import TunnelConfig
from .tcp_path import open_path

__all__ = ["connect_worker", "open_transport"]


async def connect_worker(
    config: TunnelConfig,
    nursery: trio.Nursery,
    *,
    context: ssl.SSLContext | None = None,
    subprotocol: str | None = V2.subprotocol,
    session: str | None = None,
    hello: Callable[[bool], Hello | None] = lambda unanswered: None,
    early: bool = False,
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
    :param hello: called when the request is about to leave, with True when it is to leave with the
        SYN; what it returns goes into ``Zks-Hello``.
    :param early: as of :func:`~.tcp_path.open_path`.
    :param max_message: bytes.
    :param slowness: the round trip of other connections to the worker, in seconds; the times of
        ``config`` are stretched by it.
    :param on_answer: called when the worker, or the proxy before it, has taken the connection.
    :param on_connected: called with the seconds that it took to connect, see
        :func:`open_transport`; not where ``early``.
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
    tcp, began = await open_path(config, slowness, on_answer, early=early)
    unanswered = early and is_deferred(tcp.socket)
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
                if unanswered and on_answer is not None:
                    on_answer()
                unanswered = False
            if on_connected is not None and not early:
                on_connected(trio.current_time() - began)
            said = hello(unanswered)
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
            if unanswered and on_answer is not None:
                on_answer()
    except trio.TooSlowError:
        raise WorkerUnreachable(
            f"worker {worker} took the connection but did not finish the upgrade within "
            f"{limit:.3g} s: check that this is a worker, and not overloaded.",
            answered=False,
        ) from None
    except (WebSocketClosed, trio.BrokenResourceError) as error:
        raise WorkerUnreachable(
            f"worker {worker} closed the connection during the upgrade ({error}): check that a "
            "worker listens on that port, and whether it expects wss:// or ws://.",
            answered=not unanswered,  # of SYNs without data it is told what came of them
        ) from None
    except WorkerUnreachable as error:  # of TLS
        error.answered &= not unanswered
        raise
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
    tcp, began = await open_path(config, slowness, None)
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
            "redirects are never followed: name the worker's own URL with `worker`, or log in to "
            "this network first, if it asks for that."
        )
    kind = next((v for k, v in refused.headers if k.lower() == b"content-type"), b"")
    is_page = kind.lower().startswith(b"text/html")
    page = ", a web page" if is_page else ""
    # So does a network answer where one has to log in first.
    portal = ", and whether this network asks for a login" if is_page and status == 200 else ""
    return WorkerNotFound(
        f"there is no worker at {worker} ({status}{page}): check host, port and path{portal}."
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
            why = cause.verify_message.rstrip(".")
            raise CertificateError(
                f"the certificate of {worker} does not verify ({why}): check the host name, "
                "this machine's clock, and whether this network asks for a login, or name a "
                "private authority with `ca_file`."
            ) from None
        # (A server that refuses at once may reset the connection before its alert is read.)
        reason = (isinstance(cause, ssl.SSLError) and cause.reason) or cause or error
        raise WorkerUnreachable(
            f"no TLS with {worker} ({reason}): check that the port speaks TLS 1.2 "
            "or later, and not ws://."
        ) from None
    return stream
