"""Bugs that are put into a copy of the code, to show that they are found: each omits one thing.

A build or an import replaces ``old`` by ``new`` in what it reads of ``path``; the files themselves
stay as they are. ``old`` must occur once, or the bug no longer fits the code and has to be renewed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["PLANTED", "Bug"]

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Bug:
    """One bug, and the fuzz target that is to find it."""

    target: str
    path: str
    old: str
    new: str

    def planted(self) -> str:
        """The file's text with the bug in it.

        :raises ValueError: the code has changed.
        """
        text = (ROOT / self.path).read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise ValueError(f"{self.path} holds {self.old!r} not once: renew the planted bug")
        return text.replace(self.old, self.new)


PLANTED = {
    # A segment whose header is longer than itself is read past its end.
    "tcp-header": Bug(
        "packets",
        "zks_lwip/native/core/packet.c",
        "if (header < 20 || header > length)\n        return ZKS_DROP_TCP_HEADER;",
        "",
    ),
    # lwIP's own: a segment that is cut leaves FIN on its first part, too.
    "early-fin": Bug(
        "packets",
        "zks_lwip/native/core/flow_lwip.c",
        "TCPH_UNSET_FLAG(pcb->unsent->tcphdr, TCP_FIN | TCP_PSH);",
        "",
    ),
    # The window does not open again by what was taken.
    "window": Bug(
        "packets",
        "zks_lwip/native/core/flow_budget.c",
        "open = taken;",
        "open = taken > 1000 ? taken - 2 : taken;",
    ),
    # A datagram joins smaller ones: the system would cut it into pieces of their size.
    "segments": Bug(
        "datagrams",
        "zks_lwip/native/udp/send.c",
        "b->length && b->length <= a->length",
        "b->length",
    ),
    # The length of a frame takes two bytes up to 65535.
    "frame-length": Bug(
        "mask", "zks_lwip/native/websocket/mask.c", "len <= 0xFFFF", "len <= 0x1FFFF"
    ),
    # A length that runs past the end of the message is believed.
    "data-length": Bug(
        "mux",
        "zks_lwip/native/mux/mux_in.c",
        "length > size - position - MUX_HEADER || ",
        "",
    ),
    # A peer may send more than it was granted, where C takes it.
    "mux-credit": Bug("mux", "zks_lwip/native/mux/mux_in.c", " || length > stream->available", ""),
    # A stream that is closed while it is asked is written for all the same.
    "mux-closed": Bug(
        "mux",
        "zks_lwip/native/mux/mux.c",
        "    if (mux->current == stream)\n        mux->current = NULL;\n",
        "",
    ),
    # A socket took all of what it was given, it is said, whatever it took.
    "mux-socket": Bug(
        "mux",
        "zks_lwip/native/mux/mux_sockets.c",
        "return sent < 0 ? failed() : sent;",
        "return sent < 0 ? failed() : (int64_t)length;",
    ),
    # A window is granted later than its quarter is consumed.
    "mux-grant": Bug(
        "mux",
        "zks_lwip/native/mux/mux_in.c",
        "(uint64_t)stream->consumed * 4 >= stream->size",
        "(uint64_t)stream->consumed * 2 >= stream->size",
    ),
    # A peer may send more than it was granted.
    "credit": Bug(
        "frames",
        "zks_lwip/protocol/receive_window.py",
        "if size > self.available:\n            return False",
        "",
    ),
    # Streams are opened beyond the limit.
    "streams": Bug(
        "frames",
        "zks_lwip/protocol/stream_receiver.py",
        "elif len(streams.open) >= self._settings.streams:",
        "elif len(streams.open) > self._settings.streams:",
    ),
}
