"""The worker goes away: established connections are reset, everything new waits for ``--grace``."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.kits.netns import client, lab, machine, servers
from tests.kits.netns.child import Child, until
from tests.kits.netns.commands import current_state as state
from tests.kits.netns.lab import WORKER4, Lab, Namespace

GRACE = 6.0
"""Seconds."""


@pytest.fixture
def host(net: Lab) -> Namespace:
    return net.add_host()


def _udp(far: str) -> str:
    family = socket.AF_INET6 if ":" in far else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(120)
        sock.connect((far, servers.ECHO))
        sock.send(b"x")
        try:
            return sock.recv(100).decode()
        except ConnectionRefusedError:
            return "ECONNREFUSED"


def _reset(sock: socket.socket) -> float:
    """When the connection was reset."""
    with pytest.raises(ConnectionResetError):
        while sock.recv(100):
            pass
    return time.monotonic()


def attempts(host: Namespace) -> dict[str, tuple[Callable[[], str], str, str]]:
    """Something new of each kind; what comes of it when it works, and when it is refused."""

    def dig(*options: str) -> str:
        argv = ["dig", "+tries=1", "+time=120", *options, "@25.9.9.9", "far.zks.test"]
        answer = Child("dig", host.command(argv)).succeed(150)
        return next(s for s in ("NOERROR", "SERVFAIL") if f"status: {s}" in answer)

    def tcp(far: str) -> str:
        return client.connect_error(far, servers.ECHO, syn_retries=4)

    return {
        "tcp4": (lambda: tcp(lab.FAR4), "connected", "ENETUNREACH"),
        "tcp6": (lambda: tcp(lab.FAR6), "connected", "ENETUNREACH"),
        "udp4": (lambda: _udp(lab.FAR4), "x", "ECONNREFUSED"),
        "udp6": (lambda: _udp(lab.FAR6), "x", "ECONNREFUSED"),
        "dns": (dig, "NOERROR", "SERVFAIL"),
        "dns by tcp": (lambda: dig("+tcp"), "NOERROR", "SERVFAIL"),
    }


def attempt_all(
    host: Namespace, *, since: float | None = None, begun: Callable[[], None] | None = None
) -> dict[str, tuple[str, float]]:
    """What came of each, and after how many seconds (``since`` then); all at the same time.

    ``begun`` is called when all are about to.
    """
    found = attempts(host)
    together = threading.Barrier(len(found), begun)

    def timed(attempt: Callable[[], str]) -> tuple[str, float]:
        with host.entered():
            began = time.monotonic() if since is None else since
            together.wait(120)
            return attempt(), time.monotonic() - began

    with ThreadPoolExecutor(len(found)) as threads:
        made = {name: threads.submit(timed, attempt) for name, (attempt, _, _) in found.items()}
        return {name: future.result(200) for name, future in made.items()}


def test_a_break_longer_than_the_grace(net: Lab, host: Namespace) -> None:
    """What is new waits until the grace is over; later it is refused at once."""
    before = machine.picture(host.path)
    refused = {name: no for name, (_, _, no) in attempts(host).items()}
    listen = f"{WORKER4}:8790"
    with net.worker(listen=listen) as far:
        with net.connect(host, "--grace", str(int(GRACE)), url=f"ws://{listen}") as child:
            with host.entered(), client.connect(lab.FAR4, servers.ECHO) as sock:
                with ThreadPoolExecutor(1) as thread:
                    reset = thread.submit(_reset, sock)
                    began = time.monotonic()
                    far.process.kill()
                    far.wait()
                    until(lambda: state(host) == "lost")
                    found = attempt_all(host, since=began)
                first = began + min(seconds for _, seconds in found.values())
                assert reset.result(60) < first, "it waited, too"
            assert {name: result for name, (result, _) in found.items()} == refused
            for name, (_, seconds) in found.items():
                # (A SYN is answered when the application's kernel sends it again, at 7 s or 15.)
                assert GRACE < seconds < GRACE + 30, (name, seconds)
            # What a busy machine takes its time for it does not always; what waits, always does.
            least = dict.fromkeys(refused, math.inf)

            def at_once() -> bool:
                found = attempt_all(host)
                assert {name: result for name, (result, _) in found.items()} == refused
                for name, (_, seconds) in found.items():
                    least[name] = min(least[name], seconds)
                return max(least.values()) < 0.9

            until(at_once, message=lambda: f"they wait: {least}")
            assert state(host) == "lost"
            with net.worker(listen=listen):
                until(lambda: state(host) == "connected", 90)
                with host.entered():
                    assert client.who(lab.FAR4) == lab.MID4
        child.no_traceback()
    assert machine.difference(before, machine.picture(host.path)) == ""


def test_a_short_break_is_bridged(net: Lab, host: Namespace) -> None:
    listen = f"{WORKER4}:8791"
    far = net.worker(listen=listen)
    with far, net.connect(host, "--grace", "60", url=f"ws://{listen}") as child:
        far.process.kill()
        far.wait()
        until(lambda: state(host) == "lost")  # (what goes to a worker that has just died is lost)
        with ThreadPoolExecutor(1) as thread:
            begun = threading.Event()
            future = thread.submit(attempt_all, host, begun=begun.set)
            assert begun.wait(120)
            time.sleep(1)
            with net.worker(listen=listen):
                found = future.result(200)
                assert state(host) == "connected"
    worked = {name: yes for name, (_, yes, _) in attempts(host).items()}
    assert {name: result for name, (result, _) in found.items()} == worked
    assert min(seconds for _, seconds in found.values()) > 0.9, "the control: they had to wait"
    child.no_traceback()
