"""The versions of the tunnel protocol.

What differs between them for the owner of a session are the fields of :class:`Version`, and the
session's ``flow_controlled``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..protocol import Settings
from ..protocol.v1 import MAX_MESSAGE

__all__ = ["V1", "V2", "Version", "offered"]


@dataclass(frozen=True, slots=True)
class Version:
    """What one version of the protocol asks of the WebSocket that is opened for it."""

    name: str
    subprotocol: str | None
    """The WebSocket subprotocol that selects it; None: the absence of any."""
    one_stream: bool
    """A session carries one stream in its life: each needs a WebSocket of its own."""
    fetches_https: bool
    """A worker may serve port 443 by an HTTP fetch: TLS there gets no TLS back."""

    def max_message(self, settings: Settings) -> int:
        """Return the most bytes of a message that a client with these settings takes."""
        return MAX_MESSAGE if self is V1 else settings.max_message


V1 = Version("v1", None, one_stream=True, fetches_https=True)
"""The original Worker's (PROTOCOL.md §9)."""
V2 = Version("v2", "zks-tunnel.v2", one_stream=False, fetches_https=False)


def offered(subprotocols: Sequence[str]) -> Version | None:
    """Return the version that a worker speaks with a client that offers these; None: there is none.

    A client that offers no subprotocol at all speaks v1.
    """
    if not subprotocols:
        return V1
    return V2 if V2.subprotocol in subprotocols else None
