"""HELLO on each WebSocket of a session: it begins, is resumed, or starts afresh (PROTOCOL.md §3,
§6)."""

from __future__ import annotations

import hmac
import secrets
from dataclasses import replace

from ..errors import ProtocolError
from .events import Event, SessionReady, SessionResumed, StreamReset
from .hello import Hello
from .kept import Kept
from .outbox import Outbox
from .sender import Sender
from .settings import Role, Settings
from .stream_table import StreamTable
from .taken import Taken

__all__ = ["Greeting"]


class Greeting:
    """What the two HELLOs have settled, and what each of them does."""

    __slots__ = (
        "_announced",
        "_attempts",
        "_client",
        "_kept",
        "_outbox",
        "_role",
        "_sender",
        "_settings",
        "_settled",
        "_streams",
        "_taken",
        "early",
        "id",
        "peer",
        "resumes",
        "seconds",
    )

    def __init__(
        self,
        role: Role,
        settings: Settings,
        *,
        streams: StreamTable,
        outbox: Outbox,
        sender: Sender,
        kept: Kept,
        taken: Taken,
    ) -> None:
        self.peer: Hello | None = None
        """The peer's HELLO, the first of the session."""
        self.id: str | None = None
        """The id of the session, once HELLO has named it."""
        self.seconds = 0
        """Seconds for which the session outlives its WebSocket."""
        self.resumes = 0
        """How often it has been resumed."""
        self.early = False
        """The request of this WebSocket has said our HELLO: the answer to the frame that says it
        again tells nothing of the round trip."""
        self._attempts = 0  # at resuming it
        self._announced: Hello | None = None
        self._settled = False
        self._client = role is Role.CLIENT
        self._role = role
        self._settings = settings
        self._streams = streams
        self._outbox = outbox
        self._sender = sender
        self._kept = kept
        self._taken = taken

    @property
    def resumable(self) -> bool:
        """The session outlives its WebSocket: both ends agreed, and know which it is."""
        return self.seconds > 0 and self._settled

    def say(self) -> None:
        """Have a client's HELLO sent."""
        hello, self._announced = self._announced, None
        self.early = hello is not None
        if hello is None:
            hello = self.resumption() or self._settings.hello(self._role)
        self._taken.say()
        self._outbox.hello = hello.encode()

    def resumption(self) -> Hello | None:
        """Return a client's HELLO for another attempt at resuming; None: it cannot be resumed."""
        if not self.resumable:
            return None
        self._attempts += 1
        return replace(
            self._settings.hello(self._role),
            session=self.id,
            received=self._taken.count,
            attempt=self._attempts,
        )

    def announced(self, hello: Hello) -> None:
        """Note that the request of the WebSocket that comes next has said this HELLO."""
        self._announced = hello

    def is_repetition(self, frame: Hello) -> bool:
        """Return whether a client's HELLO is the one that its request has said, for the first
        time."""
        announced, self._announced = self._announced, None
        return frame == announced

    def detach(self) -> None:
        """Forget what was said on the WebSocket, which is lost."""
        self._announced = None
        self.early = False

    def said(self) -> None:
        """Note that our HELLO has left."""
        if not self._client:
            self._settled = True

    def hear(self, frame: Hello, events: list[Event]) -> None:
        """Act on the peer's HELLO, and add the events that it is."""
        if self._client:
            self._hear_worker(frame, events)
        else:
            self._hear_client(frame, events)
        self._sender.peer = self.peer

    def _hear_worker(self, frame: Hello, events: list[Event]) -> None:
        if frame.resume and frame.session is None:
            raise ProtocolError("HELLO: it offers to resume, but names no session")
        if self.peer is not None:
            if _same(frame.session, self.id):
                self._resume(frame, events)
                return
            self._forget(events)
        self.id = frame.session
        self._begin(frame, min(self._settings.resume, frame.resume or 0))
        # A worker that offers to resume counts on ACKs, also from a client that never does
        self._taken.begin(bool(frame.resume), frame.ack)
        self._settled = True
        events.append(SessionReady(frame))

    def _hear_client(self, frame: Hello, events: list[Event]) -> None:
        hello = self._settings.hello(self._role)
        if self.peer is None:
            asked = frame.resume
            seconds = self._settings.resume
            self.id = self._settings.session or secrets.token_urlsafe(24)
            self._begin(frame, seconds if asked is None else min(seconds, asked))
            events.append(SessionReady(frame))
        elif _same(frame.session, self.id):
            self._resume(frame, events)
            hello = replace(hello, received=self._taken.say())
        else:
            raise ProtocolError("HELLO: it does not name the session that it is to resume")
        self._outbox.hello = replace(hello, session=self.id, resume=self.seconds).encode()

    def _begin(self, peer: Hello, seconds: int) -> None:
        self.peer = peer
        self.seconds = seconds
        self._kept.active = seconds > 0
        self._taken.begin(seconds > 0, peer.ack)

    def _resume(self, frame: Hello, events: list[Event]) -> None:
        least, most = self._kept.acknowledged, self._sender.counted
        if not least <= frame.received <= most:
            raise ProtocolError(f"HELLO: {frame.received} frames received, not {least} to {most}")
        self._kept.resume(frame.received)
        self.resumes += 1
        if self._outbox.last_goaway is not None:
            self._outbox.add_goaway(self._outbox.last_goaway)
        events.append(SessionResumed())

    def _forget(self, events: list[Event]) -> None:
        """Let all streams be reset: the worker does not hold their session any more.

        Stream ids go on from where they were, so that no event can be taken for a later stream's.
        """
        events += [StreamReset(stream) for stream in self._streams.open]
        self._streams.clear()
        self._outbox.clear()
        self._sender.clear()
        self._kept.clear()
        self._taken.clear()
        self._streams.going_away = self._outbox.last_goaway is not None


def _same(one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and hmac.compare_digest(one, other)
