"""What the worker is asked on behalf of applications: DNS queries and pings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from ..errors import DnsError, TunnelError
from ._requests import Requests
from .frames import DnsResponse, EchoReply

if TYPE_CHECKING:
    from .channel import Channel

__all__ = ["Questions"]

_DNS_TIMEOUT = 5.0
_MOST_QUESTIONS = 4096
_FULL = 0.05  # seconds to wait where a channel takes no more questions


class Questions:
    """Those in flight. ``channel`` gives the channel for them, if there is one, ``wait_up`` waits
    for one, ``lives`` says whether one is still there.
    """

    def __init__(
        self,
        channel: Callable[[], Channel | None],
        wait_up: Callable[[], Awaitable[None]],
        lives: Callable[[Channel], bool],
    ) -> None:
        self._channel = channel
        self._wait_up = wait_up
        self._lives = lives
        self._queries = Requests()
        self._asking = 0
        self._echoes = Requests()

    def on_dns_response(self, frame: DnsResponse) -> None:
        self._queries.answered(frame.request, bytes(frame.message))

    def on_echo_reply(self, frame: EchoReply) -> None:
        self._echoes.answered(frame.request, bytes(frame.payload))

    def lost(self, channel: Channel) -> None:
        """A channel has ended, and with it what was asked there."""
        self._queries.lost(channel)
        self._echoes.lost(channel)

    async def dns_query(self, message: bytes) -> bytes:
        """Have the worker resolve a DNS message; its answer. Raises DnsError after 5 s."""
        if self._asking >= _MOST_QUESTIONS:
            raise DnsError("too many DNS queries are in flight: this one was not sent.")
        self._asking += 1
        try:
            with trio.move_on_after(_DNS_TIMEOUT):
                while True:  # a query is lost with its channel, and asked again on the next
                    answer = await self._ask(message)
                    if answer is not None:
                        return answer
        finally:
            self._asking -= 1
        raise DnsError(f"the worker did not answer a DNS query within {_DNS_TIMEOUT:g} s.")

    async def _ask(self, message: bytes) -> bytes | None:
        channel = self._channel()
        if channel is None:
            await self._wait_up()
            return None
        peer = channel.session.peer
        if peer is None or not peer.dns:
            raise DnsError("this worker answers no DNS queries.")
        async with channel.questions:
            if not self._lives(channel):
                return None
            answer = await self._queries.ask(
                channel, lambda request: channel.session.dns_query(request, message)
            )
        if answer is None and self._lives(channel):
            await trio.sleep(_FULL)  # it takes no more now
        return answer

    async def echo(self, host: str, payload: bytes, timeout: float = 10.0) -> bytes:
        """Have the worker ping ``host`` (an IP literal); the payload of the reply.

        Raises TunnelError if the worker does not, or no reply came within ``timeout`` seconds.
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
