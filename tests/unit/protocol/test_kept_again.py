"""What is kept while it is being sent again."""

from __future__ import annotations

import pytest

from zks_lwip.protocol import Budget, Data
from zks_lwip.protocol.kept import Kept


@pytest.mark.parametrize("sent", [True, False])
def test_what_was_changed_to_be_sent_is_changed_back(sent: bool) -> None:
    """A WebSocket that is lost may still be sending the last message: that stays as it is."""

    def turn(buffer: bytearray) -> None:
        buffer[:] = buffer[::-1]

    kept = Kept(1 << 20, Budget())
    frames = [Data(1, bytes([number]) * 10).encode() for number in range(3)]
    head = b"\5"  # PING, in front of what is counted
    messages = [bytearray(head + frames[0] + frames[1]), bytearray(frames[2])]
    changed = []
    for message, last in zip(messages, (2, 3), strict=True):
        kept.put(message, len(message) % 19, last, 1.0)
        kept.changed(turn)
        turn(message)
        changed.append(bytes(message))
        if sent or last == 2:
            kept.was_sent()
    kept.resume(1)
    assert messages[1] == (frames[2] if sent else changed[1])
    assert kept.send_again(1000, 2.0) == (frames[1], 1)
    assert kept.send_again(1000, 2.0) == (frames[2], 1)
    kept.resume(1)  # and it is changed back once
    assert kept.send_again(1000, 2.0) == (frames[1], 1)


def test_a_copy_that_is_kept_does_not_change_with_the_message() -> None:
    kept = Kept(1 << 20, Budget())
    counted = Data(1, b"x").encode()
    message = bytearray(b"\5" * 50 + counted)
    kept.put(message, 50, 1, 1.0)
    kept.changed(bytearray.reverse)
    message.reverse()
    kept.resume(0)
    assert kept.send_again(1000, 2.0) == (counted, 1)


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
