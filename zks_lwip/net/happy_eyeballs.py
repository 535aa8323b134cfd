"""Happy Eyeballs (RFC 8305): connect to the first of several addresses that answers.

What an attempt is belongs to the caller: its ``connect`` opens a socket, marks it, and asks the
policy where there is one, so that no address is connected to without. :func:`race` decides when
the next attempt starts and which connection wins, and sees to it that all others are closed.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from itertools import zip_longest
from typing import Generic, TypeVar

import trio

__all__ = ["ATTEMPT_DELAY", "interleave", "race"]

ATTEMPT_DELAY = 0.25
"""Seconds until the next address is tried beside the last (RFC 8305 §5)."""

A = TypeVar("A")
C = TypeVar("C")
E = TypeVar("E", bound=Exception)


async def race(
    addresses: Callable[[], Sequence[A]],
    connect: Callable[[A], Awaitable[C]],
    *,
    errors: type[E],
    failed: Callable[[A, E], None],
    discard: Callable[[C], Awaitable[None]],
    more: Sequence[trio.Event] = (),
    delay: float = ATTEMPT_DELAY,
) -> C | None:
    """Return the first connection that is made, or None if every address fails.

    An attempt starts ``delay`` seconds after the one before, or as soon as any fails. The first
    success, or a cancellation, cancels the other attempts; a connection that one of them makes all
    the same is discarded. The caller sets the deadline.

    :param addresses: returns the addresses known by now, best first. Each is tried once.
    :param connect: opens one connection; closes what it opened when it fails or is cancelled.
    :param errors: what ``connect`` raises where another address may do better. Any other exception
        ends the race and is raised as it is.
    :param failed: called with an address and its error.
    :param discard: closes a connection that did not win.
    :param more: events at which more addresses may be known; once all are set, no more come.
    :param delay: seconds.
    """
    known = addresses()
    if len(known) == 1 and all(event.is_set() for event in more):
        try:  # there is no choice: the usual case, without a nursery
            return await connect(known[0])
        except errors as error:
            failed(known[0], error)
            return None
    return await _Race(addresses, connect, errors, failed, discard, more, delay).run()


class _Race(Generic[A, C, E]):
    """One race; the parameters are those of :func:`race`."""

    def __init__(
        self,
        addresses: Callable[[], Sequence[A]],
        connect: Callable[[A], Awaitable[C]],
        errors: type[E],
        failed: Callable[[A, E], None],
        discard: Callable[[C], Awaitable[None]],
        more: Sequence[trio.Event],
        delay: float,
    ) -> None:
        self._addresses = addresses
        self._connect = connect
        self._errors = errors
        self._failed = failed
        self._discard = discard
        self._more = more
        self._delay = delay
        self._tried: set[A] = set()
        self._won: list[C] = []
        self._fatal: Exception | None = None
        self._running = 0
        self._next_attempt = 0.0  # when it is due, by trio's clock
        self._news = trio.Event()

    async def run(self) -> C | None:
        try:
            async with trio.open_nursery() as nursery:
                for event in self._more:
                    if not event.is_set():
                        nursery.start_soon(self._announce, event)
                await self._start_attempts(nursery)
                nursery.cancel_scope.cancel()
            if self._fatal is not None:
                raise self._fatal
        except BaseException:
            for connection in self._won:
                await self._discard(connection)
            raise
        return self._won[0] if self._won else None

    async def _start_attempts(self, nursery: trio.Nursery) -> None:
        """Start one attempt after the other; return when the race is decided."""
        while not self._won and self._fatal is None:
            due = not self._running or trio.current_time() >= self._next_attempt
            untried = [each for each in self._addresses() if each not in self._tried] if due else []
            if untried:
                self._tried.add(untried[0])
                self._running += 1
                nursery.start_soon(self._attempt, untried[0])
                self._next_attempt = trio.current_time() + self._delay
            elif due and not self._running and all(event.is_set() for event in self._more):
                return
            # Past its turn with nothing left to try: only news can help.
            deadline = math.inf if due and not untried else self._next_attempt
            with trio.CancelScope(deadline=deadline):
                await self._news.wait()

    async def _attempt(self, address: A) -> None:
        try:
            connection = await self._connect(address)
        except self._errors as error:
            self._failed(address, error)
            self._next_attempt = 0.0
        except Exception as error:
            self._fatal = error
        else:
            if self._won:
                await self._discard(connection)
            else:
                self._won.append(connection)
        finally:
            self._running -= 1
            self._wake()

    async def _announce(self, event: trio.Event) -> None:
        await event.wait()
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()


def interleave(first: Sequence[A], second: Sequence[A]) -> list[A]:
    """Alternate between two families of addresses, beginning with ``first`` (RFC 8305 §4)."""
    pairs = zip_longest(first, second, fillvalue=None)
    return [each for pair in pairs for each in pair if each is not None]
