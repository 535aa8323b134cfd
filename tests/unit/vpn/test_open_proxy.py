"""The proxy and its tunnel, put together."""

from __future__ import annotations

import pytest
import trio

from tests.kits.ports import kept_port
from tests.kits.proxy import ask, exactly
from tests.kits.tunnel import eventually, working
from zks_lwip.config import Proxy, VpnConfig, parse_worker_url
from zks_lwip.errors import AuthError, ConfigError
from zks_lwip.proxy import ProxyConfig
from zks_lwip.vpn import open_proxy


async def test_it_serves_through_the_worker() -> None:
    async with working() as worker:
        config = VpnConfig(worker=parse_worker_url(worker.url))
        async with open_proxy(config, ProxyConfig(port=0)) as proxy:
            assert proxy.up and str(proxy.worker) == worker.url
            async with await trio.open_tcp_stream(*proxy.address) as stream:
                assert (await ask(stream, 1, "far.example", 80))[0] == 0
                await stream.send_all(b"x")
                assert await exactly(stream, 1) == b"x"
                told = proxy.counters()
                assert told["proxy"]["flows"] == told["tunnel"]["streams"] == 1
        with pytest.raises(OSError):
            await trio.open_tcp_stream(*proxy.address)


async def test_a_client_that_comes_before_the_tunnel_is_up_waits() -> None:
    """Who listens is reached; what is asked for waits as it does while a tunnel is lost."""
    answered: list[int] = []
    with kept_port() as port:
        async with working() as worker, trio.open_nursery() as nursery:
            worker.on_connect = lambda served, event: served.connected(event)
            config = VpnConfig(worker=parse_worker_url(worker.url))

            async def client() -> None:
                stream = None
                while stream is None:
                    try:
                        stream = await trio.open_tcp_stream("127.0.0.1", port)
                    except OSError:
                        await trio.sleep(0.001)
                async with stream:
                    answered.append((await ask(stream, 1, "far.example", 80))[0])

            nursery.start_soon(client)
            async with open_proxy(config, ProxyConfig(port=port)):
                await eventually(lambda: answered == [0])


async def test_what_does_not_pass_by_itself_is_raised() -> None:
    async with working() as worker:
        worker.token = "another"
        config = VpnConfig(worker=parse_worker_url(worker.url), token="mine")
        with pytest.raises(AuthError):
            async with open_proxy(config, ProxyConfig(port=0)):
                raise AssertionError("there is no tunnel")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_it_does_not_reach_the_worker_through_itself(host: str) -> None:
    with kept_port() as port:
        config = VpnConfig(
            worker=parse_worker_url("wss://worker.example"), proxy=Proxy(host=host, port=port)
        )
        itself = "HTTPS_PROXY is .*, which is this proxy itself: unset"
        with pytest.raises(ConfigError, match=itself):
            async with open_proxy(config, ProxyConfig(port=port)):
                raise AssertionError("it went round in a circle")
