"""What the worker is asked under a request id: DNS queries and pings (PROTOCOL.md §5)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from ..errors import DnsError, TunnelError
from ..protocol import ClientSession, DnsAnswerReceived, EchoReplyReceived

__all__ = ["OnAnswer", "PendingRequests", "RequestChannel", "Requests"]

_MAX_ID = 2**32 - 1
_FULL = 0.05
"""Seconds to wait where a channel takes no more queries."""


class RequestChannel(Protocol):
    """What requests need of the channel that carries them."""

    session: ClientSession
    requests: trio.CapacityLimiter


OnAnswer = Callable[["bytes | None"], None]
"""Takes the answer to a request; None: it was lost with its channel."""


class _Pending:
    __slots__ = ("answer", "channel", "on_answer", "task")

    def __init__(self, channel: object, on_answer: OnAnswer | None = None) -> None:
        self.channel = channel
        #: Called with the answer, where no task waits for it.
        self.on_answer = on_answer
        self.answer: bytes | None = None
        self.task: trio.lowlevel.Task | None = None


class PendingRequests:
    """The requests of one kind that wait for their answers, over all channels."""

    def __init__(self) -> None:
        self._pending: dict[int, _Pending] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._pending)

    async def ask(self, channel: object, send: Callable[[int], bool]) -> bytes | None:
        """Send a request, and wait for its answer. Cancel to give up; a late answer is ignored.

        :param send: sends it under the id that it is given; returns False if it cannot.
        :returns: the answer; None if the request was not sent, or ``channel`` was lost meanwhile.
        """
        identifier = self._next_id()
        pending = self._pending[identifier] = _Pending(channel)

        def give_up(_raise_cancel: object) -> trio.lowlevel.Abort:
            pending.task = None  # it goes on already: an answer in this moment comes too late
            return trio.lowlevel.Abort.SUCCEEDED

        try:
            if not send(identifier):
                return None
            pending.task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(give_up)
            return pending.answer
        finally:
            del self._pending[identifier]

    def start(
        self, channel: object, send: Callable[[int], bool], on_answer: OnAnswer
    ) -> int | None:
        """Send a request as :meth:`ask`, and call ``on_answer`` later, once.

        :returns: its id, for :meth:`forget`; None: it was not sent.
        """
        identifier = self._next_id()
        if not send(identifier):
            return None
        self._pending[identifier] = _Pending(channel, on_answer)
        return identifier

    def forget(self, identifier: int) -> bool:
        """Give up what was started: its ``on_answer`` is not called; False: it has been."""
        return self._pending.pop(identifier, None) is not None

    def _next_id(self) -> int:
        identifier = self._last % _MAX_ID + 1
        while identifier in self._pending:
            identifier = identifier % _MAX_ID + 1
        self._last = identifier
        return identifier

    def answered(self, identifier: int, answer: bytes) -> bool:
        """Give an answer to what waits for it.

        :returns: False if nothing does.
        """
        pending = self._pending.get(identifier)
        if pending is None:
            return False
        if pending.on_answer is not None:
            del self._pending[identifier]
            pending.on_answer(answer)
            return True
        if pending.task is None:
            return False
        pending.answer = answer
        self._resume(pending)
        return True

    def lost(self, channel: object) -> None:
        """Give None to all that wait for an answer on a channel."""
        for identifier, pending in list(self._pending.items()):
            if pending.channel is not channel:
                continue
            if pending.on_answer is not None:
                if self.forget(identifier):  # unless one before it has given it up
                    pending.on_answer(None)
            elif pending.task is not None:
                self._resume(pending)

    @staticmethod
    def _resume(pending: _Pending) -> None:
        task, pending.task = pending.task, None
        assert task is not None
        trio.lowlevel.reschedule(task)


class Requests:
    """DNS queries and pings through the tunnel.

    :param channel: returns the channel for them; None: there is none now.
    :param wait_up: waits until there is one.
    :param lives: whether a channel is still there.
    :param timeout: seconds within which a DNS query is answered, over as many channels as it takes.
    :param most: how many DNS queries may wait for an answer.
    """

    def __init__(
        self,
        channel: Callable[[], RequestChannel | None],
        wait_up: Callable[[], Awaitable[None]],
        lives: Callable[[RequestChannel], bool],
        *,
        timeout: float = 5.0,
        most: int = 4096,
    ) -> None:
        self._channel = channel
        self._wait_up = wait_up
        self._lives = lives
        self._timeout = timeout
        self._most = most
        self._queries = PendingRequests()
        self._asking = 0
        self._echoes = PendingRequests()

    def on_dns_answer(self, event: DnsAnswerReceived) -> None:
        """Give an answer to the task that has asked."""
        self._queries.answered(event.request, event.message)

    def on_echo_reply(self, event: EchoReplyReceived) -> None:
        """Give a reply to the task that has pinged."""
        self._echoes.answered(event.request, event.payload)

    def lost(self, channel: object) -> None:
        """Let what was asked on a channel go on: it has ended."""
        self._queries.lost(channel)
        self._echoes.lost(channel)

    def start_dns_query(self, message: bytes, on_answer: OnAnswer) -> Callable[[], None] | None:
        """Have the worker resolve a DNS message, without a task, where a channel takes it at once.

        :param on_answer: called later, once; the caller sees to the deadline.
        :returns: what gives it up; None: nothing was done, use :meth:`dns_query`.
        """
        channel = self._channel()
        if channel is None or self._asking >= self._most or not self._lives(channel):
            return None
        limiter, slot = channel.requests, object()
        try:
            limiter.acquire_on_behalf_of_nowait(slot)
        except trio.WouldBlock:
            return None

        def end() -> None:
            limiter.release_on_behalf_of(slot)
            self._asking -= 1

        def finish(answer: bytes | None) -> None:
            end()
            on_answer(answer)

        self._asking += 1
        started = self._queries.start(
            channel, lambda request: channel.session.dns_query(request, message), finish
        )
        if started is None:
            end()
            return None
        identifier = started

        def give_up() -> None:
            if self._queries.forget(identifier):
                end()

        return give_up

    async def dns_query(self, message: bytes) -> bytes:
        """Have the worker resolve a DNS message, and return its answer.

        :raises DnsError: if none comes in time, too many are in flight, or the worker has no DNS.
        """
        if self._asking >= self._most:
            raise DnsError("too many DNS queries are in flight: this one was not sent.")
        self._asking += 1
        try:
            with trio.move_on_after(self._timeout):
                while True:  # a query is lost with its channel, and asked again on the next
                    answer = await self._ask(message)
                    if answer is not None:
                        return answer
        finally:
            self._asking -= 1
        raise DnsError(f"the worker did not answer a DNS query within {self._timeout:g} s.")

    async def _ask(self, message: bytes) -> bytes | None:
        channel = self._channel()
        if channel is None:
            await self._wait_up()
            return None
        peer = channel.session.peer
        if peer is None or not peer.dns:
            raise DnsError("this worker answers no DNS queries.")
        async with channel.requests:
            if not self._lives(channel):
                return None
            answer = await self._queries.ask(
                channel, lambda request: channel.session.dns_query(request, message)
            )
        if answer is None and self._lives(channel):
            await trio.sleep(_FULL)  # it takes no more now
        return answer

    async def echo(self, host: str, payload: bytes, timeout: float = 10.0) -> bytes:
        """Have the worker ping a host, and return the payload of the reply.

        :param host: an IP literal.
        :param timeout: seconds.
        :raises TunnelError: if the worker does not ping, or no reply came in time.
        """
        channel = self._channel()
        answer = None
        if channel is not None:
            with trio.move_on_after(timeout):
                answer = await self._echoes.ask(
                    channel, lambda request: channel.session.echo(request, host, payload)
                )
        if answer is None:
            raise TunnelError("no reply to an ICMP echo request came through the worker.")
        return answer
