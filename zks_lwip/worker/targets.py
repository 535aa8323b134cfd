"""What a client reaches, for the access log where the operator asks for it (``--log-targets``)."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from ..net.names import join_host_port
from .access_log import AccessLog, timestamp

__all__ = ["TargetLog"]

_MAX_PEERS = 1024
"""Targets of datagrams that are remembered of one session; the oldest are told again."""


class TargetLog:
    """One entry for each TCP stream, at its end, and one for each target of a UDP association.

    :param token: its name.
    :param client: returns the address that the client has now.
    """

    __slots__ = ("_client", "_datagrams", "_log", "_streams", "_token")

    def __init__(self, log: AccessLog, token: str, client: Callable[[], str]) -> None:
        self._log = log
        self._token = token
        self._client = client
        self._streams: dict[int, tuple[str, float]] = {}
        self._datagrams: OrderedDict[tuple[int, str, int], None] = OrderedDict()

    def opened(self, stream: int, host: str, port: int) -> None:
        """Note a stream that was asked for."""
        self._streams[stream] = join_host_port(host, port), time.time()

    def closed(self, stream: int) -> None:
        """Write the entry of a stream."""
        target, begin = self._streams.pop(stream)
        self._log.entry(
            "tcp",
            token=self._token,
            client=self._client(),
            target=target,
            begin=timestamp(begin),
            seconds=max(0.0, time.time() - begin),
        )

    def datagram(self, association: int, host: str, port: int) -> None:
        """Write the entry of a target that an association sends to, the first time."""
        key = association, host, port
        if key in self._datagrams:
            return
        self._datagrams[key] = None
        if len(self._datagrams) > _MAX_PEERS:
            self._datagrams.popitem(last=False)
        target = join_host_port(host, port)
        self._log.entry("udp", token=self._token, client=self._client(), target=target)
