"""How much is kept at most: what the path needs, and not what a queue on it would hold."""

from __future__ import annotations

from collections import deque

from zks_lwip.protocol import Budget, Data
from zks_lwip.protocol.kept import INITIAL_LIMIT, Kept

_MESSAGE = 256 << 10


class Path:
    """Carries the messages of a sender that always has more, as fast as its limit lets it.

    :param rate: bytes a second; what comes faster waits in a queue without end.
    :param trip: seconds from a message to its ACK, where nothing waits.
    """

    def __init__(self, rate: float, trip: float) -> None:
        self.rate = rate
        self.trip = trip
        self.now = 0.0
        self._free_at = 0.0
        self._acks: deque[tuple[float, int]] = deque()
        self.sent = 0

    def carry(self, kept: Kept, seconds: float) -> None:
        """Send whenever there is room, and take the ACKs as they come."""
        until = self.now + seconds
        message = bytearray(Data(1, bytes(_MESSAGE)).encode())
        while self.now < until:
            while not kept.full:
                self.sent += 1
                kept.put(message, 0, self.sent, self.now)
                kept.was_sent()
                self._free_at = max(self._free_at, self.now) + len(message) / self.rate
                self._acks.append((self._free_at + self.trip, self.sent))
            self.now, count = self._acks.popleft()
            kept.acknowledge(count, self.now)

    @property
    def holds(self) -> float:
        """Bytes on their way where none wait in a queue."""
        return self.rate * self.trip


def sender() -> Kept:
    return Kept(1 << 30, Budget(1 << 34))


def test_a_long_path_is_filled_and_its_queue_is_not() -> None:
    path, kept = Path(125e6, 0.1), sender()
    path.carry(kept, 20.0)
    assert 1.2 * path.holds < kept.limit < 2 * path.holds


def test_many_round_trips_of_a_short_path_may_be_kept() -> None:
    path, kept = Path(125e6, 0.001), sender()
    path.carry(kept, 2.0)
    assert kept.limit == INITIAL_LIMIT


def test_a_path_that_has_become_faster_is_filled() -> None:
    path, kept = Path(125e6, 0.1), sender()
    path.carry(kept, 5.0)
    path.rate *= 4
    path.carry(kept, 5.0)
    assert kept.limit > 1.2 * path.holds


def test_a_path_that_has_become_longer_is_filled_within_a_minute() -> None:
    path, kept = Path(125e6, 0.1), sender()
    path.carry(kept, 5.0)
    path.trip *= 3
    path.carry(kept, 60.0)
    assert kept.limit > 1.2 * path.holds


def test_another_websocket_may_take_a_longer_path() -> None:
    path, kept = Path(125e6, 0.1), sender()
    path.carry(kept, 5.0)
    longer = Path(125e6, 0.3)
    longer.sent, longer.now = path.sent, path.now
    kept.resume(path.sent)
    longer.carry(kept, 5.0)
    assert kept.limit > 1.2 * longer.holds
