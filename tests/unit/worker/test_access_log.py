"""The access log: its entries, its file, and that nothing waits for it."""

from __future__ import annotations

import os
import re
import shlex
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio

from tests.kits.until import until
from tests.kits.worker import echo, open_descriptors, raw_client, running_worker, tcp_server
from zks_lwip.errors import ConfigError
from zks_lwip.protocol import Data
from zks_lwip.worker.access_log import AccessLog, format_entry

ALICE = "alice-" + "a" * 30
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
WRONG = (
    "GET /tunnel HTTP/1.1\r\nHost: worker\r\nAuthorization: Bearer wrong\r\n"
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: zks-tunnel.v2\r\n\r\n"
)


def fields(line: str) -> dict[str, str]:
    """What an entry says, read as a shell would."""
    return dict(word.split("=", 1) for word in shlex.split(line)[2:])


def test_an_entry_cannot_be_forged() -> None:
    when = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC).timestamp()
    line = format_entry(
        "session", {"client": "2001:db8::1", "seconds": 1.5, "reason": 'a\nb "c" \u202e'}, when
    )
    assert line == (
        "2026-01-02T03:04:05.678Z session client=2001:db8::1 seconds=1.500 "
        'reason="a\\nb \\"c\\" \\u202e"'
    )
    assert format_entry("x", {"name": "a b=c"}, when).endswith('x name="a b=c"')


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"alice {ALICE}\n")
    path.chmod(0o600)
    return path


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
async def test_what_a_full_disk_loses_is_counted_once() -> None:
    log = AccessLog(Path("/dev/full"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        for count in (1, 2, 3):  # what tells of those before is lost, too
            log.entry("session")
            await until(lambda count=count: log.lost_in_all >= count)  # type: ignore[misc]
            assert log.lost == log.lost_in_all == count
        nursery.cancel_scope.cancel()


async def test_a_session_its_targets_and_a_refusal(tmp_path: Path, tokens: Path) -> None:
    path = tmp_path / "access.log"
    async with running_worker(token_file=tokens, access_log=path, log_targets=True) as (_, address):
        async with tcp_server(echo) as port:
            async with raw_client(address, token=ALICE) as client:
                await client.open(1, "127.0.0.1", port)
                await client.send(Data(1, b"x" * 1000))
                assert await client.data(1, 1000) == b"x" * 1000
        async with await trio.open_tcp_stream(*address) as stream:
            await stream.send_all(WRONG.encode())
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 401")
        await until(lambda: path.read_text().count("\n") == 3)
    text = path.read_text()
    assert ALICE not in text
    lines = {line.split()[1]: line for line in text.splitlines()}
    assert all(re.match(TIME, line) for line in lines.values())
    session = fields(lines["session"])
    assert session["token"] == "alice" and session["client"] == "127.0.0.1"
    assert int(session["up"]) > 1000 and int(session["down"]) > 1000
    assert re.fullmatch(TIME, session["begin"]) and float(session["seconds"]) >= 0
    assert re.fullmatch("[0-9a-f]{12}", session["id"]) and session["reason"]
    target = fields(lines["tcp"])
    assert target["target"] == f"127.0.0.1:{port}" and target["token"] == "alice"
    refused = fields(lines["refused"])
    assert refused == {"client": "127.0.0.1", "status": "401", "reason": "wrong token"}


async def test_targets_are_logged_only_where_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    async with running_worker(access_log=path) as (_, address), tcp_server(echo) as port:
        async with raw_client(address) as client:
            await client.open(1, "127.0.0.1", port)
        await until(lambda: path.read_text())
    assert "session" in path.read_text() and str(port) not in path.read_text()


@pytest.mark.skipif(os.name != "posix", reason="a file that is open cannot be moved")
async def test_it_is_opened_anew_when_it_was_moved(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    async with trio.open_nursery() as nursery:
        log = AccessLog(path)
        nursery.start_soon(log.run)
        log.entry("one")
        await until(lambda: "one" in path.read_text())
        path.rename(tmp_path / "access.log.1")
        log.entry("two")
        await until(lambda: "two" in (tmp_path / "access.log.1").read_text())
        log.reopen()
        await until(path.exists)
        log.entry("three")
        await until(lambda: "three" in path.read_text())
        assert path.stat().st_mode & 0o007 == 0
        log.entry("last")
        nursery.cancel_scope.cancel()
    assert path.read_text().splitlines()[-1].endswith("last")


@pytest.mark.skipif(os.name != "posix", reason="pipes")
async def test_a_file_that_takes_nothing_holds_nothing_up(tmp_path: Path) -> None:
    before = open_descriptors()
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        async with trio.open_nursery() as nursery:
            log = AccessLog(path)
            nursery.start_soon(log.run)
            for number in range(30_000):  # more than a pipe and the queue hold
                log.entry("x", number=number, filler="y" * 100)
                if number % 1000 == 0:
                    await trio.sleep(0)
            assert 0 < log.lost < 30_000
            nursery.cancel_scope.cancel()  # nor does it hold up the end
        assert b" x number=0 " in os.read(reader, 1 << 16)
    finally:
        os.close(reader)  # which ends the thread
    await until(lambda: open_descriptors() == before)


def test_one_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file.*give a file") as caught:
        AccessLog(tmp_path / "none" / "log")
    assert caught.value.option == "access_log"
