"""The SSH connection that we were started over is not cut unasked."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from tests.unit.host.test_plan import LAPTOP, networks
from zks_lwip.errors import ConfigError
from zks_lwip.host.plan.config import HostConfig
from zks_lwip.host.ssh import SshConnection, check_ssh, ssh_connection

SERVER = "192.168.7.20"


def test_the_variable() -> None:
    plain = ssh_connection({"SSH_CONNECTION": "192.0.2.1 5555 10.0.0.1 22"})
    assert plain == ("192.0.2.1", "10.0.0.1", 22)
    zoned = ssh_connection({"SSH_CONNECTION": "fe80::1%eth0 5555 fe80::2%eth0 22"})
    assert zoned == ("fe80::1", "fe80::2", 22)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_sudo_takes_the_variable_but_not_our_parents() -> None:
    code = "from zks_lwip.host.ssh import ssh_connection; print(*ssh_connection({}))"
    environment = {**os.environ, "SSH_CONNECTION": "192.0.2.1 5 10.0.0.1 2222"}
    script = 'env -u SSH_CONNECTION "$0" -c "$1"; true'
    done = subprocess.run(
        ["sh", "-c", script, sys.executable, code], env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == "192.0.2.1 10.0.0.1 2222", done.stderr


@pytest.mark.parametrize(
    ("client", "options"),
    [
        ("192.168.7.9", {}),
        ("127.0.0.1", {}),
        ("::ffff:192.168.7.9", {}),
        ("fe80::1", {}),
        ("198.51.100.9", {"bypass": networks("198.51.100.9/32")}),
        ("198.51.100.9", {"inbound": (22,)}),
        ("198.51.100.9", {"only": networks("203.0.113.0/24")}),
    ],
)
def test_it_survives(client: str, options: dict[str, object]) -> None:
    check_ssh(HostConfig(**options), LAPTOP, SshConnection(client, SERVER, 22))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("client", "options"),
    [
        ("198.51.100.9", {}),
        ("::ffff:198.51.100.9", {}),
        ("192.168.7.9", {"lan": False}),
        ("198.51.100.9", {"inbound": (23,)}),
        ("198.51.100.9", {"only": networks("198.51.100.0/24")}),
    ],
)
def test_it_would_be_cut(client: str, options: dict[str, object]) -> None:
    config = HostConfig(**options)  # type: ignore[arg-type]
    for server in (SERVER, f"::ffff:{SERVER}"):
        with pytest.raises(ConfigError, match=r"`host.bypass` 19.* or `host.inbound` 22, .* `yes`"):
            check_ssh(config, LAPTOP, SshConnection(client, server, 22))
    elsewhere = SshConnection(client, "192.0.2.77", 22)
    check_ssh(config, LAPTOP, elsewhere)  # its end is in another namespace
    check_ssh(config, replace(LAPTOP, inode=9), SshConnection(client, SERVER, 22))
    check_ssh(config, LAPTOP, None)
