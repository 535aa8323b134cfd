"""The containers of examples/docker on a machine with Docker that is thrown away afterwards.

They are those of ``compose.yml``, with files of secrets and an override of the test's::

    program, vpn ── Docker's bridge ── worker ── 198.51.100.0/24 ── page
                          │
                     this machine, 203.0.113.9: beside

Nothing but the worker leads to ``page``. To ``beside`` a container gets by itself, as it gets to
what is on the internet. (The bridge is a LAN: what else is on it the client leaves alone.)
ci.yml builds the images before; without that, compose does.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hosted import machine
from tests.kits.netns.child import ROOT, until

pytestmark = [machine.only_on("linux"), pytest.mark.slow]

PROJECT = "zks-hosted"
EXAMPLE = ROOT / "examples" / "docker" / "compose.yml"
WORKER_USER = 65532
WORKER = "worker.example"
NETWORK, PAGE, BESIDE = "198.51.100.0/24", "198.51.100.7", "203.0.113.9"
TEXT = "what the worker alone reaches\n"
LIMIT = 300
"""Seconds that a command may take on a busy machine: pulling an image is the longest."""


def run(*argv: str, code: int = 0) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == code, f"{' '.join(argv)}: {done.returncode}\n{done.stderr}"
    return done.stdout.strip()


class Containers:
    """The project of compose that the tests have made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = [EXAMPLE]
        self.example: dict[str, Any] = json.loads(self.compose("config", "--format", "json"))
        self.worker_address = ""

    def compose(self, *words: str) -> str:
        files = [word for path in self.files for word in ("--file", str(path))]
        return run("docker", "compose", "-p", PROJECT, "--profile", "worker", *files, *words)

    def override(self, settings: dict[str, Any]) -> None:
        """Change what the example says; JSON is YAML, too."""
        path = self.folder / f"override-{len(self.files)}.yml"
        path.write_text(json.dumps(settings, indent=1))
        self.files.append(path)

    def command(self, service: str) -> list[str]:
        """Return the command that the example gives a service."""
        return list(self.example["services"][service]["command"])

    def inspect(self, service: str) -> dict[str, Any]:
        (found,) = json.loads(run("docker", "inspect", self.container(service)))
        return dict(found)

    def container(self, service: str) -> str:
        return self.compose("ps", "--all", "--quiet", service)

    def on_the_bridge(self, service: str) -> str:
        """Return a container's address on Docker's own bridge."""
        networks = self.inspect(service)["NetworkSettings"]["Networks"]
        return str(networks["bridge"]["IPAddress"])

    def wait_until_vpn_is(self, health: str) -> None:
        until(
            lambda: self.inspect("vpn")["State"]["Health"]["Status"] == health,
            timeout=LIMIT,
            message=lambda: json.dumps(self.inspect("vpn")["State"], indent=1),
        )

    def fetch(self, address: str, *, network: str = "") -> str | None:
        """Have curl fetch the page beside the program; None where it fails."""
        network = network or f"container:{self.container('vpn')}"
        argv = ["docker", "run", "--rm", "--network", network]
        argv += [self.example["services"]["program"]["image"], "-sS", "--max-time", "15"]
        argv.append(f"http://{address}:8080/")
        done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT)
        print(*argv, done.returncode, done.stderr)
        assert done.returncode < 125, done.stderr  # docker's own failures
        return done.stdout if done.returncode == 0 else None


def make_secrets(folder: Path) -> dict[str, dict[str, str]]:
    """Write what the example's secrets are read from, with the owners that its head names."""
    machine.make_certificate(folder, WORKER)
    tokens = machine.make_tokens(folder)
    token = folder / "token"
    token.write_text(tokens.read_text().split()[1] + "\n")
    token.chmod(0o600)
    for name in ("tokens", "fullchain.pem", "privkey.pem"):
        os.chown(folder / name, WORKER_USER, -1)
    names = {"token": "token", "tokens": "tokens", "cert": "fullchain.pem", "key": "privkey.pem"}
    return {secret: {"file": str(folder / name)} for secret, name in names.items()}


def web_server(folder: Path, address: str) -> dict[str, Any]:
    (folder / "www").mkdir(exist_ok=True)
    (folder / "www" / "index.html").write_text(TEXT)
    return {
        "image": "python:3.13-slim",
        "init": True,
        "command": f"python -u -m http.server --bind {address} --directory /srv 8080",
        "volumes": [f"{folder / 'www'}:/srv:ro"],
    }


