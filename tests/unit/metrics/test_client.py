"""What a client shows: a real tunnel's numbers, and readiness."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from zks_lwip.metrics.client import ClientSource
from zks_lwip.net.histogram import Histogram
from zks_lwip.protocol import Code

from .test_server import samples, value


class Client:
    """A client that has counted this and that."""

    def __init__(self) -> None:
        self.up = True
        self.problem = ""
        self.dns_latency = Histogram()
        self.dns_latency.add(0.02)

    def counters(self) -> dict[str, Any]:
        return {
            "tasks": 7,
            "gateway": {
                "bytes_up": 5,
                "flows": 2,
                "refused": {int(Code.RESET): 3, 987654: 1, 987655: 2},
            },
            "stack": {"drop_checksum": 4, "packets_in": 9, "memory": 10},
            "dns": {"udp": 1, "rejected too short": 2, "cache_hits": 3},
        }

    def workers(self) -> list[dict[str, Any]]:
        one = {"worker": "wss://a", "in_use": True, "connect_seconds": 0.01, "problem": ""}
        two = {"worker": "wss://b", "in_use": False, "connect_seconds": None, "problem": "away"}
        return [one, two]

    def sessions(self) -> list[dict[str, Any]]:
        return [{"worker": "wss://a", "round_trip": trip} for trip in (0.0, 0.03, 0.02)]


class _Collected:
    def __init__(self, families: Any) -> None:
        self._families = families

    def collect(self) -> Any:
        return self._families


async def test_numbers() -> None:
    source = ClientSource(Client)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(await source.families()))  # type: ignore[arg-type]
    found = samples(generate_latest(registry).decode())
    assert value(found, "up") == 1 and value(found, "tasks") == 7
    assert value(found, "worker_in_use", worker="wss://a") == 1
    assert value(found, "worker_well", worker="wss://b") == 0
    assert value(found, "round_trip_seconds", worker="wss://a") == 0.03
    assert value(found, "gateway_bytes_total", direction="up") == 5
    assert value(found, "gateway_refused_total", reason="other") == 3  # a worker sends any number
    assert value(found, "gateway_refused_total", reason="reset") == 3
    assert value(found, "gateway_flows") == 2 and value(found, "stack_memory") == 10
    assert value(found, "stack_dropped_packets_total", reason="checksum") == 4
    assert value(found, "dns_rejected_total", reason="too_short") == 2
    assert value(found, "dns_latency_seconds_count") == 1
    assert value(found, "dns_latency_seconds_bucket", le="0.025") == 1


async def test_ready_or_why_not() -> None:
    running: list[Client] = []
    source = ClientSource(lambda: running[0] if running else None)
    assert source.problem() == "starting"
    assert len(tuple(await source.families())) == 2
    running.append(Client())
    assert source.problem() is None
    running[0].up, running[0].problem = False, "refused"
    assert source.problem() == "refused"
