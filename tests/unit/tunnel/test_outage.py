"""A tunnel that is down, and one that is told of another network."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from zks_lwip.tunnel.tunnel import Tunnel

from ...kits.tunnel import Peer, drop, eventually, quick, tunnel_and_worker, tunnelling, working


@asynccontextmanager
async def listener_port() -> AsyncIterator[int]:
    """A port where no process accepts: connections succeed, and nothing is ever said."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(50)
        yield listener.getsockname()[1]


async def test_once_the_grace_has_passed_streams_are_refused_at_once() -> None:
    async with tunnel_and_worker(grace=1.0, backoff=(60.0, 60.0)) as (tunnel, worker):
        assert not tunnel.hopeless
        await drop(worker.served[0])
        await eventually(lambda: not tunnel.up)
        began = trio.current_time()
        first = Peer()
        tunnel.open_stream("192.0.2.1", 80, first)
        await eventually(lambda: first.told)
        assert 0.8 < trio.current_time() - began < 10
        assert tunnel.hopeless and tunnel.downtime.problem
        began = trio.current_time()
        second = Peer()
        tunnel.open_stream("192.0.2.1", 80, second)
        assert not second.told, "told from inside open_stream"
        await eventually(lambda: second.told)
        assert trio.current_time() - began < 0.8
        assert first.told == second.told == [503]


async def test_another_network_is_a_new_hope() -> None:
    async with tunnel_and_worker(grace=0.2, backoff=(60.0, 60.0)) as (tunnel, worker):
        await drop(worker.served[0])
        await eventually(lambda: tunnel.hopeless)
        with trio.fail_after(20):
            tunnel.retry()
            assert not tunnel.hopeless
            await eventually(lambda: tunnel.up)
        assert len(worker.served) == 2


async def test_reconnecting_is_immediate(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "zks_lwip")
    async with tunnel_and_worker(backoff=(60.0, 60.0)) as (tunnel, worker):
        peer = Peer()
        tunnel.open_stream("192.0.2.1", 80, peer)
        await eventually(lambda: peer.told)
        (before,) = tunnel.carriers
        with trio.fail_after(20):
            tunnel.reconnect("the network has changed")
            await eventually(lambda: 503 in peer.told and tunnel.up)
        (after,) = tunnel.carriers
        assert after is not before and len(worker.served) == 2
        assert "the network has changed: connecting" in caplog.text
        again = Peer()
        tunnel.open_stream("192.0.2.1", 80, again)
        await eventually(lambda: again.told == ["connected"])


async def test_an_attempt_over_the_old_network_is_given_up() -> None:
    async with listener_port() as silent, trio.open_nursery() as nursery:
        async with working() as worker:
            right = int(worker.url.rpartition(":")[2].split("/")[0])
            config = quick(f"ws://127.0.0.1:{silent}", upgrade_timeout=60.0)
            tunnel = Tunnel(config)
            nursery.start_soon(tunnel.run)
            await trio.sleep(0.1)
            tunnel.config = quick(f"ws://127.0.0.1:{right}")
            tunnel.retry()
            with trio.fail_after(20):
                await eventually(lambda: tunnel.up)
            nursery.cancel_scope.cancel()


async def test_before_the_start_the_grace_counts_from_the_start() -> None:
    tunnel = Tunnel(quick("ws://127.0.0.1:1", grace=1))
    assert not tunnel.hopeless
    async with listener_port() as silent, trio.open_nursery() as nursery:
        tunnel.config = quick(f"ws://127.0.0.1:{silent}", grace=1, upgrade_timeout=60)
        nursery.start_soon(tunnel.run)
        await trio.sleep(0.1)
        assert not tunnel.hopeless
        await eventually(lambda: tunnel.hopeless)
        nursery.cancel_scope.cancel()


async def test_reconnecting_a_tunnel_that_is_not_up_is_harmless() -> None:
    async with working() as worker:
        Tunnel(quick(worker.url)).reconnect("nothing runs")
        async with tunnelling(worker.url) as tunnel:
            assert tunnel.up
