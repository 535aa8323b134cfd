"""curl, dig, ssh, git and iperf3, unconfigured, through the tunnel."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.kits.netns import lab, servers
from tests.kits.netns.child import Child
from tests.kits.netns.lab import Lab
from tests.netns.conftest import Way


def test_curl_by_name(way: Way) -> None:
    page = way.start("curl", "-sS", "--max-time", "50", f"http://far.zks.test:{servers.HTTP}/hello")
    assert page.succeed() in (f"hello {lab.MID4}", f"hello {lab.MID6}")


@pytest.mark.parametrize("name", ["four.zks.test", "six.zks.test"])
def test_curl_download_and_upload(tunnel: Child, net: Lab, name: str) -> None:
    total = 5_000_000
    body = net.directory / "body"
    body.write_bytes(b"".join(servers.pattern(total)))
    url = f"http://{name}:{servers.HTTP}"
    got = net.directory / "got"
    net.application(net.host, "curl", "-sS", "-o", str(got), f"{url}/bytes/{total}").succeed()
    assert got.read_bytes() == body.read_bytes()
    sent = net.application(net.host, "curl", "-sS", "--data-binary", f"@{body}", f"{url}/post")
    assert sent.succeed() == f"{total} {servers.pattern_digest(total)}"


def test_dig(way: Way) -> None:
    assert way.start("dig", "far.zks.test", "+short").succeed() == lab.FAR4


def test_dig_over_tcp_truncated_and_missing(tunnel: Child, net: Lab) -> None:
    def dig(*argv: str) -> str:
        return net.application(net.host, "dig", *argv).succeed()

    assert dig("far.zks.test", "AAAA", "+short", "+tcp") == lab.FAR6
    assert dig("far.zks.test", "A", "+short", "@2a0e:ffff::53") == lab.FAR4
    long = dig("big.zks.test", "TXT", "+short")
    assert long.count("x" * 200) == 40
    assert "NXDOMAIN" in dig("nothing.zks.test")
    assert "REFUSED" in dig("elsewhere.example")


def test_getaddrinfo(way: Way) -> None:
    assert way.client("resolve", "far.zks.test") == f"{lab.FAR4} {lab.FAR6}"


def test_ssh_session(way: Way, ssh: list[str]) -> None:
    """A command, its code, and data through it; ``run`` as another user cannot read root's key."""
    if way.name == "run-user":
        scan = way.start("ssh-keyscan", "-T", "50", "-p", str(lab.SSH_PORT), lab.FAR4).succeed()
        assert "ssh-ed25519" in scan
        return
    session = way.start(*ssh, f"root@{lab.FAR4}", "echo $SSH_CONNECTION; exit 7")
    assert session.wait() == 7
    assert session.stdout[0].split()[0] == lab.MID4


def test_ssh_carries_data_and_a_terminal(tunnel: Child, net: Lab, ssh: list[str]) -> None:
    argv = [*ssh, "-tt", f"root@{lab.FAR6}", "head -c 3000000 /dev/zero | sha256sum; tty"]
    text = net.application(net.host, *argv).succeed()
    assert "/dev/pts/" in text
    zeros = subprocess.run("head -c 3000000 /dev/zero | sha256sum", shell=True, capture_output=True)
    assert zeros.stdout.decode().split()[0] in text


def test_git_clone_over_http(way: Way, net: Lab, repository: str) -> None:
    target = Path("/tmp") if way.name == "run-user" else net.directory
    target = target / f"{net.directory.name}-clone-{way.name}"
    url = f"http://far.zks.test:{servers.HTTP}/project.git"
    try:
        way.start("git", "clone", "-q", url, str(target), env={"HOME": "/nonexistent"}).succeed()
        assert (target / ".git" / "HEAD").exists()
        assert (target / "data").read_bytes() == b"".join(servers.pattern(2_000_000))
    finally:
        shutil.rmtree(target, ignore_errors=True)


def test_git_clone_over_ssh(tunnel: Child, net: Lab, ssh: list[str], repository: str) -> None:
    target = net.directory / "clone-ssh"
    url = f"ssh://root@far.zks.test/{net.pages}/project.git"
    git = ["git", "clone", "-q", url, str(target)]
    net.application(net.host, *git, env={"GIT_SSH_COMMAND": " ".join(ssh)}).succeed()
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=target, capture_output=True, text=True)
    assert head.stdout.strip() == repository


@pytest.mark.parametrize("direction", ["up", "down"])
def test_iperf3(tunnel: Child, net: Lab, direction: str) -> None:
    if not shutil.which("iperf3"):
        pytest.skip("iperf3 is not installed")
    with Child("iperf3 server", net.far.command(["iperf3", "-s", "-1", "--forceflush"])) as server:
        server.wait_for("Server listening")
        reverse = ["-R"] if direction == "down" else []
        argv = ["iperf3", "-c", lab.FAR4, "-n", "50M", "-P", "2", *reverse]
        assert "receiver" in net.application(net.host, *argv).succeed(120)
        assert server.wait() == 0
