"""Request ids: which task waits for an answer, and what happens when none does any more."""

from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

from zks_lwip.tunnel.requests import PendingRequests


async def test_an_answer_in_the_moment_of_giving_up_is_late() -> None:
    """Both make the task go on; trio allows that once."""
    requests = PendingRequests()
    sent: list[int] = []
    for lost in (False, True):
        channel = object()
        async with trio.open_nursery() as nursery:

            async def ask(channel: object = channel) -> None:
                await requests.ask(channel, lambda request: not sent.append(request))

            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            if lost:
                requests.lost(channel)
            else:
                assert requests.answered(sent[-1], b"late") is False
        assert not len(requests)


async def test_an_answer_and_the_loss_of_the_channel_at_once() -> None:
    requests = PendingRequests()
    sent: list[int] = []
    answers: list[bytes | None] = []

    async def ask() -> None:
        answers.append(await requests.ask("channel", lambda request: not sent.append(request)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        assert requests.answered(sent[0], b"yes")
        requests.lost("channel")
        assert not requests.answered(sent[0], b"twice")
    assert answers == [b"yes"]


async def test_requests_that_no_task_waits_for() -> None:
    """Each is answered once, or lost once, or given up."""
    requests = PendingRequests()
    told: list[tuple[str, bytes | None]] = []

    def start(name: str, channel: str) -> int:
        def on_answer(answer: bytes | None) -> None:
            told.append((name, answer))
            if name == "b":
                assert requests.forget(third)  # as others may that wait for the same

        request = requests.start(channel, lambda request: True, on_answer)
        assert request is not None
        return request

    first, second = start("a", "one"), start("b", "two")
    third, fourth = start("c", "two"), start("d", "one")
    assert requests.answered(first, b"yes") and not requests.answered(first, b"twice")
    requests.lost("two")
    assert told == [("a", b"yes"), ("b", None)]
    assert not requests.forget(second) and requests.forget(fourth)
    assert not requests.answered(fourth, b"late")
    assert requests.start("one", lambda request: False, lambda answer: None) is None
    assert not len(requests)
