"""Exception groups, taken apart: a user is told one error, and an ``except`` clause meets it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import ZksError

__all__ = ["leaves", "single_error"]


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The exceptions that a (nested) group holds, or the error itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


@contextmanager
def single_error() -> Iterator[None]:
    """Raise the first of the errors in a group, if all of them are ours or there is but one.

    A group with anything else in it (a bug, a cancellation, a Ctrl-C) is left as it is.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        errors = list(leaves(group))
        if len(errors) == 1 or all(isinstance(error, ZksError) for error in errors):
            first = errors[0]
            # The group is not the cause of the error, only how it travelled.
            raise first from first.__cause__
        raise
