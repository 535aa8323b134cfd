"""How much the clients of a token may have sent that no session can take yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .connections import POLICY_VIOLATION
from .limits import Account
from .sessions import HeldSession

__all__ = ["bound_unread"]


def bound_unread(sessions: Iterable[HeldSession], accounts: Mapping[bytes, Account]) -> None:
    """End sessions of a token whose messages have come in part and fill ``Limits.held``.

    Those without flow control only, of which there may be as many as streams; those with the
    most go first. (Others have ``Settings.max_message`` and are few.)
    """
    unread: dict[bytes, list[tuple[int, HeldSession]]] = {}
    for held in sessions:
        if held.one_stream and held.link is not None:
            entry = (held.link.connection.unread, held)
            unread.setdefault(held.principal.digest, []).append(entry)
    for digest, entries in unread.items():
        account = accounts.get(digest)
        total = sum(size for size, _ in entries)
        if account is None or total <= account.limits.held:
            continue
        for size, held in sorted(entries, key=lambda entry: -entry[0]):
            if total <= account.limits.held:
                break
            total -= size
            if held.link is not None:
                reason = "too many messages have come in part only"
                held.link.close(POLICY_VIOLATION, reason)
