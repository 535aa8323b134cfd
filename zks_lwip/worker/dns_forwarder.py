"""DNS_QUERY (PROTOCOL.md §5): the message as it is to a name server, its answer back.

Nearly every query is answered by the first server, soon and by UDP: it costs a socket, so that its
port is random, but no task, and many answers are taken in one pass. What that server does not
answer in time, or not well, goes on in a task, with the socket that it has.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from ..net.plain_dns import is_answer
from ..net.readiness import Readiness
from .dnsclient import MAX_UDP, Asked, DnsClient, Unanswered, answer_here, unanswered
from .limits import QueryBudget

__all__ = ["DnsForwarder", "DnsQuestion"]

_STRAY = 16
"""Datagrams that are no answer and are taken at a time: a port that is flooded must not hold the
loop up."""


class DnsForwarder:
    """Forwards queries of all clients, while :meth:`run` runs."""

    def __init__(self, client: DnsClient) -> None:
        self.client = client
        #: What watches the sockets, and where questions go on that need a task; None: not running.
        self.readiness: Readiness | None = None
        self.tasks: trio.Nursery | None = None
        self._first: dict[DnsQuestion, float] = {}  # when the first server is late, in this order
        self._begun = trio.Event()
        self.room = memoryview(bytearray(65535))
        """What is received is copied out of this at once."""

    async def run(
        self, readiness: Readiness, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """See to it that others are asked where the first server is late, until cancelled.

        :param readiness: has to be open until all questions have ended.
        """
        async with trio.open_nursery() as tasks:
            self.readiness, self.tasks = readiness, tasks
            task_status.started()
            try:
                await self._watch()
            finally:
                self.readiness = self.tasks = None

    async def _watch(self) -> None:
        while True:
            if not self._first:
                self._begun = trio.Event()
                await self._begun.wait()
            else:
                await trio.sleep_until(next(iter(self._first.values())))
            now = trio.current_time()
            for question in [one for one, due in self._first.items() if due <= now]:
                question.go_on()

    def forward(
        self, query: bytes, budget: QueryBudget, reply: Callable[[bytes], None]
    ) -> DnsQuestion | None:
        """Call ``reply`` with the answer, once, at once or later. It is never silent: SERVFAIL
        comes within 5 seconds.

        :returns: None: it has been answered.
        """
        here = answer_here(query)
        if here is None:
            try:
                asked = self.client.begin(budget)
            except Unanswered as error:
                here = unanswered(query, error)
        if here is not None:
            reply(here)
            return None
        question = DnsQuestion(self, asked, query, budget, reply)
        question.start()
        return question

    def wait(self, question: DnsQuestion) -> None:
        """Have a question go on when its first server is late."""
        self._first[question] = question.begun + self.client.next_server
        if len(self._first) == 1:
            self._begun.set()

    def forget(self, question: DnsQuestion) -> None:
        """It does not wait any more."""
        self._first.pop(question, None)


class DnsQuestion:
    """A query that is under way."""

    __slots__ = (
        "_asked", "_budget", "_forwarder", "_query", "_readiness", "_reply", "_scope", "begun",
    )  # fmt: skip

    def __init__(
        self,
        forwarder: DnsForwarder,
        asked: list[Asked],
        query: bytes,
        budget: QueryBudget,
        reply: Callable[[bytes], None],
    ) -> None:
        self._forwarder = forwarder
        self._asked = asked
        self._query = query
        self._budget = budget
        self._reply = reply
        self._readiness: Readiness | None = None  # that its socket is watched by
        self._scope: trio.CancelScope | None = None  # of the task that it goes on in
        self.begun = trio.current_time()

    def start(self) -> None:
        """Ask the first server, without a task if that can be done."""
        readiness = self._forwarder.readiness
        if readiness is None or len(self._query) > MAX_UDP:
            self.go_on()
            return
        first = self._asked[0]
        try:
            sock = first.open(self._query, self._budget, self._forwarder.client.mark)
            readiness.add(sock, self._on_ready, writes=False)
        except OSError as error:
            first.close(self._budget)
            # Without its traceback, whose frames hold the query
            first.said = error.with_traceback(None)
            self.go_on()
            return
        self._readiness = readiness
        self._forwarder.wait(self)

    def cancel(self) -> None:
        """Give it up: nothing is answered."""
        if self._scope is not None:
            self._scope.cancel()
        else:
            self._leave()
            self._asked[0].close(self._budget)
            self._budget.end()

    def go_on(self) -> None:
        """Wait for the first server, and ask the others, in a task."""
        self._leave()
        tasks = self._forwarder.tasks
        if tasks is None:
            return  # the worker ends, and with it the session, which gives this up
        self._scope = trio.CancelScope()
        tasks.start_soon(self._finish, self._scope)

    def _leave(self) -> None:
        """Have the first server's socket watched no more."""
        self._forwarder.forget(self)
        readiness, self._readiness = self._readiness, None
        sock = self._asked[0].sock
        if readiness is not None and sock is not None:
            readiness.remove(sock)

    def _on_ready(self, _: int) -> None:
        first, client, readiness = self._asked[0], self._forwarder.client, self._readiness
        if first.sock is None or readiness is None:
            raise AssertionError("a socket is watched that is closed")
        room = self._forwarder.room
        for _ in range(_STRAY):
            try:
                message = bytes(room[: first.sock.recv_into(room)])
            except BlockingIOError:
                readiness.want_read(first.sock)
                return
            except OSError as error:  # such as that nothing listens there
                first.said = error.with_traceback(None)
                break
            if is_answer(message, first.wire):
                first.said = message
                break
            client.bogus += 1
        else:
            readiness.rearm(first.sock)
            return
        said = first.said
        self._leave()
        first.close(self._budget)
        if isinstance(said, bytes) and client.accepts(said, first.server):
            self._budget.end()
            self._reply(self._query[:2] + said[2:])
        else:
            self.go_on()

    async def _finish(self, scope: trio.CancelScope) -> None:
        waited = trio.current_time() - self.begun
        with scope:
            try:
                answer = await self._forwarder.client.finish(
                    self._asked, self._query, self._budget, waited=waited
                )
            except Unanswered as error:
                answer = unanswered(self._query, error)
            if not scope.cancel_called:  # else it came too late
                self._reply(answer)