def start(containers: Containers) -> None:
    """Start all of them, as a user of the example does."""
    folder = containers.folder
    containers.override(
        {
            "services": {
                "page": {
                    **web_server(folder, "0.0.0.0"),
                    "networks": {"page": {"ipv4_address": PAGE}},
                },
                "beside": {**web_server(folder, BESIDE), "network_mode": "host"},
                "worker": {
                    "command": [*containers.command("worker"), "--allow", NETWORK],
                    "networks": {"page": {}},
                },
            },
            "networks": {"page": {"ipam": {"config": [{"subnet": NETWORK}]}}},
            "secrets": make_secrets(folder),
        }
    )
    containers.compose("up", "--detach", "--wait", "page", "beside", "worker")
    # Compose gives names to what it connects, which Docker's own bridge does not take.
    run("docker", "network", "connect", "bridge", containers.container("worker"))
    containers.worker_address = containers.on_the_bridge("worker")
    url = f"wss://{WORKER}"
    command = [f"{url}:8787" if word == url else word for word in containers.command("vpn")]
    command += ["--worker-address", containers.worker_address, "--ca-file", "/etc/ca.pem"]
    containers.override(
        {
            "services": {
                "vpn": {
                    "command": command,
                    "volumes": [f"{folder / 'ca.pem'}:/etc/ca.pem:ro"],
                },
                "program": {
                    "command": [*containers.command("program")[:-1], f"http://{PAGE}:8080/"]
                },
            }
        }
    )
    containers.compose("up", "--detach", "vpn", "program")


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Containers, float]]:
    """The containers, and when the first of them was started."""
    containers, since = Containers(tmp_path_factory.mktemp("hosted")), time.time()
    run("ip", "address", "add", f"{BESIDE}/32", "dev", "lo")
    try:
        start(containers)
        yield containers, since
    except BaseException:
        show_logs(containers)
        raise
    finally:
        containers.compose("down", "--volumes", "--timeout", "20")
        run("ip", "address", "del", f"{BESIDE}/32", "dev", "lo")


@pytest.fixture
def containers(started: tuple[Containers, float]) -> Iterator[Containers]:
    yield started[0]
    show_logs(started[0])  # which pytest shows where something has failed


def show_logs(containers: Containers) -> None:
    print(containers.compose("ps", "--all"))
    print(containers.compose("logs", "--timestamps", "--tail", "200"))


def events(since: float) -> list[tuple[str, str]]:
    """Return what happened to containers of the project: service and event, in order."""
    argv = ["docker", "events", "--since", f"{since:.6f}", "--until", f"{time.time():.6f}"]
    argv += ["--filter", "type=container", "--format", "{{json .}}"]
    argv += ["--filter", f"label=com.docker.compose.project={PROJECT}"]
    found = [json.loads(line) for line in run(*argv).splitlines()]
    found.sort(key=lambda each: each["timeNano"])
    service = "com.docker.compose.service"
    return [(each["Actor"]["Attributes"][service], each["Action"]) for each in found]


def test_the_program_starts_when_the_vpn_is_healthy_and_is_shown_the_page(
    started: tuple[Containers, float], containers: Containers
) -> None:
    told = events(started[1])
    assert told.index(("vpn", "health_status: healthy")) < told.index(("program", "start"))
    program = containers.container("program")
    assert run("docker", "wait", program) == "0"
    assert run("docker", "logs", program) == TEXT.strip()
    # Who asked for it is in the worker's network: there is no other way to the page.
    inside = containers.inspect("worker")["NetworkSettings"]["Networks"][f"{PROJECT}_page"]
    assert f"{inside['IPAddress']} - - " in containers.compose("logs", "--no-log-prefix", "page")


def test_the_program_is_started_again_with_the_vpn(containers: Containers) -> None:
    """It would be left in a namespace without any way out."""
    program = containers.container("program")
    before = containers.inspect("program")["State"]["StartedAt"]
    containers.compose("restart", "vpn")
    assert run("docker", "wait", program) == "0"
    assert containers.inspect("program")["State"]["StartedAt"] != before
    assert run("docker", "logs", program).splitlines() == [TEXT.strip()] * 2


def test_nothing_goes_beside_the_tunnel_while_the_worker_is_away(containers: Containers) -> None:
    # Other containers get there: without this, that the program does not would show nothing.
    assert containers.fetch(BESIDE, network="bridge") == TEXT
    assert containers.fetch(PAGE) == TEXT
    assert containers.fetch(BESIDE) is None, "the worker refuses it"
    containers.compose("stop", "worker")
    containers.wait_until_vpn_is("unhealthy")
    assert containers.fetch(PAGE) is None
    assert containers.fetch(BESIDE) is None
    containers.compose("start", "worker")
    assert containers.on_the_bridge("worker") == containers.worker_address
    containers.wait_until_vpn_is("healthy")
    assert containers.fetch(PAGE) == TEXT
    asked = containers.compose("logs", "--no-log-prefix", "beside")
    assert asked.count('"GET / ') == 1, asked
