"""Keep the SSH connection that this command came over."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ..errors import ConfigError
from .plan.config import HostConfig
from .plan.state import HostState, lan_networks

__all__ = ["SshConnection", "check_ssh", "ssh_connection"]

_VARIABLE = "SSH_CONNECTION"


class SshConnection(NamedTuple):
    """An SSH connection, seen from this end; addresses without a zone."""

    client: str
    server: str
    port: int
    """Of the server, which is this host."""


def ssh_connection(environment: Mapping[str, str] = os.environ) -> SshConnection | None:
    """Return the SSH connection that this process was started over, if any.

    sudo takes the variable away, so the parents' environments are looked at, too (Linux, root).

    :param environment: where ``SSH_CONNECTION`` is looked for first.
    """
    values = [environment.get(_VARIABLE, ""), *_ancestors()]
    for value in values:
        fields = value.split()
        if len(fields) == 4 and fields[3].isdigit():
            client, server = (fields[index].partition("%")[0] for index in (0, 2))
            return SshConnection(client, server, int(fields[3]))
    return None


def _ancestors() -> list[str]:
    found = []
    pid = os.getppid()
    while pid > 1:
        directory = Path("/proc", str(pid))
        try:
            environment = (directory / "environ").read_bytes()
            stat = (directory / "stat").read_bytes()
        except OSError:
            break  # not ours to read, or ended in the meantime
        for entry in environment.split(b"\0"):
            name, _, value = entry.partition(b"=")
            if name == _VARIABLE.encode():
                found.append(value.decode(errors="replace"))
        pid = int(stat.rpartition(b")")[2].split()[1])
    return found


def check_ssh(config: HostConfig, state: HostState, connection: SshConnection | None) -> None:
    """Refuse a set-up that would cut the SSH connection that we were started over.

    It survives where its client is on a LAN that may be reached, is bypassed, or where the port is
    open for callers from outside (``--allow-inbound``), or outside of ``--only``; or where its end
    is not in the captured namespace.

    :raises ConfigError: it would not survive.
    """
    if connection is None or not state.own:
        return
    client, server = _unmapped(connection.client), _unmapped(connection.server)
    port = connection.port
    if not any(address.interface.ip == server for address in state.addresses):
        return
    direct = [*config.bypass, *(lan_networks(state, config.tun) if config.lan else ())]
    reachable = any(client in network for network in direct if network.version == client.version)
    if client.is_loopback or client.is_link_local or reachable or port in config.inbound:
        return
    if config.only and not any(
        client in network for network in config.only if network.version == client.version
    ):
        return
    raise ConfigError(
        f"this would cut the SSH connection from {client} that the command came over: keep it with "
        f"`host.bypass` {client} or `host.inbound` {port}, or insist with `yes`"
    )


def _unmapped(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the address; as IPv4 what an IPv6 socket shows of it."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
