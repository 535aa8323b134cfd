"""The units of examples/systemd on a machine with systemd that is thrown away afterwards.

The package that examples/debian/build.sh makes of this checkout is installed there, and its units
with it, which are those of the examples. A network namespace is all that is outside::

    this machine 203.0.113.1 ──veth── 203.0.113.9 worker, for the client's units
                                      198.51.100.7 page, which says who asked for it
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.hosted import machine
from tests.hosted.outside import ELSEWHERE, WORKER, WORKER_PORT
from tests.kits.netns.child import Child, until
from tests.kits.netns.lab import Namespace
from tests.kits.netns.machine import picture as look_at_network
from tests.kits.netns.servers import HTTP

pytestmark = [machine.only_on("linux"), pytest.mark.slow]

PROGRAM = "/usr/bin/zks-lwip"
PACKAGED, LOCAL = Path("/usr/lib/systemd/system"), Path("/etc/systemd/system")
CONFIG = Path("/etc/zks-lwip")
NAME = "worker.example"
LINK, OURS = "zks-outside", "203.0.113.1"
URL = f"http://{ELSEWHERE}:{HTTP}/hello"
WORKER_UNIT, SOCKET = "zks-lwip-worker.service", "zks-lwip-worker.socket"
CLIENT, ALWAYS_ON = "zks-lwip.service", "zks-lwip-always-on.service"
DIRECTLY, BY_WORKER = f"hello {OURS}\n", f"hello {ELSEWHERE}\n"
"""What the page says to this machine, and to the worker, which is on the same machine as the page.
"""


def systemctl(*words: str, code: int = 0) -> str:
    argv = ["systemctl", "--no-ask-password", *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, f"{argv}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def show(unit: str, key: str) -> str:
    return systemctl("show", "--value", f"--property={key}", unit)


def journal(unit: str, *options: str) -> list[str]:
    argv = ["journalctl", "--quiet", "--no-pager", "--output=cat", f"--unit={unit}", *options]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60).stdout.splitlines()


def wait_for_journal(unit: str, pattern: str) -> None:
    """Wait for a line that the unit has written since it was started."""
    since = f"_SYSTEMD_INVOCATION_ID={show(unit, 'InvocationID')}"
    until(
        lambda: any(re.search(pattern, line) for line in journal(unit, since)),
        message=lambda: "\n".join(journal(unit)),
    )


@contextlib.contextmanager
def changed(unit: str, changes: dict[str, str], environment: str = "") -> Iterator[None]:
    """Have a unit say something else, as its head tells its users; stopped at the end.

    :param environment: variables, with which all options can be set, too.
    """
    text = (PACKAGED / unit).read_text()
    assert PROGRAM in text or unit == SOCKET
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    path = LOCAL / unit
    path.write_text(text.replace("[Service]\n", f"[Service]\nEnvironment={environment}\n"))
    try:
        systemctl("daemon-reload")
        yield
    finally:
        print(*journal(unit, "--lines=200"), sep="\n")  # which pytest shows of a failed test
        systemctl("stop", unit)
        path.unlink()
        systemctl("daemon-reload")
        systemctl("reset-failed")


@pytest.fixture(scope="module", autouse=True)
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What units and clients read: tokens, the certificate, and who has issued it."""
    folder = tmp_path_factory.mktemp("hosted")
    machine.make_tokens(folder)
    machine.make_certificate(folder, NAME)
    shutil.copy(folder / "tokens", folder / "token")
    names = [path.name for path in folder.iterdir()]
    for name in names:
        shutil.copy(folder / name, CONFIG / name)
    yield
    for name in names:
        (CONFIG / name).unlink()


@pytest.fixture(scope="module")
def outside() -> Iterator[Namespace]:
    """What is beyond this machine, the page among it."""
    with contextlib.closing(Namespace("outside")) as there, contextlib.ExitStack() as undo:
        add = f"link add {LINK} type veth peer name up0 netns {there.name}"
        for words in (add, f"addr add {OURS}/24 dev {LINK}", f"link set {LINK} up"):
            subprocess.run(["ip", *words.split()], check=True, timeout=20)
        undo.callback(subprocess.run, ["ip", "link", "del", LINK], check=True, timeout=20)
        there.ip(
            f"addr add {WORKER}/24 dev up0", f"addr add {ELSEWHERE}/32 dev lo", "link set up0 up"
        )
        route = ["ip", "route", "add", f"{ELSEWHERE}/32", "via", WORKER]
        subprocess.run(route, check=True, timeout=20)
        argv = inside(there, sys.executable, "-m", "tests.kits.netns.servers")
        with Child("page", argv) as page:
            page.wait_for("^servers are ready")
            yield there


