"""A real Prometheus asks a real worker and a real client; the dashboard finds what it shows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.kits import programs
from tests.kits.worker import echo, tcp_server

EXAMPLES = Path(__file__).parents[3] / "examples" / "grafana"
TOKEN = "alice-" + "a" * 30


def queries() -> list[str]:
    """Every query of the dashboard, and of the alerts."""
    dashboard = json.loads((EXAMPLES / "zks-lwip.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    return found


#: Of what did not happen here, or is not there: no TLS, nothing refused, no TUN.
NOTHING = ("certificate", "refused", "stack_dropped", "zks_lwip_dns_latency")


class Prometheus:
    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expression: str) -> list[Any]:
        """What there is of it now."""
        address = f"{self.url}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(address, timeout=20) as answer:
            said = json.load(answer)
        assert said["status"] == "success"
        result: list[Any] = said["data"]["result"]
        return result

    def shows(self, query: str) -> bool:
        """Whether there is something of a query of the dashboard."""
        asked = query.replace("$__rate_interval", "1m").replace('"$instance"', '".*"')
        return bool(self.query(asked.replace('"$token"', '".*"')))


def lines_of(process: subprocess.Popen[bytes], *patterns: bytes) -> list[bytes]:
    """The first groups of the lines that have the patterns, in whatever order they come."""
    assert process.stdout is not None
    found: dict[bytes, bytes] = {}
    for line in process.stdout:
        found |= {each: hit[1] for each in patterns if (hit := re.search(each, line))}
        if len(found) == len(patterns):
            return [found[each] for each in patterns]
    raise AssertionError(f"it ended with {found} of {patterns}")


def line_of(process: subprocess.Popen[bytes], pattern: bytes) -> bytes:
    """The first group of the line that has the pattern."""
    return lines_of(process, pattern)[0]


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in reversed(processes):
        process.terminate()
    for process in processes:
        process.communicate(timeout=60)


def start(started: list[subprocess.Popen[bytes]], *arguments: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", "zks_lwip", *arguments, "-v"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    started.append(process)
    return process


async def through(proxy: tuple[str, int], port: int, size: int) -> None:
    """Send bytes to an echo server through the proxy, and take them back."""
    async with await trio.open_tcp_stream(*proxy) as stream:
        await stream.send_all(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
        await stream.send_all(bytes(size))
        while size > 0:
            size -= len(await stream.receive_some())


async def test_the_dashboard_shows_real_instances(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    binary = programs.find("prometheus")
    if binary is None:
        pytest.skip("Prometheus is not to be had")
    (tmp_path / "tokens").write_text(f"alice {TOKEN}\n")
    (tmp_path / "tokens").chmod(0o600)
    options = ("--token-file", str(tmp_path / "tokens"), "--metrics", "0")
    metrics = rb"metrics at http://(127\.0\.0\.1:\d+)/"
    worker = start(
        started, "worker", "--listen", "127.0.0.1:0", "--allow", "127.0.0.0/8", *options,
        "--processes", "2",
    )  # fmt: skip
    targets = [line_of(worker, metrics).decode()]
    url = line_of(worker, rb"listening on (.*)\n").decode()
    client = start(started, "proxy", "--listen", "127.0.0.1:0", "--worker", f"ws://{url}", *options)
    targets.append(line_of(client, metrics).decode())
    port = int(line_of(client, rb"ready: 127\.0\.0\.1:(\d+) "))

    config = (EXAMPLES / "prometheus.yml").read_text().replace("15s", "1s")
    for example, target in zip(("127.0.0.1:9478", "127.0.0.1:9479"), targets, strict=True):
        assert example in config
        config = config.replace(example, target)
    (tmp_path / "prometheus.yml").write_text(config)
    (tmp_path / "alerts.yml").write_text((EXAMPLES / "alerts.yml").read_text())
    program, environment = binary
    prometheus = subprocess.Popen(
        [
            program, f"--config.file={tmp_path / 'prometheus.yml'}", "--log.level=info",
            f"--storage.tsdb.path={tmp_path / 'data'}", "--web.listen-address=127.0.0.1:0",
        ],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment,
    )  # fmt: skip
    started.append(prometheus)
    address, _ = lines_of(
        prometheus,
        rb"Listening on\" address=(127\.0\.0\.1:\d+)",
        rb"(ready to receive web requests)",
    )
    server = Prometheus("http://" + address.decode())

    async with tcp_server(echo) as far:
        with trio.fail_after(60):
            for _ in range(4):
                await through(("127.0.0.1", port), far, 100_000)
                await trio.sleep(1)
            up = 'zks_lwip_worker_bytes_total{token="alice",direction="up"} >= 400000'
            up += " and rate(zks_lwip_worker_bytes_total[1m])"
            rates = "rate(zks_lwip_tunnel_wire_total[1m])"
            while (
                not server.query(up) or not server.query(rates) or len(server.query("up == 1")) != 2
            ):
                await trio.sleep(0.3)
    empty = queries()
    with trio.move_on_after(60):
        while empty := [
            query
            for query in empty
            if not server.shows(query) and not any(each in query for each in NOTHING)
        ]:
            await trio.sleep(0.3)  # a scrape that takes more than its second leaves a gap
    assert empty == []
    rules = json.load(urllib.request.urlopen(f"{server.url}/api/v1/rules", timeout=20))
    names = [rule["name"] for group in rules["data"]["groups"] for rule in group["rules"]]
    assert "ZksLwipCertificateEnds" in names and len(names) == 4
