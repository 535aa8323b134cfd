"""What is kept while it is being sent again."""

from __future__ import annotations

from zks_lwip.protocol import Budget, Data
from zks_lwip.protocol.kept import Kept


def test_an_ack_between_two_messages_that_are_sent_again() -> None:
    kept = Kept(1 << 20, Budget())
    frames = [Data(1, bytes([number]) * 10).encode() for number in range(4)]
    kept.put(bytearray(frames[0] + frames[1]), 0, 2, 1.0)
    kept.was_sent()
    kept.put(bytearray(frames[2] + frames[3]), 0, 4, 1.0)
    kept.was_sent()
    kept.resume(0)
    assert kept.send_again(1000, 2.0) == (frames[0] + frames[1], 2)
    kept.acknowledge(1, 2.1)  # a part of what has left, and nothing of what waits
    assert kept.next_length == len(frames[2])
    assert kept.send_again(1000, 2.0) == (frames[2] + frames[3], 2)
    assert not kept.unsent
    kept.acknowledge(4, 2.1)
    assert kept.size == kept.cost == 0
