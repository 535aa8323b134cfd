"""What sessions that are alike have in common."""

from __future__ import annotations

from zks_lwip.protocol import Hello, parse
from zks_lwip.protocol.associations import OpenAssociations


def test_equal_hellos_of_clients_are_one_object() -> None:
    (one,), (same,), (other,) = (
        parse(Hello(window=window).encode()) for window in (70_000, 70_000, 70_001)
    )
    assert one is same
    assert isinstance(other, Hello) and other.window == 70_001


def test_a_hello_that_names_a_session_is_not_kept() -> None:
    one, same = (parse(Hello(session="secret").encode())[0] for _ in range(2))
    assert one == same and one is not same


def test_associations_of_one_session_are_not_open_in_another() -> None:
    one, other = OpenAssociations(2), OpenAssociations(2)
    assert one.admit(1) is None and one.admit(2) is None
    assert (len(one), len(other)) == (2, 0)
    assert not other.use(1) and not other.end(1)
    assert other.admit(7) is None
    assert one.admit(3) == 1 and 7 not in one and 2 not in other
    one.clear()
    assert not one and len(other) == 1 and one.admit(4) is None and 4 not in other
