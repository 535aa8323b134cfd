"""Who has connected, as macOS tells it."""

from __future__ import annotations

import pytest

from zks_lwip.daemon.access import Access, Peer
from zks_lwip.errors import PrivilegeError
from zks_lwip.net.darwin import XUCRED


def test_user_and_groups_of_a_struct_xucred() -> None:
    groups = [20, 12, 61, *[7] * 13]  # those behind the third are no groups of his
    peer = Peer.of_xucred(XUCRED.pack(0, 501, 3, *groups), 4711)
    assert peer == Peer(4711, 501, frozenset({20, 12, 61}))
    Access(reading=frozenset({61})).check(peer, "status")
    with pytest.raises(PrivilegeError, match="only root"):
        Access(reading=frozenset({7})).check(peer, "status")
