"""Fixtures of the end-to-end tests, and the proof that they leave the machine as they found it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kits.netns import child, lab, machine, servers
from tests.kits.netns.child import Child
from tests.kits.netns.lab import PYTHON, USER, Lab, Namespace, our_namespaces

ROOT_ONLY = "needs root: makes network namespaces"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() != 0:
        for item in items:
            if "net" in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.skip(reason=ROOT_ONLY))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if report.failed:
        for one in child.alive:
            report.sections.append((f"child process {one.name} {one.pid}", one.output))
    return report


@pytest.fixture(scope="session", autouse=True)
def machine_is_left_as_found() -> Iterator[None]:
    """Routes, rules, nftables, sysctls, resolv.conf, processes and namespaces: after as before."""
    before = machine.picture()
    # Without it a time limit from outside (`timeout`) leaves everything behind.
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, previous)
    deadline = time.monotonic() + 20
    while True:  # others may work on this machine, too: only a lasting difference counts
        changed = machine.difference(before, machine.picture())
        processes, namespaces = child.leftovers(), our_namespaces()
        if not (changed or processes or namespaces) or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    assert not changed, f"the tests changed this machine:\n{changed}"
    assert not processes, f"processes were left behind: {processes}"
    assert not namespaces, f"namespaces were left behind: {namespaces}"


@pytest.fixture(scope="session")
def net(machine_is_left_as_found: None) -> Iterator[Lab]:
    """Worker's namespace, internet, and hosts (see ``lab.py``); for the whole session."""
    built = Lab()
    yield built
    built.close()


@pytest.fixture(scope="session")
def worker(net: Lab) -> Iterator[Child]:
    """The worker that most tests share."""
    with net.worker() as running:
        yield running
    running.no_traceback()


@pytest.fixture(scope="session")
def tunnel(net: Lab, worker: Child) -> Iterator[Child]:
    """A ``connect`` in ``net.host`` that most tests share."""
    with net.connect(net.host) as running:
        yield running
    running.no_traceback()
    assert running.process.returncode == 0


class Way:
    """One way into the tunnel: starts programs whose packets go through it."""

    def __init__(self, name: str, start: Callable[..., Child]) -> None:
        self.name = name
        self.start = start

    def client(self, *arguments: object, timeout: float = 200) -> str:
        """Run ``tests.kits.netns.client`` there to a good end; what it printed."""
        argv = [*PYTHON, "-m", "tests.kits.netns.client", *map(str, arguments)]
        return self.start(*argv).succeed(timeout)


@pytest.fixture(scope="session")
def captured(net: Lab, worker: Child) -> Iterator[Namespace]:
    """A namespace with loopback alone, captured by a ``connect --netns`` in a host of its own."""
    inside = net.namespace("captured")
    with net.connect(net.add_host(), "--netns", inside.name) as running:
        yield inside
    running.no_traceback()
    assert running.process.returncode == 0


@pytest.fixture(params=["connect", "netns", "run", "run-user"])
def way(request: pytest.FixtureRequest, net: Lab, worker: Child) -> Way:
    """Each way in turn: ``connect``, ``connect --netns``, ``run`` as root, ``run`` as a user."""
    name = request.param
    if name == "connect":
        request.getfixturevalue("tunnel")
        return Way(name, lambda *argv, **options: net.application(net.host, *argv, **options))
    if name == "netns":
        inside = request.getfixturevalue("captured")
        return Way(name, lambda *argv, **options: net.application(inside, *argv, **options))
    host = request.getfixturevalue("run_host")
    user = USER if name == "run-user" else None
    return Way(name, lambda *argv, **options: net.run(host, *argv, user=user, **options))


@pytest.fixture(scope="session")
def run_host(net: Lab) -> Namespace:
    """The host that ``run`` is used in."""
    return net.add_host()


@pytest.fixture(scope="session")
def repository(net: Lab) -> str:
    """A git repository among the web server's pages; the commit that its branch is at."""
    work, bare = net.directory / "work", net.pages / "project.git"
    who = {
        "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@zks.test", "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@zks.test",
    }  # fmt: skip

    def git(*argv: str, cwd: Path = net.directory) -> str:
        done = subprocess.run(
            ["git", *argv], cwd=cwd, env={**os.environ, **who}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    git("init", "-q", "-b", "main", str(work))
    (work / "data").write_bytes(b"".join(servers.pattern(2_000_000)))
    git("add", "data", cwd=work)
    git("commit", "-q", "-m", "one", cwd=work)
    git("clone", "-q", "--bare", str(work), str(bare))
    git("update-server-info", cwd=bare)
    return git("rev-parse", "HEAD", cwd=work)


@pytest.fixture(scope="session")
def ssh(net: Lab) -> Iterator[list[str]]:
    """An sshd at the far end, with throwaway keys; the ssh command that reaches it."""
    folder = net.directory / "ssh"
    folder.mkdir(mode=0o700)
    for name in ("host", "user"):
        key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(key, check=True)
    config = folder / "sshd_config"
    config.write_text(
        f"Port {lab.SSH_PORT}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\n"
        "StrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\nPidFile none\n"
        "PasswordAuthentication no\nUseDNS no\n"
    )
    argv = [shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-e", "-f", str(config)]
    with Child("sshd", net.far.command(argv, sshd=True)) as server:
        server.wait_for(f"Server listening on :: port {lab.SSH_PORT}")
        host_key = (folder / "host.pub").read_text().split()[:2]
        known = folder / "known_hosts"
        known.write_text("".join(f"[{a}]:{lab.SSH_PORT} {' '.join(host_key)}\n"
                                 for a in (lab.FAR4, lab.FAR6, "far.zks.test")))  # fmt: skip
        settings = [
            "BatchMode=yes",
            "ConnectTimeout=60",
            f"UserKnownHostsFile={known}",
            "GlobalKnownHostsFile=/dev/null",
        ]
        command = ["ssh", "-F", "none", "-i", f"{folder}/user", "-p", str(lab.SSH_PORT)]
        yield command + [word for setting in settings for word in ("-o", setting)]
