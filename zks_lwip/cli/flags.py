"""The flags of the command line, by the names that the package's errors give options."""

from __future__ import annotations

import re
from dataclasses import dataclass

import click

from ..errors import ZksError

__all__ = ["FLAGS", "ORIGINS", "Origin", "describe", "name_flags"]

FLAGS = {
    "access_log": "--access-log",
    "allow": "--allow",
    "allow_exclude": "--allow-exclude",
    "ca_file": "--ca-file",
    "channels": "--channels",
    "control_group": "--control-group",
    "dns.block": "--dns-block",
    "dns.forward": "--dns-forward",
    "dns.servers": "--dns",
    "dns.via": "--dns-via",
    "dns_static": "--dns-static",
    "download": "--download",
    "grace": "--grace",
    "host.always_on": "--always-on",
    "host.bypass": "--bypass",
    "host.inbound": "--allow-inbound",
    "host.mark": "--mark",
    "host.only": "--only",
    "host_loopback": "--host-loopback",
    "keepalive": "--keepalive",
    "kill_switch": "--kill-switch",
    "listen": "--listen",
    "log_targets": "--log-targets",
    "max_flows": "--max-flows",
    "max_memory": "--max-memory",
    "metrics": "--metrics",
    "mtu": "--mtu",
    "netns": "--netns",
    "once": "--once",
    "origins": "--allow-origin",
    "password_file": "--password-file",
    "plaintext": "--plaintext",
    "processes": "--processes",
    "protocol": "--protocol",
    "publish": "--publish",
    "resolvers": "--resolver",
    "session_prefix": "--session-prefix",
    "resume": "--resume",
    "tls_cert": "--tls-cert",
    "tls_key": "--tls-key",
    "trusted_proxies": "--trusted-proxy",
    "token": "--token-file",
    "token_file": "--token-file",
    "tun": "--tun",
    "user": "--user",
    "worker": "--worker",
    "worker_address": "--worker-address",
    "workers": "--worker",
    "yes": "--yes",
}
"""Options of :class:`~zks_lwip.config.VpnConfig`, :class:`~zks_lwip.worker.WorkerConfig` and
:class:`~zks_lwip.proxy.ProxyConfig` that an error may name; ``publish`` is
:func:`~zks_lwip.vpn.run_command`'s; ``download``, ``metrics``, ``once`` and ``yes`` are the
commands' own."""

ORIGINS = "zks_lwip.origins"
"""Where a context's ``meta`` has the :class:`Origin` of each flag that was not given as such."""

_NAME = re.compile(r"`([a-z_.]+)`")


@dataclass(frozen=True, slots=True)
class Origin:
    """What an option is called where it was given, in a file or in the environment."""

    leading: str
    """At the beginning of a sentence."""
    within: str


def describe(error: ZksError) -> str:
    """Return what an error says, with flags where it names options.

    What is in force by a file or by an environment variable is named so.
    """
    return name_flags(str(error))


def name_flags(text: str) -> str:
    """Return a text, of an error or a note, with flags where it names options."""
    context = click.get_current_context(silent=True)
    origins: dict[str, Origin] = {}
    if context is not None:
        origins = context.meta.get(ORIGINS, {})

    def show(match: re.Match[str]) -> str:
        flag = FLAGS.get(match[1])
        if flag is None:
            return match[0]
        origin = origins.get(flag)
        if origin is None:
            return flag
        return origin.leading if match.start() == 0 else origin.within

    return _NAME.sub(show, text)