def inside(net: Namespace, *argv: str) -> list[str]:
    return ["ip", "netns", "exec", net.name, *argv]


def curl(*options: str) -> str | None:
    """Return what an unconfigured curl is shown, None where it fails."""
    argv = ["curl", "-sS", "--max-time", "20", *options, URL]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    print(*argv, done.returncode, done.stderr)
    return done.stdout if done.returncode == 0 else None


AGAIN = ("--retry", "5", "--retry-all-errors")


def trusted(address: str, port: int) -> Sequence[str]:
    """Return the options of a client for a worker with our certificate."""
    url = f"wss://{NAME}:{port}"
    return ["--worker", url, "--worker-address", address, "--ca-file", str(CONFIG / "ca.pem")]


@contextlib.contextmanager
def client_of_the_worker(address: str) -> Iterator[str]:
    """Run a proxy whose worker is that of this machine; its address."""
    argv = [PROGRAM, "proxy", "--listen", "127.0.0.1:0", *trusted(address, 443)]
    with Child("proxy", [*argv, "--token-file", str(CONFIG / "tokens")]) as proxy:
        yield proxy.wait_for(r"^ready: (127\.0\.0\.1:\d+) ")[1]


ALLOWED = f"ZKS_LWIP_WORKER_ALLOW={ELSEWHERE}/32 ZKS_LWIP_WORKER_VERBOSE=1"
"""Otherwise the worker reaches nothing but the public internet, and says little."""


def test_the_worker(outside: Namespace) -> None:
    with changed(WORKER_UNIT, {}, ALLOWED):
        systemctl("start", WORKER_UNIT)
        assert systemctl("is-active", WORKER_UNIT) == "active"
        wait_for_journal(WORKER_UNIT, r"^listening on 0\.0\.0\.0:443\b")
        with urllib.request.urlopen("http://127.0.0.1:9478/ready", timeout=30) as answer:
            assert answer.status == 200
        with client_of_the_worker("::1") as proxy:
            assert curl("--proxy", f"socks5h://{proxy}") == DIRECTLY
        with client_of_the_worker("127.0.0.1") as proxy:
            assert curl("--proxy", f"socks5h://{proxy}") == DIRECTLY
            pid = show(WORKER_UNIT, "MainPID")
            systemctl("reload", WORKER_UNIT)
            wait_for_journal(WORKER_UNIT, "reloaded; 0 tokens were removed")
            assert show(WORKER_UNIT, "MainPID") == pid
            assert curl("--proxy", f"socks5h://{proxy}") == DIRECTLY
            # Killed after TimeoutStopSec= it would have another result, and a failure.
            systemctl("stop", WORKER_UNIT)
        assert show(WORKER_UNIT, "Result") == "success"
    log = Path("/var/log/zks-lwip/access.log").read_text()
    assert len(re.findall(r"session .*\btoken=hosted\b", log)) >= 2, log


def test_the_worker_comes_back_with_a_new_token(outside: Namespace) -> None:
    """Killed, it is started again; and a restart has it read the tokens anew."""
    tokens = CONFIG / "tokens"
    with changed(WORKER_UNIT, {}, ALLOWED):
        systemctl("start", WORKER_UNIT)
        with client_of_the_worker("127.0.0.1") as proxy:
            systemctl("kill", "--kill-who=main", "--signal=KILL", WORKER_UNIT)
            until(lambda: show(WORKER_UNIT, "NRestarts") == "1")
            assert (
                curl("--proxy", f"socks5h://{proxy}", "--retry", "5", "--retry-all-errors")
                == DIRECTLY
            )
        before = tokens.read_text()
        try:
            tokens.write_text(before.replace("0123", "3210"))
            systemctl("restart", WORKER_UNIT)
            with client_of_the_worker("127.0.0.1") as proxy:
                assert curl("--proxy", f"socks5h://{proxy}") == DIRECTLY
        finally:
            tokens.write_text(before)


