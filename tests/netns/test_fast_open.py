"""A session that is resumed with TCP Fast Open, segment by segment.

After an outage nothing can be heard sooner than one round trip after the first segment that gets
through. So that segment has to bring all that the worker needs to go on. Here the link lets packets
up to the worker, and none down: whatever the worker says, it says on a segment that has crossed the
link once.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from tests.kits.netns import lab
from tests.kits.netns.child import until
from tests.kits.netns.lab import WORKER4, Lab, Namespace
from tests.kits.netns.talker import Talker
from tests.kits.packets import ACK, SYN, Seen
from zks_lwip.errors import ProtocolError
from zks_lwip.protocol import Data, Hello, parse

PORT = 9390
_ALL = 3  # ETH_P_ALL: what is sent, too
_RCVBUFFORCE = 33  # SO_RCVBUFFORCE (not in the module)


class Conversation:
    """The segments of one connection, as the worker's host has taken and sent them."""

    def __init__(self) -> None:
        self.up: list[Seen] = []
        self.down: list[Seen] = []

    @property
    def asked_by_syn(self) -> bool:
        """Whether the first segment was all of the upgrade, which says HELLO."""
        first = self.up[0]
        whole = first.data.startswith(b"GET /tunnel ") and first.data.endswith(b"\r\n\r\n")
        return bool(first.flags & SYN) and whole and b"\r\nZks-Hello: " in first.data

    @property
    def unheard(self) -> bool:
        """Whether the client has heard nothing."""
        return all(each.flags & (SYN | ACK) == SYN for each in self.up)

    @property
    def said(self) -> bytes:
        """What the worker has said, without what it has sent again."""
        pieces = {each.seq: each.data for each in self.down if each.data}
        if not pieces:
            return b""
        text, at = b"", min(pieces)
        while at in pieces:
            text, at = text + pieces[at], at + len(pieces[at])
        return text

    @property
    def answers(self) -> list[type]:
        """The frames that the worker has said, behind its 101."""
        head, _, rest = self.said.partition(b"\r\n\r\n")
        found: list[type] = []
        while head.startswith(b"HTTP/1.1 101 ") and len(rest) > 4 and rest[0] == 0x82:
            size, start = rest[1], 2
            if size == 126:
                size, start = int.from_bytes(rest[2:4], "big"), 4
            message, rest = rest[start : start + size], rest[start + size :]
            with contextlib.suppress(ProtocolError):  # it has not left whole
                found += map(type, parse(message))
        return found


class Segments:
    """The connections to the worker, as they are seen at its host."""

    def __init__(self, host: Namespace) -> None:
        with host.entered():
            kind = socket.SOCK_DGRAM
            self._wire = socket.socket(socket.AF_PACKET, kind, socket.htons(_ALL))
        self._wire.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, 16 << 20)
        self._wire.setblocking(False)
        self._found: dict[int, Conversation] = {}

    def look(self) -> list[Conversation]:
        """All that there are now."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._take(self._wire.recv(65536))
        return [each for each in self._found.values() if each.up]

    def _take(self, raw: bytes) -> None:
        if raw[0] != 0x45 or raw[9] != socket.IPPROTO_TCP:
            return
        source, destination = (socket.inet_ntoa(raw[at : at + 4]) for at in (12, 16))
        segment = Seen(source, destination, raw[9], raw[20 : int.from_bytes(raw[2:4], "big")], raw)
        to, by = segment.ports[1] == PORT, segment.ports[0] == PORT
        if to or by:
            port = segment.ports[0] if to else segment.ports[1]
            one = self._found.setdefault(port, Conversation())
            (one.up if to else one.down).append(segment)

    def close(self) -> None:
        self._wire.close()


@pytest.fixture
def allowed(net: Lab, request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether the worker's host takes data with a SYN."""
    net.mid.sysctl(f"net.ipv4.tcp_fastopen={3 if request.param else 1}")
    yield request.param
    net.mid.sysctl("net.ipv4.tcp_fastopen=1")


@pytest.mark.parametrize("allowed", [True, False], ids=["allowed", "refused"], indirect=True)
def test_all_that_waits_follows_the_first_segment(net: Lab, allowed: bool) -> None:
    host, link = net.add_linked_host(delay=0.005)
    listen = f"{WORKER4}:{PORT}"
    with (
        net.worker(listen=listen) as worker,
        net.connect(host, "--fast-open", url=f"ws://{listen}") as connect,
        Talker(host, lab.FAR4) as talker,
    ):
        talker.wait_for_answer()
        link.blackhole("down")
        with contextlib.closing(Segments(net.mid)) as segments:
            if allowed:

                def resumed() -> list[Conversation]:
                    """What it has sent again from the stream is in there."""
                    return [each for each in segments.look() if Data in each.answers]

                until(lambda: resumed(), message=lambda: "the session is not resumed")
                one = resumed()[0]
                assert one.asked_by_syn and one.unheard and one.answers[0] is Hello
            else:
                # SYNs are answered, and nothing else can be said yet.
                def begun() -> list[Conversation]:
                    found = [each for each in segments.look() if each.up[0].flags & SYN]
                    return [each for each in found if each.down]

                until(lambda: len(begun()) >= 30, message=lambda: "nothing is tried")
                assert all(each.unheard and not each.said for each in begun()), "the control"
        link.restore()
        talker.wait_for_answer()
    connect.no_traceback()
    worker.no_traceback()
