"""An application that talks all the time over one connection, and notes when it is answered."""

from __future__ import annotations

import socket
import threading
import time
from types import TracebackType

from tests.kits.netns import client, lab, servers
from tests.kits.netns.child import until
from tests.kits.netns.lab import Namespace

_SIZE = 8  # bytes of a number


class Talker:
    """Sends numbers to the ECHO server, and checks each byte that comes back.

    As a context manager, it fails at the end if the connection has failed or ended before
    :meth:`failure` was asked for, or if not every number came back.

    :param every: seconds between two numbers.
    """

    def __init__(self, host: Namespace, far: str = lab.FAR4, every: float = 0.02) -> None:
        with host.entered():
            self._socket = client.connect(far, servers.ECHO)
        self._socket.settimeout(None)
        self._every = every
        self._asked = 0
        self._stopping = threading.Event()
        self._over = threading.Event()
        self._failure: Exception | None = None
        self._expected = False
        self.heard: list[float] = []
        """When something came (``time.monotonic``)."""
        self.answered = 0
        """Numbers that came back, in order."""
        self._threads = [
            threading.Thread(target=act, daemon=True) for act in (self._send, self._receive)
        ]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        try:
            while not self._stopping.wait(self._every):
                self._socket.sendall(self._asked.to_bytes(_SIZE, "big"))
                self._asked += 1
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._fail(error)

    def _receive(self) -> None:
        rest = b""
        try:
            while data := self._socket.recv(65536):
                self.heard.append(time.monotonic())
                rest += data
                whole = len(rest) // _SIZE
                for index in range(whole):
                    number = int.from_bytes(rest[index * _SIZE : (index + 1) * _SIZE], "big")
                    if number != self.answered:
                        raise AssertionError(f"{number} came where {self.answered} is next")
                    self.answered += 1
                rest = rest[whole * _SIZE :]
            if not self._stopping.is_set():
                raise EOFError("a clean end, where neither program has ended it")
        except (OSError, EOFError, AssertionError) as error:
            self._fail(error)
        self._over.set()

    def _fail(self, error: Exception) -> None:
        self._failure = self._failure or error

    def wait_for_answer(self, timeout: float = 90) -> float:
        """Wait for the next thing that comes; the seconds until then."""
        began, seen = time.monotonic(), len(self.heard)
        until(
            lambda: len(self.heard) > seen or self._failure is not None,
            timeout,
            lambda: f"nothing came for {timeout} s",
        )
        if self._failure is not None:
            raise self._failure
        return self.heard[seen] - began

    def failure(self, timeout: float = 90) -> Exception:
        """Wait for the end of the connection; the error that the application was given."""
        self._expected = True
        assert self._over.wait(timeout), "the connection has no end"
        assert self._failure is not None
        return self._failure

    @property
    def failed(self) -> bool:
        """Whether the connection has failed."""
        return self._failure is not None

    def __enter__(self) -> Talker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        try:
            if kind is None and not self._expected:
                assert self._over.wait(90), "the last numbers did not come back"
                if self._failure is not None:
                    raise self._failure
                assert self.answered == self._asked
        finally:
            with self._socket:
                if not self._over.is_set():
                    self._socket.shutdown(socket.SHUT_RDWR)
                for thread in self._threads:
                    thread.join(20)
