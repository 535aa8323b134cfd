"""Whose address the worker takes a request for: what front ends say, and what anyone could say."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
import trio

from tests.kits.until import until
from tests.kits.worker import raw_client, running_worker
from zks_lwip.carrier.http import HttpRequest, read_request
from zks_lwip.errors import ConfigError
from zks_lwip.worker.front_ends import MAX_IN_LINE, FrontEnds, parse_trusted_proxy

TOKEN = "alice-" + "a" * 30


def request(peer: str | None, *said: str) -> HttpRequest:
    headers = tuple((b"x-forwarded-for", each.encode()) for each in said)
    return HttpRequest("GET", "/tunnel", headers, None if peer is None else (peer, 1), True, ())


@pytest.mark.parametrize(
    ("peer", "said", "client"),
    [
        ("192.0.2.1", ["203.0.113.9"], "203.0.113.9"),
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.7", ["203.0.113.9"], "192.0.2.7"),  # no front end's address
        ("unix", ["203.0.113.9"], "203.0.113.9"),
        ("unix", [], "unix"),
        (None, ["203.0.113.9"], "unknown"),  # it was reset: who it was is not known
        ("192.0.2.1", ["198.51.100.1, 203.0.113.9"], "203.0.113.9"),  # the client wrote the first
        ("192.0.2.1", ["198.51.100.1", "203.0.113.9"], "203.0.113.9"),
        ("192.0.2.1", ["203.0.113.9, 2001:db8::5"], "203.0.113.9"),  # two front ends
        ("2001:db8::5", ["203.0.113.9:4711"], "203.0.113.9"),
        ("2001:db8::5", ["[2001:db9::1]:4711"], "2001:db9::1"),
        ("2001:db8::5", ["2001:db9::1"], "2001:db9::1"),
        ("2001:db8::5", ["::ffff:203.0.113.9"], "203.0.113.9"),
        ("192.0.2.1", ["203.0.113.9, unknown"], "192.0.2.1"),
        ("192.0.2.1", ["fe80::1%0: wrong token"], "192.0.2.1"),
        ("192.0.2.1", ["192.0.2.1"], "192.0.2.1"),
    ],
)
def test_whose_word_is_taken(peer: str | None, said: list[str], client: str) -> None:
    trusted = map(parse_trusted_proxy, ("192.0.2.0/30", "2001:db8::5", "unix"))
    assert FrontEnds(trusted).client_of(request(peer, *said)) == client


def test_how_many_are_looked_through_is_bounded() -> None:
    """A client's token is looked at after its address, and its list may have thousands."""
    front_ends = FrontEnds([parse_trusted_proxy("10.0.0.0/8")])
    line = [f"10.0.{number // 256}.{number % 256}" for number in range(1000)]
    told = request("10.9.9.9", ", ".join(["203.0.113.9", *line]))
    assert front_ends.client_of(told) == line[-MAX_IN_LINE]
    told = request("10.9.9.9", ", ".join(["203.0.113.9", *line[: MAX_IN_LINE - 1]]))
    assert front_ends.client_of(told) == "203.0.113.9"


@pytest.mark.parametrize("peer", ["127.0.0.1", "unix"])
def test_unasked_it_is_not_taken(peer: str) -> None:
    assert FrontEnds(()).client_of(request(peer, "203.0.113.9")) == peer


@pytest.mark.parametrize(
    ("text", "why"), [("192.0.2.1/24", r"write 192\.0\.2\.0/24"), ("nginx", "give an address")]
)
def test_what_is_no_network(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        parse_trusted_proxy(text)
    assert caught.value.option == "trusted_proxies"


@pytest.mark.parametrize(
    ("trusted", "client"), [((), "127.0.0.1"), (("127.0.0.1",), "203.0.113.9")], ids=["no", "yes"]
)
async def test_sessions_and_refusals_by_it(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    trusted: tuple[str, ...],
    client: str,
) -> None:
    tokens, log = tmp_path / "tokens", tmp_path / "log"
    tokens.write_text(f"alice {TOKEN}\n")
    tokens.chmod(0o600)
    proxies = tuple(map(parse_trusted_proxy, trusted))
    async with running_worker(token_file=tokens, access_log=log, trusted_proxies=proxies) as (
        _,
        address,
    ):
        async with raw_client(address, token=TOKEN, headers=[(b"x-forwarded-for", b"203.0.113.9")]):
            pass
        async with await trio.open_tcp_stream(*address) as stream:
            await stream.send_all(
                b"GET /tunnel HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n"
            )
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 401")
        await until(lambda: log.read_text().count("\n") == 2)
    assert log.read_text().count(f" client={client} ") == 2
    assert f"authentication failed from {client}: no token" in caplog.messages


@pytest.mark.skipif(sys.platform == "win32", reason="it has no unix sockets")
async def test_a_unix_socket_is_told_from_a_connection_that_was_reset() -> None:
    ours, theirs = map(trio.socket.from_stdlib_socket, socket.socketpair(socket.AF_UNIX))
    async with trio.SocketStream(ours) as sender, trio.SocketStream(theirs) as stream:
        await sender.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        found = await read_request(stream)
    assert found is not None and found.peer == ("unix", 0)
