"""The tunnel protocol (PROTOCOL.md), both ends, without input or output.

- Frames (:mod:`.frames`, :mod:`.hello`) are frozen dataclasses with ``encode() -> bytes``;
  ``parse`` reads a message of one or more, ``parse_v1`` the one frame of a v1 message
  (:mod:`.decode`). Reading raises ProtocolError, which names the frame; it looks at form only.
  Encoding raises ValueError (struct.error, where a number does not fit) for what no frame can hold.
- A :class:`Session` takes messages and gives events (:mod:`.events`), takes calls and gives
  messages. It has a receiver, a sender with an outbox, a multiplexer in C that has the streams and
  moves their bytes (:mod:`.multiplexer`), credit (:mod:`.credit`, :mod:`.receive_window`), and
  datagrams, with their associations and queries (:mod:`.associations`, :mod:`.in_flight`).
  :mod:`.interface` is what every session is to its owner, also those of :mod:`.v1`.
- A session outlives its WebSocket where HELLO says so (:mod:`.greeting`): counted frames are kept
  as they were sent until the peer has acknowledged them (:mod:`.kept`), and counted as they are
  taken (:mod:`.taken`). All others are lost with the WebSocket.

To add a frame:

1. PROTOCOL.md: its row in the table of §2, what it means, and what an end does that does not know
   it (an unknown frame of 0x40 to 0x7F is skipped; it is counted from 0x60 up).
2. :mod:`.frames`: its dataclass with ``command``, ``counted`` and ``encode``; ``Frame``, ``NAMES``
   and ``__all__``; the exports here. A counted one below 0x40 needs its length in :mod:`.kept`.
3. :mod:`.frame_readers`: its reader, in ``_V2_FRAMES``. Check the form only, and every length.
4. :mod:`.events`: what its owner is told, if anything; ``Event``, ``__all__``, the exports here.
5. Its handler, with every check of its order: in :mod:`.stream_receiver`, in :mod:`.datagrams`, or,
   for one of the session as a whole, in :mod:`.receiver`; its row in a table at the end of that:
   for both roles, or for the one that takes it. What a hostile peer can make wait needs a bound.
6. :mod:`.session`: the call that sends it, through a queue of :mod:`.outbox`, behind all that is
   not counted or among it; what it does while the session is detached; the same call in
   :mod:`.interface`.
7. :mod:`.v1`: what that call does where v1 does not carry it. Its ``parse_v1`` refuses the frame.
8. What acts on the event: ``_handlers`` in ``tunnel/channel.py``, ``_HANDLERS`` in
   ``worker/client.py``. The worker's has to hold every event that a worker's session gives.
9. :mod:`.greeting`: whether it is said again on another WebSocket, as GOAWAY is.
10. Tests: the bytes in ``GOLDEN`` of ``tests/unit/protocol/test_frames.py``, the session's part in
   ``test_session*.py`` there, and ``_frame`` of ``tests/fuzz/frames.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy_names
from .credit import Budget
from .decode import datagrams_of, first_datagram, first_hello, parse, parse_v1
from .events import (
    DatagramReceived,
    DatagramsReceived,
    DataReceived,
    DnsAnswerReceived,
    DnsQueryReceived,
    EchoReceived,
    EchoReplyReceived,
    EofReceived,
    Event,
    GoAwayReceived,
    SessionReady,
    SessionResumed,
    StreamClosed,
    StreamConnected,
    StreamOpened,
    StreamReset,
    UdpClosed,
    UdpErrorReceived,
)
from .frames import (
    MAX_DATAGRAM,
    Ack,
    Buffer,
    Close,
    Code,
    Connect,
    Connected,
    Data,
    DnsQuery,
    DnsResponse,
    Echo,
    EchoReply,
    Eof,
    Error,
    Frame,
    GoAway,
    Ping,
    Pong,
    Udp,
    UdpClose,
    UdpError,
    Unknown,
    Window,
    encode_host,
    encode_udp,
)
from .hello import HELLO_TIMEOUT, MAX_WINDOW, Hello
from .interface import AnySession, ClientSession, WorkerSession
from .settings import Role, Settings
from .stats import SessionStats
from .stream import Source

if TYPE_CHECKING:
    from .multiplexer import SOCKETS
    from .session import Session

__all__ = [
    "Budget",
    "datagrams_of",
    "first_datagram",
    "first_hello",
    "parse",
    "parse_v1",
    "DataReceived",
    "DatagramReceived",
    "DatagramsReceived",
    "DnsAnswerReceived",
    "DnsQueryReceived",
    "EchoReceived",
    "EchoReplyReceived",
    "EofReceived",
    "Event",
    "GoAwayReceived",
    "SessionReady",
    "SessionResumed",
    "StreamClosed",
    "StreamConnected",
    "StreamOpened",
    "StreamReset",
    "UdpClosed",
    "UdpErrorReceived",
    "MAX_DATAGRAM",
    "Ack",
    "Buffer",
    "Close",
    "Code",
    "Connect",
    "Connected",
    "Data",
    "DnsQuery",
    "DnsResponse",
    "Echo",
    "EchoReply",
    "Eof",
    "Error",
    "Frame",
    "GoAway",
    "Ping",
    "Pong",
    "Udp",
    "UdpClose",
    "UdpError",
    "Unknown",
    "Window",
    "encode_host",
    "encode_udp",
    "HELLO_TIMEOUT",
    "MAX_WINDOW",
    "Hello",
    "AnySession",
    "ClientSession",
    "WorkerSession",
    "SOCKETS",
    "Session",
    "Role",
    "Settings",
    "SessionStats",
    "Source",
]

if not TYPE_CHECKING:  # these load the compiled part, which who reads options does without
    __getattr__ = lazy_names(__name__, {"multiplexer": "SOCKETS", "session": "Session"})