def test_systemd_listens_for_the_worker(outside: Namespace) -> None:
    changes = {
        " --listen 0.0.0.0:443 --listen [::]:443": "",
        "=CAP_NET_BIND_SERVICE\n": "=\n",
    }
    with changed(WORKER_UNIT, changes, ALLOWED), changed(SOCKET, {}):
        systemctl("start", SOCKET)
        assert systemctl("is-active", WORKER_UNIT, code=3) == "inactive"
        with client_of_the_worker("::1") as proxy:
            assert systemctl("is-active", WORKER_UNIT) == "active"
            assert curl("--proxy", f"socks5h://{proxy}") == DIRECTLY
            systemctl("restart", WORKER_UNIT)
            assert (
                curl("--proxy", f"socks5h://{proxy}", "--retry", "5", "--retry-all-errors")
                == DIRECTLY
            )


@contextlib.contextmanager
def worker_outside(net: Namespace) -> Iterator[None]:
    """Run a worker for the client's units, on the machine of the page."""
    argv = ["worker", "--listen", f"{WORKER}:{WORKER_PORT}", "--allow", f"{ELSEWHERE}/32"]
    argv += ["--token-file", str(CONFIG / "tokens")]
    argv += ["--tls-cert", str(CONFIG / "fullchain.pem"), "--tls-key", str(CONFIG / "privkey.pem")]
    with Child("worker", inside(net, PROGRAM, *argv)) as worker:
        worker.wait_for("^listening on ")
        yield


def picture() -> dict[str, list[str]]:
    return {key: text.splitlines() for key, text in look_at_network().items()}


def wait_until(state: str) -> None:
    subprocess.run([PROGRAM, "status", "--wait", f"{state}=60"], check=True, timeout=90)


@pytest.fixture
def unchanged(outside: Namespace) -> Iterator[None]:
    """The machine is after as before, whatever happened to the client's unit."""
    before = machine.settled(picture)
    try:
        yield
    finally:
        subprocess.run([PROGRAM, "recover"], timeout=60)
    machine.check_same(before, picture)


URLS = {"--worker wss://worker.example": " ".join(trusted(WORKER, WORKER_PORT))}


def check_that_nothing_leaves() -> None:
    assert curl() is None
    assert curl("--interface", LINK, "--max-time", "5") is None


@pytest.mark.parametrize("unit", [CLIENT, ALWAYS_ON])
def test_the_client(outside: Namespace, unchanged: None, unit: str) -> None:
    assert curl() == DIRECTLY
    with changed(unit, URLS):
        with worker_outside(outside):
            systemctl("start", unit)
            wait_until("connected")
            assert systemctl("is-active", unit) == "active"
            assert curl() == BY_WORKER
            systemctl("reload", unit)
            assert curl() == BY_WORKER
            assert curl("--interface", LINK, "--max-time", "5") is None
        check_that_nothing_leaves()
        with worker_outside(outside):
            wait_until("connected")
            assert curl() == BY_WORKER
        systemctl("stop", unit)
        assert show(unit, "Result") == "success"
        assert curl() == DIRECTLY


def test_a_killed_client_opens_the_machine(outside: Namespace, unchanged: None) -> None:
    with changed(CLIENT, URLS), worker_outside(outside):
        systemctl("start", CLIENT)
        assert curl() == BY_WORKER
        systemctl("kill", "--kill-who=main", "--signal=KILL", CLIENT)
        until(lambda: show(CLIENT, "ActiveState") == "failed")
        assert curl() == DIRECTLY


def test_an_always_on_client_closes_the_machine_without_a_worker(
    outside: Namespace, unchanged: None
) -> None:
    """It is started with the machine closed; killed, it comes back, closed all the while."""
    with changed(ALWAYS_ON, URLS):
        systemctl("start", ALWAYS_ON)
        check_that_nothing_leaves()
        systemctl("kill", "--kill-who=main", "--signal=KILL", ALWAYS_ON)
        check_that_nothing_leaves()
        until(lambda: show(ALWAYS_ON, "NRestarts") == "1")
        with worker_outside(outside):
            wait_until("connected")
            assert curl() == BY_WORKER
        systemctl("stop", ALWAYS_ON)
        assert curl() == DIRECTLY
