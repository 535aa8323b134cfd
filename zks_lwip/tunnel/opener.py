"""Opening a channel: to the worker that is in use, or to the next that answers."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import trio

from ..errors import ZksError
from ..net.happy_eyeballs import race
from ..net.tls import client_context
from ..protocol import Budget, Settings
from .channel import Channel, ChannelOwner
from .channels import Channels
from .options import TunnelConfig
from .workers import KnownWorker

__all__ = ["Opener"]

_MIN_WINDOW = 16 << 10
"""Bytes of credit that every stream has."""
_FIRST_CREDIT = 1 << 20
"""Bytes of credit, at most, that a stream starts with."""
_KEPT_PART = 4
"""The part of the memory that is for what sessions keep: twice what is on its way, which fills 100
Mbit/s over a second's round trip with the default."""


class _DialFailed(Exception):
    """A worker could not be connected to: ``error`` says why."""

    def __init__(self, error: ZksError) -> None:
        super().__init__(str(error))
        self.error = error


class Opener:
    """Opens the channels of a tunnel, with what they share.

    :param settings: of their sessions; None: those of a tunnel with this configuration.
    :param on_failed: called for each worker that could not be connected to, and why.
    :param on_passed_over: called for each that another, asked later, was faster than.
    """

    def __init__(
        self,
        config: TunnelConfig,
        channels: Channels,
        settings: Settings | None,
        *,
        on_failed: Callable[[KnownWorker, ZksError], None],
        on_passed_over: Callable[[KnownWorker], None],
    ) -> None:
        kept = config.max_memory // _KEPT_PART if config.resume else 0
        #: Bounds the credit of all streams together.
        self.budget = Budget(config.max_memory - kept, opening=_FIRST_CREDIT)
        #: Bounds what sessions keep together until the worker has acknowledged it.
        self.kept_budget = Budget(kept)
        self._ca_file = config.ca_file
        self._secure = any(each.config.worker.secure for each in channels.workers.all)
        #: Of TLS; None: there is none.
        self.context = self.read_context()
        self._settings = settings or Settings(window=_MIN_WINDOW, resume=config.resume)
        self._channels = channels
        self._on_failed = on_failed
        self._on_passed_over = on_passed_over
        self._dialling: set[trio.CancelScope] = set()

    def read_context(self) -> ssl.SSLContext | None:
        """Return a context of TLS with the certificates that are in the files now.

        :raises ConfigError: ``ca_file`` holds none.
        """
        return client_context("http/1.1", self._ca_file) if self._secure else None

    def give_up(self) -> None:
        """Give up the attempts that are being made; each of their :meth:`open` returns None."""
        for dialling in self._dialling:
            dialling.cancel()

    async def open(
        self, owner: ChannelOwner, nursery: trio.Nursery, outage: float | None
    ) -> Channel | None:
        """Open a channel; it is to be run.

        :param nursery: where the readers of its WebSockets run.
        :param outage: as of :meth:`Channel.open`.
        :returns: None if no worker can be connected to.
        """
        with trio.CancelScope() as dialling:
            self._dialling.add(dialling)
            try:
                return await self._open(owner, nursery, outage)
            finally:
                self._dialling.discard(dialling)
        return None

    async def _open(
        self, owner: ChannelOwner, nursery: trio.Nursery, outage: float | None
    ) -> Channel | None:
        channels = self._channels
        order = channels.workers.to_dial(trio.current_time(), any_of_them=not channels.usable)
        tried: dict[KnownWorker, Channel | None] = {}

        async def connect(worker: KnownWorker) -> Channel:
            tried[worker] = None
            try:
                channel = await Channel.open(
                    worker.config,
                    owner,
                    nursery,
                    context=self.context,
                    settings=self._settings,
                    budget=self.budget,
                    kept_budget=self.kept_budget,
                    slowness=channels.path(worker).round_trip,
                    outage=outage,
                    on_connected=worker.connected,
                )
            except ZksError as error:
                raise _DialFailed(error) from None
            tried[worker] = channel
            return channel

        def failed(worker: KnownWorker, failure: _DialFailed) -> None:
            del tried[worker]
            if outage is not None and not getattr(failure.error, "answered", True):
                worker.steady()  # there were many attempts already: the next ones follow at once
            self._on_failed(worker, failure.error)

        channel = await race(
            lambda: order,
            connect,
            errors=_DialFailed,
            failed=failed,
            discard=lambda channel: channel.connection.abort(),
            delay=order[0].hedge if order else 0.0,
        )
        for worker, opened in tried.items():
            if opened is channel and channel is not None:
                channels.opened(channel, worker)
            elif opened is None:
                self._on_passed_over(worker)
        return channel
