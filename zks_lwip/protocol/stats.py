"""What a session counts."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SessionStats"]


@dataclass(slots=True)
class SessionStats:
    """Counters of one session, from its start; they only grow."""

    messages_in: int = 0
    messages_out: int = 0
    bytes_in: int = 0
    """Bytes of whole messages, without the WebSocket's own framing."""
    bytes_out: int = 0
    data_in: int = 0
    """Payload bytes of DATA frames for streams that were open."""
    data_out: int = 0
    streams_opened: int = 0
    streams_refused: int = 0
    """CONNECTs that this end answered itself: over the limit (429), or going away (503)."""
    datagrams_in: int = 0
    datagrams_out: int = 0
    """Datagrams accepted for sending; those dropped later are in ``datagrams_dropped`` too."""
    datagrams_dropped: int = 0
    associations_evicted: int = 0
    dns_refused: int = 0
    """DNS queries that were answered SERVFAIL, or not taken, because too many were in flight."""
    windows_grown: int = 0
    frames_resent: int = 0
    """Counted frames that were sent again when the session was resumed."""
    bytes_resent: int = 0
    """Their bytes."""

    def add(self, other: SessionStats) -> None:
        """Add the counters of another session to these."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))
