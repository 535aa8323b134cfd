"""What a VPN is told to do: :class:`VpnConfig`, composed of the packages' options.

A :class:`VpnConfig` that exists is valid. Everything wrong with what a user wrote raises
:class:`~zks_lwip.errors.ConfigError`, which says what is wrong, with which option, and what to
write instead. Each package reads and checks its own options; here is what concerns several of them.
Nothing in here touches the network; the only files read are those an option names.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING

from ._util import choice
from .device.options import DEFAULT_MTU, DEFAULT_TUN, DeviceOptions
from .dns.options import DnsOptions, StaticName, parse_static_name
from .errors import ConfigError
from .gateway.options import (
    DEFAULT_HOST_LOOPBACK,
    GatewayOptions,
    Icmp,
    Ipv6,
    parse_host_loopback,
)
from .host.options import HostOptions
from .host.plan.config import KillSwitch
from .net.tls import trust
from .stack.options import DEFAULT_KEEPALIVE, StackOptions
from .tunnel.endpoint import (
    Address,
    WorkerUrl,
    parse_worker_address,
    parse_worker_url,
    read_token_file,
)
from .tunnel.options import (
    Protocol,
    TunnelConfig,
    WorkerEndpoint,
    check_channels,
    check_grace,
    check_resume,
    read_endpoint,
)
from .tunnel.proxy import Proxy

__all__ = [
    "DEFAULT_HOST_LOOPBACK",
    "DEFAULT_KEEPALIVE",
    "DEFAULT_MTU",
    "DEFAULT_TUN",
    "DnsOptions",
    "HostOptions",
    "Icmp",
    "Ipv6",
    "KillSwitch",
    "Protocol",
    "Proxy",
    "StaticName",
    "VpnConfig",
    "WorkerEndpoint",
    "WorkerUrl",
    "parse_host_loopback",
    "parse_static_name",
    "parse_worker_address",
    "parse_worker_url",
    "read_token_file",
]

_KINDS: tuple[tuple[tuple[type, ...], str, str], ...] = (
    ((bool,), "True or False", "plaintext fast_connect fast_open"),
    ((int,), "a whole number", "channels resume mtu max_flows max_memory"),
    ((int, float), "a number", "grace keepalive"),
    ((str,), "a text", "tun"),
    ((str, type(None)), "a text, or None", "netns user control_group token"),
)
"""The kinds of values, how errors call them, and the fields."""
_PARTS: tuple[tuple[str, type | UnionType, str], ...] = (
    ("worker", WorkerUrl | None, "a URL, or None"),
    ("worker_address", Address | None, "an address, or None"),
    ("proxy", Proxy | None, "a URL, or None"),
    ("host", HostOptions, "HostOptions"),
    ("host_loopback", ipaddress.IPv4Address | None, "an IPv4 address, or None"),
    ("dns", DnsOptions | None, "DnsOptions, or None"),
)
"""The same of what has been read from texts, where it was one; and of the members of lists:"""
_MEMBERS: tuple[tuple[str, type, str], ...] = (
    ("workers", WorkerEndpoint, "URLs, or WorkerEndpoints"),
    ("allow_exclude", str, "names of users, and @ with those of groups"),
    ("dns_static", StaticName, "NAME=ADDRESS"),
)
_NETNS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class VpnConfig:
    """Everything that ``connect``, ``run`` and :func:`zks_lwip.vpn.open_vpn` can be told.

    URLs, addresses and enumerations may be given as texts, such as ``worker="wss://worker.example"``
    and ``ipv6="block"``.

    :raises ConfigError: a value is out of its range, or two contradict each other.
    """

    # The tunnel: see TunnelConfig.
    worker: WorkerUrl | None = None
    """None: one of ``workers``; without any, the embedded worker, a child process on this machine's
    loopback."""
    workers: tuple[WorkerEndpoint, ...] = ()
    """Several in place of ``worker``, 16 at most: the nearest that is well carries new connections.
    Where an entry has no token, ``token`` is for it."""
    worker_address: Address | None = None
    """Where the worker is; None: its name is looked up, or the proxy does that."""
    proxy: Proxy | None = None
    """The HTTP proxy that is asked to connect to the worker."""
    token: str | None = field(default=None, repr=False)
    """What the worker knows the client by: 1 to 4096 printable ASCII characters without spaces."""
    ca_file: Path | None = None
    """PEM file of certificates that are trusted besides the system's, for worker and resolvers."""
    plaintext: bool = False
    """``ws://`` is allowed to a worker that is not on loopback."""
    protocol: Protocol = Protocol.V2
    channels: int = 1
    """WebSockets over which connections are spread, 1 to 16."""
    grace: float = 10.0
    """Seconds for which a lost tunnel is waited for before flows are refused, 0 to 3600."""
    resume: int = 60
    """Seconds for which flows outlive a lost tunnel, if the worker agrees, 0 (not at all) to 3600;
    then they are reset."""
    fast_open: bool = False
    """Resume by requests that leave with their SYN (TCP Fast Open; Linux), where the worker's
    system allows it: a round trip less."""

    # The device: see DeviceOptions.
    tun: str = DEFAULT_TUN
    """The name of the TUN: 1 to 15 letters, digits, ``_``, ``-`` or ``.``."""
    mtu: int = DEFAULT_MTU
    """Bytes, 1280 to 65535."""

    # The host, where it is captured: not with a device of the caller's.
    netns: str | None = None
    """The network namespace that is captured, of ``ip netns``; None: the one of this process."""
    kill_switch: KillSwitch = KillSwitch.STRICT
    host: HostOptions = HostOptions()
    user: str | None = None
    """The user that ``connect`` and an embedded worker become; None: they stay what they are."""
    control_group: str | None = None
    """The group whose members may ask ``connect`` for its status, besides root; None: none."""
    allow_exclude: tuple[str, ...] = ()
    """Users (``NAME``) and groups (``@NAME``) that may have programs of theirs send beside the
    tunnel; empty: none may, root neither."""

    # The gateway: see GatewayOptions.
    ipv6: Ipv6 = Ipv6.AUTO
    icmp: Icmp = Icmp.TUNNEL
    fast_connect: bool = False
    """TCP connections are accepted before the worker has connected."""
    max_flows: int = 8192
    """TCP connections at a time, 1 to 65536."""
    host_loopback: ipaddress.IPv4Address | None = DEFAULT_HOST_LOOPBACK
    """Which address in the tunnel is the host's 127.0.0.1, with the embedded worker; None: none."""

    # The stack: see StackOptions.
    max_memory: int = 256
    """MiB that all connections hold, or may come to hold, together, 16 to 65536; each keeps 48 KiB
    on top."""
    keepalive: float = DEFAULT_KEEPALIVE
    """Seconds of an application's silence until its kernel is asked whether it still has the
    connection, 1 to 86400, or 0: never."""

    # DNS.
    dns: DnsOptions | None = None
    """None: the defaults."""
    dns_static: tuple[StaticName, ...] = ()
    """Names that are answered here and never asked for elsewhere."""

    if TYPE_CHECKING:
        # Texts are read, and judged; what the fields hold has been.
        def __init__(
            self,
            *,
            worker: WorkerUrl | str | None = ...,
            workers: Iterable[WorkerEndpoint | str] = ...,
            worker_address: Address | str | None = ...,
            proxy: Proxy | str | None = ...,
            token: str | None = ...,
            ca_file: Path | str | None = ...,
            plaintext: bool = ...,
            protocol: Protocol | str = ...,
            channels: int = ...,
            grace: float = ...,
            resume: int = ...,
            fast_open: bool = ...,
            tun: str = ...,
            mtu: int = ...,
            netns: str | None = ...,
            kill_switch: KillSwitch | str = ...,
            host: HostOptions = ...,
            user: str | None = ...,
            control_group: str | None = ...,
            allow_exclude: Iterable[str] = ...,
            ipv6: Ipv6 | str = ...,
            icmp: Icmp | str = ...,
            fast_connect: bool = ...,
            max_flows: int = ...,
            max_memory: int = ...,
            keepalive: float = ...,
            host_loopback: ipaddress.IPv4Address | str | None = ...,
            dns: DnsOptions | None = ...,
            dns_static: Iterable[StaticName | str] = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        self._check_kinds()
        self._read_texts()
        self._check_parts()
        if self.embedded:
            self._check_embedded()
            check_grace(self.grace)
            check_resume(self.resume)
            check_channels(self.channels)
        else:
            self._check_workers()
            self.tunnel()
            self._check_tls()
        if self.host.inbound and self.kill_switch is not KillSwitch.STRICT:
            raise ConfigError(
                "needs the firewall: leave `kill_switch` away, or say strict.", "host.inbound"
            )
        if self.host.always_on and self.kill_switch is KillSwitch.OFF:
            raise ConfigError(
                "is of no use with `kill_switch` off: nothing is closed.", "host.always_on"
            )
        if self.ca_file is not None:
            trust(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), self.ca_file)
        if self.netns is not None and not _NETNS.match(self.netns):
            raise ConfigError(
                f"{self.netns!r} is no namespace name: give one that `ip netns list` shows, "
                "without a path.",
                "netns",
            )
        _ = self.device, self.gateway, self.stack  # checked where they are made

    def _check_kinds(self) -> None:
        """Check that numbers are numbers: ``plaintext="no"`` would be true."""
        for kinds, needed, names in _KINDS:
            for name in names.split():
                value = getattr(self, name)
                if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                    shown = "" if name == "token" else f"{value!r} "
                    raise ConfigError(f"{shown}cannot be used: give {needed}.", name)

    def _read_texts(self) -> None:
        """Put in the place of texts what they say."""
        read_endpoint(self, url="worker", token="token", address="worker_address", proxy="proxy")

        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        if isinstance(self.workers, str):
            raise ConfigError("is a list: give several, or one as `worker`.", "workers")
        workers = tuple(self.workers)
        put("workers", tuple(WorkerEndpoint(url=w) if isinstance(w, str) else w for w in workers))
        if self.ca_file is not None:
            put("ca_file", Path(self.ca_file))
        put("protocol", choice(Protocol, self.protocol, "protocol"))
        put("kill_switch", choice(KillSwitch, self.kill_switch, "kill_switch"))
        put("ipv6", choice(Ipv6, self.ipv6, "ipv6"))
        put("icmp", choice(Icmp, self.icmp, "icmp"))
        if isinstance(self.host_loopback, str):
            put("host_loopback", parse_host_loopback(self.host_loopback))
        if isinstance(self.allow_exclude, str):
            raise ConfigError('is a list of names: write ("USER",).', "allow_exclude")
        put("allow_exclude", tuple(self.allow_exclude))
        if isinstance(self.dns_static, str):
            raise ConfigError('is a list of names: write ("NAME=ADDRESS",).', "dns_static")
        names = tuple(self.dns_static)
        put("dns_static", tuple(parse_static_name(n) if isinstance(n, str) else n for n in names))

    def _check_parts(self) -> None:
        """Check what is neither number nor text."""
        for name, kind, needed in _PARTS:
            value = getattr(self, name)
            if not isinstance(value, kind):
                shown = "" if name == "proxy" else f"{value!r} "  # a password, perhaps
                raise ConfigError(f"{shown}cannot be used: give {needed}.", name)
        for name, each, needed in _MEMBERS:
            for value in getattr(self, name):
                if not isinstance(value, each):
                    raise ConfigError(f"{value!r} cannot be used: give {needed}.", name)

    def _check_embedded(self) -> None:
        """Check that nothing is given that is for a worker elsewhere."""
        if self.token is not None:
            raise ConfigError(
                "is given without `worker`: the embedded worker makes a token of its own. Name "
                "the worker that the token is for with `worker` URL.",
                "token",
            )
        if self.ca_file is not None and not self._names_resolvers:
            raise ConfigError(
                "is given without `worker`: the embedded worker is reached over loopback, without "
                "TLS. Name the worker with `worker` URL, or a resolver that the certificates are "
                "for with `dns.servers` URL.",
                "ca_file",
            )
        if self.worker_address is not None:
            raise ConfigError(
                "is given without `worker`: name the worker that is there with `worker` URL.",
                "worker_address",
            )

    def _check_workers(self) -> None:
        if self.workers and self.worker is not None:
            raise ConfigError("is given beside `worker`: put that into it, too.", "workers")
        if self.workers and (self.worker_address is not None or self.proxy is not None):
            raise ConfigError(
                "is for a single worker: each entry of `workers` has its own.",
                "proxy" if self.worker_address is None else "worker_address",
            )
        urls = [each.url for each in self.workers]
        twice = next((url for url in urls if urls.count(url) > 1), None)
        if twice is not None:
            raise ConfigError(f"{twice} is given twice: leave one out.", "worker")

    def _check_tls(self) -> None:
        secure = any(each.url.secure for each in self.endpoints)
        if self.ca_file is not None and not secure and not self._names_resolvers:
            which = " and ".join(str(each.url) for each in self.endpoints)
            raise ConfigError(
                f"is of no use with {which}: there is no TLS. Use wss://, or leave it out.",
                "ca_file",
            )

    @property
    def _names_resolvers(self) -> bool:
        return self.dns is not None and bool(self.dns.servers)

    @property
    def embedded(self) -> bool:
        """Whether the worker is a child process of ours."""
        return self.worker is None and not self.workers

    @property
    def endpoints(self) -> tuple[WorkerEndpoint, ...]:
        """The workers that are named, as ``worker`` or by ``workers``; none: the embedded one."""
        if self.worker is None:
            return self.workers
        return (
            WorkerEndpoint(
                url=self.worker,
                token=self.token,
                address=self.worker_address,
                proxy=self.proxy,
            ),
        )

    @property
    def loopback_alias(self) -> ipaddress.IPv4Address | None:
        """Which address in the tunnel stands for the host's 127.0.0.1; None where none does."""
        return self.host_loopback if self.embedded else None

    def tunnel(self, embedded: WorkerEndpoint | None = None) -> TunnelConfig:
        """Return the options of a tunnel to the workers that are named.

        :param embedded: where there are none: the worker that has been started.
        """
        first, *others = self.endpoints or ((embedded,) if embedded is not None else ())
        return TunnelConfig(
            url=first.url,
            others=tuple(
                replace(each, token=self.token if each.token is None else each.token)
                for each in others
            ),
            token=self.token if first.token is None else first.token,
            ca_file=self.ca_file,
            plaintext=self.plaintext,
            protocol=self.protocol,
            address=None if first.address is None else str(first.address),
            proxy=first.proxy,
            channels=self.channels,
            grace=self.grace,
            resume=self.resume,
            fast_open=self.fast_open,
        )

    @property
    def device(self) -> DeviceOptions:
        """The options of the TUN."""
        return DeviceOptions(tun=self.tun, mtu=self.mtu)

    @property
    def stack(self) -> StackOptions:
        """The options of the stack."""
        return StackOptions(max_memory=self.max_memory, keepalive=self.keepalive)

    @property
    def half_memory(self) -> int:
        """Half of ``max_memory``, in bytes: the stack has one half, the tunnel the other."""
        return (self.stack.max_memory << 20) // 2

    @property
    def gateway(self) -> GatewayOptions:
        """The options of the gateway."""
        return GatewayOptions(
            ipv6=self.ipv6,
            icmp=self.icmp,
            fast_connect=self.fast_connect,
            max_flows=self.max_flows,
            loopback_alias=self.loopback_alias,
        )
