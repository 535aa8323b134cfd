"""Memory that each thread has of its own, for each trio that may run."""

from __future__ import annotations

import threading

from zks_lwip.net.scratch import Scratch


def test_a_thread_has_one_and_two_threads_share_none() -> None:
    scratch = Scratch(64)
    ours = scratch.view
    ours[:5] = b"first"
    theirs: list[memoryview] = []
    thread = threading.Thread(target=lambda: theirs.append(scratch.view))
    thread.start()
    thread.join()
    theirs[0][:6] = b"second"
    assert scratch.view is ours and len(ours) == len(theirs[0]) == 64
    assert bytes(ours[:5]) == b"first"
