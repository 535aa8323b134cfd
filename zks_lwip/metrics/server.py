"""The HTTP server of the metrics: few connections, each short, whatever the other end does."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

import h11
import trio

from ..carrier.http import HttpRequest, HttpResponse, read_request, respond
from ..errors import ConfigError
from ..net.listen import is_loopback, listen, parse_listen
from ..net.names import join_host_port

if TYPE_CHECKING:
    from prometheus_client.core import Metric

__all__ = ["MetricsServer", "MetricsSource", "listen_for_metrics", "parse_metrics"]

_log = logging.getLogger(__name__)

_MAX_CONNECTIONS = 16
"""At a time; over it the oldest gives way. Prometheus has one."""
_REQUEST_SECONDS = 5.0
"""Until the request has come."""
_ANSWER_SECONDS = 10.0
"""Until the answer has been taken."""
_FRESH = 0.2
"""Seconds for which an answer is given again: a client that asks in a loop costs little."""


class MetricsSource(Protocol):
    """What is measured."""

    async def families(self) -> Iterable[Metric]:
        """Return all metrics, as they are now."""

    def problem(self) -> str | None:
        """Return why it is not ready, in one line; None: it is."""


def parse_metrics(text: str) -> tuple[str, int]:
    """Read ``ADDRESS:PORT``, or a port alone, which is of 127.0.0.1.

    :raises ConfigError: it is neither.
    """
    alone = text.isascii() and text.isdigit()
    try:
        return parse_listen(f"127.0.0.1:{text}" if alone else text)
    except ConfigError as error:
        why = str(error).removeprefix("`listen` ").partition(";")[0]
        raise ConfigError(f"{why}; give for example 127.0.0.1:9100", "metrics") from None


def listen_for_metrics(address: tuple[str, int]) -> socket.socket:
    """Listen, before anything else begins; :class:`MetricsServer` takes the socket over.

    :raises ConfigError: it cannot listen there.
    :raises PrivilegeError: the port needs privilege.
    """
    host, port = address
    try:
        sock, bound = listen(host, port)
    except ConfigError as error:
        raise ConfigError(str(error).replace("`listen`", "`metrics`")) from None
    _log.info("metrics at http://%s/metrics", join_host_port(*bound))
    if not is_loopback(host):
        _log.warning(
            "metrics at %s: all who reach that address read how much goes where, and the names "
            "of tokens",
            join_host_port(*bound),
        )
    return sock


class MetricsServer:
    """Answers ``GET /metrics`` and ``GET /ready`` on a listening socket, which it closes.

    :param process: whether metrics of this process (CPU, memory, descriptors) are of interest.
    """

    def __init__(self, sock: socket.socket, source: MetricsSource, *, process: bool = True) -> None:
        from prometheus_client import CollectorRegistry, ProcessCollector

        self._sock = sock
        self._source = source
        self._registry = CollectorRegistry(auto_describe=False)
        self._snapshot = _Snapshot()
        self._registry.register(self._snapshot)
        if process:
            ProcessCollector(registry=self._registry)
        self._connections: dict[trio.CancelScope, None] = {}
        self._collecting = trio.Lock()
        self._answers: dict[str, tuple[float, HttpResponse]] = {}

    async def run(self) -> None:
        """Serve until cancelled."""
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._sock))
        async with listener:
            await trio.serve_listeners(self._serve, [listener])

    async def _serve(self, stream: trio.SocketStream) -> None:
        if len(self._connections) >= _MAX_CONNECTIONS:
            next(iter(self._connections)).cancel()
        try:
            with trio.CancelScope() as scope:
                self._connections[scope] = None
                try:
                    await self._answer(stream)
                finally:
                    del self._connections[scope]
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            _log.debug("metrics: a client went away: %s", error)
        except Exception:  # a bug costs this answer, not what is measured
            _log.exception("internal error in an answer to a request for metrics")
        finally:
            await trio.aclose_forcefully(stream)

    async def _answer(self, stream: trio.SocketStream) -> None:
        request = None
        with trio.move_on_after(_REQUEST_SECONDS):
            try:
                request = await read_request(stream)
            except h11.RemoteProtocolError:
                await respond(stream, HttpResponse(400, b"this is no HTTP request\n"))
                return
        if request is None:
            return
        with trio.move_on_after(_ANSWER_SECONDS):
            response = await self._response(request)
            await respond(stream, response, with_body=request.method != "HEAD")

    async def _response(self, request: HttpRequest) -> HttpResponse:
        path = request.path.partition("?")[0]
        if path not in ("/metrics", "/ready"):
            return HttpResponse(404, b"there are /metrics and /ready\n")
        if request.method not in ("GET", "HEAD"):
            return HttpResponse(405, b"GET, or HEAD\n", ((b"Allow", b"GET, HEAD"),))
        if path == "/metrics":
            return await self._metrics(request)
        problem = self._source.problem()
        if problem is None:
            return HttpResponse(200, b"ready\n")
        return HttpResponse(503, f"not ready: {problem}\n".encode())

    async def _metrics(self, request: HttpRequest) -> HttpResponse:
        from prometheus_client.exposition import choose_encoder

        accept = (request.header(b"accept") or b"").decode("latin-1")
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # what it asks for has a version that is none
            encode, content_type = choose_encoder("")
        async with self._collecting:
            made, response = self._answers.get(content_type, (0.0, HttpResponse(503)))
            if made and time.monotonic() - made < _FRESH:
                return response
            self._snapshot.families = tuple(await self._source.families())
            headers = ((b"Content-Type", content_type.encode("latin-1")),)
            response = HttpResponse(200, encode(self._registry), headers)
            self._answers = {content_type: (time.monotonic(), response)}
            return response


class _Snapshot:
    """A collector (of prometheus_client) that repeats what was collected before."""

    def __init__(self) -> None:
        self.families: Iterable[Metric] = ()

    def collect(self) -> Iterable[Metric]:
        return self.families
