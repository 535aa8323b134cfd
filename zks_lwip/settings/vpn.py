"""A :class:`VpnConfig` made of texts: of a file of settings, or of the command line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config import (
    DEFAULT_HOST_LOOPBACK,
    DEFAULT_KEEPALIVE,
    DEFAULT_MTU,
    DEFAULT_TUN,
    DnsOptions,
    HostOptions,
    Icmp,
    Ipv6,
    KillSwitch,
    Protocol,
    VpnConfig,
    WorkerEndpoint,
    parse_host_loopback,
    parse_static_name,
    parse_worker_address,
    parse_worker_url,
    read_token_file,
)
from ..errors import ConfigError
from ..tunnel.endpoint import check_token
from ..tunnel.proxy import proxy_for
from .layers import read_settings

__all__ = ["make_config", "read_config"]

_HOST = {
    "allow_inbound": "inbound",
    **{name: name for name in ("lan", "bypass", "only", "forward", "always_on", "mark")},
}
_RENAMED = {"dns": "dns_servers"}
_OTHERS = frozenset({"stats", "verbose", "log_format", "yes", "dry_run", "tun_fd"})
"""Keys that are the command line's own."""


def read_config(profile: str | None = None, *, file: Path | str | None = None) -> VpnConfig:
    """Return what ``connect`` would be told by the files of settings, and by nothing else.

    The files are ``/etc/zks_lwip.toml`` and, before it, the user's
    ``~/.config/zks_lwip/config.toml`` (XDG_CONFIG_HOME is heeded). The command line's options and
    environment variables are not looked at, but for ``HTTPS_PROXY``.

    :param profile: the name of a section ``[profile.NAME]``, which beats what is outside of it.
    :param file: read this file in place of both.
    :raises ConfigError: a file is wrong, there is no such profile, or the settings cannot be used.
    """
    settings = read_settings(None if file is None else Path(file), os.environ)
    found = settings.select("connect", profile, os.environ)
    host: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for key, setting in found.items():
        if key in _HOST:
            host[_HOST[key]] = setting.value
        elif key not in _OTHERS:
            options[_RENAMED.get(key, key)] = setting.value
    try:
        return make_config(host=HostOptions.parse(**host), **options)
    except ConfigError as error:
        files = ", ".join(dict.fromkeys(str(setting.path) for setting in found.values()))
        told = ConfigError(f"{files}: {error}" if files else str(error))
        told.option = error.option
        raise told from None


def make_config(
    *,
    worker: Sequence[str] = (),
    worker_address: Sequence[str] = (),
    token: Sequence[str] = (),
    token_file: Sequence[Path] = (),
    ca_file: Path | None = None,
    plaintext: bool = False,
    protocol: str = Protocol.V2.value,
    max_flows: int = 8192,
    max_memory: int = 256,
    channels: int = 1,
    grace: float = 10.0,
    resume: int = 60,
    fast_open: bool = False,
    tun: str = DEFAULT_TUN,
    mtu: int = DEFAULT_MTU,
    ipv6: str = Ipv6.AUTO.value,
    icmp: str = Icmp.TUNNEL.value,
    dns_servers: Sequence[str] = (),
    dns_via: str = "auto",
    dns_block: Sequence[Path] = (),
    dns_forward: Sequence[str] = (),
    dot: str = "allow",
    dns_static: Sequence[str] = (),
    fast_connect: bool = False,
    keepalive: float = DEFAULT_KEEPALIVE,
    host_loopback: str | None = None,
    host: HostOptions | None = None,
    user: str | None = None,
    control_group: str | None = None,
    allow_exclude: Sequence[str] = (),
    netns: str | None = None,
    kill_switch: str = KillSwitch.STRICT.value,
) -> VpnConfig:
    """Return the configuration that the options, as texts, and ``HTTPS_PROXY`` describe.

    :param token: tokens themselves, in place of ``token_file``.
    :raises ConfigError: one of them cannot be used.
    """
    dns = DnsOptions.parse(
        servers=dns_servers, via=dns_via, block=dns_block, forward=dns_forward, dot=dot
    )
    v1 = protocol == Protocol.V1.value
    dns.outside(embedded=not worker, v1=v1)  # refuses what would leak
    if host_loopback is not None and worker:
        raise ConfigError(
            "works only without `worker`: a worker elsewhere cannot reach this host's loopback. "
            "Leave one of them out.",
            "host_loopback",
        )
    return VpnConfig(
        **_make_worker_options(worker, worker_address, token, token_file),
        ca_file=ca_file,
        plaintext=plaintext,
        protocol=Protocol(protocol),
        tun=tun,
        mtu=mtu,
        netns=netns,
        kill_switch=KillSwitch(kill_switch),
        host=HostOptions() if host is None else host,
        user=user,
        control_group=control_group,
        allow_exclude=tuple(allow_exclude),
        ipv6=Ipv6(ipv6),
        icmp=Icmp(icmp),
        dns=dns,
        dns_static=tuple(parse_static_name(text) for text in dns_static),
        fast_connect=fast_connect,
        max_flows=max_flows,
        max_memory=max_memory,
        channels=channels,
        grace=grace,
        resume=resume,
        fast_open=fast_open,
        keepalive=keepalive,
        host_loopback=(
            DEFAULT_HOST_LOOPBACK if host_loopback is None else parse_host_loopback(host_loopback)
        ),
    )


def _make_worker_options(
    workers: Sequence[str],
    addresses: Sequence[str],
    given: Sequence[str],
    token_files: Sequence[Path],
) -> dict[str, Any]:
    """Return the options of :class:`VpnConfig` that say which workers there are.

    :raises ConfigError: one cannot be used, or there are not as many of one as of the other.
    """
    urls = [parse_worker_url(text) for text in workers]
    many = len(urls)
    whom = "1 worker" if many == 1 else f"{many} workers"
    if len(addresses) not in (0, max(1, many)):
        raise ConfigError(
            f"is given {len(addresses)} times for {whom}: give one for each `worker`, in the same "
            "order (- where the name is to be looked up).",
            "worker_address",
        )
    option = "token" if given else "token_file"
    if len(given or token_files) not in (0, 1, max(1, many)):
        raise ConfigError(
            f"is given {len(given or token_files)} times for {whom}: give it once for all, or once "
            "for each `worker`, in the same order.",
            option,
        )
    tokens = [check_token(text) for text in given] or [
        read_token_file(path) for path in token_files
    ]
    parsed = [None if text == "-" else parse_worker_address(text) for text in addresses]
    proxies = [proxy_for(url, os.environ) for url in urls]
    if many <= 1:
        return {
            "worker": next(iter(urls), None),
            "worker_address": next(iter(parsed), None),
            "proxy": next(iter(proxies), None),
            "token": next(iter(tokens), None),
        }
    return {
        "token": tokens[0] if len(tokens) == 1 else None,
        "workers": tuple(
            WorkerEndpoint(
                url=urls[number],
                token=tokens[number] if len(tokens) == many else None,
                address=parsed[number] if parsed else None,
                proxy=proxies[number],
            )
            for number in range(many)
        ),
    }
