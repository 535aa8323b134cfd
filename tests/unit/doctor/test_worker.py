"""What ``doctor`` finds of a worker, from its name to what it carries."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

from tests.kits.ports import refused_port
from tests.kits.worker import running_worker
from zks_lwip.config import VpnConfig
from zks_lwip.doctor.finding import Finding, Level
from zks_lwip.doctor.worker import examine_worker
from zks_lwip.tunnel.options import WorkerEndpoint


async def found(port: int, token: str | None = None) -> dict[str, Finding]:
    endpoint = WorkerEndpoint(url=f"ws://127.0.0.1:{port}/tunnel", token=token)
    async with aclosing(examine_worker(VpnConfig(workers=(endpoint,)), endpoint, None)) as findings:
        return {finding.name: finding async for finding in findings}


async def test_a_worker_that_is_well() -> None:
    async with running_worker() as (_, (_, port)):
        findings = await found(port)
    for name in ("worker", "token", "version", "UDP", "connections"):
        assert findings[name].level is Level.OK, findings[name]
    assert findings["TLS"].level is findings["throughput"].level is Level.NOTE
    assert all(each.to_json()["level"] != "failure" for each in findings.values())


async def test_a_worker_that_is_not_there() -> None:
    with refused_port() as port:
        (finding,) = (await found(port)).values()
    assert finding.name == "worker" and finding.level is Level.FAILURE
    assert "refused" in finding.text and finding.remedy


async def test_a_token_that_the_worker_does_not_know(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("a-user the-right-one-of-22-bytes\n")
    tokens.chmod(0o600)
    async with running_worker(token_file=tokens) as (_, (_, port)):
        findings = await found(port, "the-wrong-one-of-many-bytes")
    assert findings["worker"].level is Level.OK
    assert findings["token"].level is Level.FAILURE and "`token`" in findings["token"].remedy
