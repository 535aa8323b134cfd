"""The associations that are open at a worker."""

from __future__ import annotations

from zks_lwip.protocol.associations import OpenAssociations


def test_the_least_recently_used_one_is_ended_for_another() -> None:
    associations = OpenAssociations(2)
    assert [associations.admit(n) for n in (1, 2)] == [None, None]
    assert associations.use(1)
    assert associations.admit(3) == 2
    assert 2 not in associations and len(associations) == 2
    assert associations.use_all((3, 1))
    assert associations.admit(4) == 3


def test_one_that_is_not_open_cannot_be_used() -> None:
    associations = OpenAssociations(3)
    assert not associations.use(1) and 1 not in associations
    for identifier in (1, 2, 3):
        associations.admit(identifier)
    # Those before it are used
    assert not associations.use_all((1, 4, 2))
    assert associations.admit(5) == 2


def test_one_is_ended_once() -> None:
    associations = OpenAssociations(1)
    associations.admit(1)
    assert associations.end(1) and not associations.end(1)
    assert associations.admit(2) is None
    associations.clear()
    assert len(associations) == 0 and not associations.use(2)
