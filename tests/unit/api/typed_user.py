"""A user's program: every way in, typed."""

from __future__ import annotations

import ipaddress
from functools import partial
from pathlib import Path

import trio

import zks_lwip
from zks_lwip import (
    AuthError,
    Direct,
    DnsOptions,
    FlowInfo,
    FlowRequest,
    HostOptions,
    Reject,
    Tunnel,
    Vpn,
    VpnConfig,
    VpnState,
    VpnStats,
    WorkerConfig,
    WorkerEndpoint,
    ZksError,
    open_stack,
    open_vpn,
    open_worker,
    parse_worker_url,
    read_config,
    read_token_file,
)
from zks_lwip.device import memory_device_pair
from zks_lwip.stack import TcpListener, TcpStream, UdpListener, open_tcp_stream, open_udp
from zks_lwip.testing import network


def make_config(path: Path) -> VpnConfig:
    try:
        return read_config("home")
    except ZksError:
        return VpnConfig(
            worker="wss://worker.example",
            token=read_token_file(path),
            ipv6="block",
            kill_switch="route",
            ca_file="ca.pem",
            dns=DnsOptions(via="worker", block=["hosts.txt"]),
            dns_static=["printer.lan=192.0.2.7"],
            host=HostOptions(lan=False),
            host_loopback="none",
        )


SEVERAL = VpnConfig(
    workers=[
        "wss://one.example",
        WorkerEndpoint(url=parse_worker_url("wss://two.example"), address="192.0.2.1"),
    ]
)


async def decide(flow: FlowRequest) -> Tunnel | type[Direct] | Reject:
    host, port = flow.destination
    if port == 25:
        return Reject.PROHIBITED
    return Tunnel("gateway.example") if host == "192.0.2.1" else Direct


async def use(vpn: Vpn) -> None:
    async with await vpn.open_tcp_stream("example.com", 443) as stream:
        await stream.send_all(b"hello")
        data: bytes = await stream.receive_some()
        print(data)
    udp = vpn.open_udp()
    udp.send(b"hello", ("192.0.2.1", 53))
    payload, (host, port) = await udp.receive()
    print(payload.decode(), host.upper(), port + 1)
    names: list[str] = await vpn.resolve("example.com")
    print(names)
    await vpn.wait_up()
    async for state in vpn.states():
        if state is VpnState.LOST:
            print(vpn.problem.upper())
    stats: VpnStats = vpn.stats()
    print(stats.bytes_up + stats.sessions[0].streams, stats.state.value)
    flows: list[FlowInfo] = vpn.flows()
    print([each.seconds + each.bytes_up for each in flows])


async def vpn_program(path: Path) -> None:
    device, _ = memory_device_pair()
    try:
        async with open_vpn(make_config(path), device=device, decide=decide) as vpn:
            await use(vpn)
        async with open_vpn(SEVERAL, capture=True) as vpn:
            print(vpn.interface.upper())
    except AuthError as error:
        print(error.exit_code)


async def shout(stream: TcpStream) -> None:
    async for data in stream:
        await stream.send_all(data.upper())


async def stack_program() -> None:
    left, right = memory_device_pair()
    async with open_stack(left, mtu=1500) as a, open_stack(right) as b, trio.open_nursery() as n:
        n.start_soon(trio.serve_listeners, shout, [TcpListener(b, "192.0.2.1", 80)])
        stream = await open_tcp_stream(a, "192.0.2.1", 80)
        await stream.aclose()
        async with open_udp(a) as udp, UdpListener(b, None, 53) as listener:
            udp.send(b"", ("192.0.2.1", 53))
            flow = await listener.accept()
            print(flow.source[1] + 1)


async def worker_program() -> None:
    config = WorkerConfig(port=0, allow=(ipaddress.ip_network("127.0.0.1/32"),))
    async with open_worker(config) as worker:
        print(worker.url.upper(), worker.stats().bytes_up + 1)
        print([each.name.upper() for each in worker.sessions()])


async def echo(stream: trio.SocketStream) -> None:
    await stream.send_all(await stream.receive_some())


async def test_program() -> None:
    async with network({"server": "192.0.2.1", "client": ["192.0.2.2"]}, delay=0.1) as net:
        net.link("server", "client").loss = 0.1
        async with trio.open_nursery() as nursery:
            with net.host("server"):
                nursery.start_soon(partial(trio.serve_tcp, echo, 80))


print(zks_lwip.__version__.upper())
