"""The options of ``connect`` that are about the host, not about the tunnel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from ..config import HostOptions, KillSwitch

__all__ = ["host_options", "make_host_options"]

_Function = TypeVar("_Function", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--netns",
        metavar="NAME",
        help="Capture this network namespace (of `ip netns`) only; the worker is reached from the "
        "one we are in.",
    ),
    click.option(
        "--kill-switch",
        type=click.Choice([item.value for item in KillSwitch]),
        default=KillSwitch.STRICT.value,
        show_default=True,
        help="What holds the traffic when the tunnel does not. strict: routes that refuse, and a "
        "firewall (needs nft); route: only the routes; off: nothing, the machine falls back to its "
        "own network when we stop or die.",
    ),
    click.option(
        "--always-on",
        is_flag=True,
        help="Ready as soon as nothing can leave any more, connected or not; and only SIGTERM, "
        "`disconnect` or `recover` open the machine again, no error does.",
    ),
    click.option(
        "--lan",
        type=click.Choice(["allow", "block"]),
        default="allow",
        show_default=True,
        help="The private subnets that this machine is connected to are reached directly (their "
        "name servers are not), or only those of its own containers and virtual machines.",
    ),
    click.option(
        "--bypass",
        metavar="CIDR|HOST|user:NAME",
        multiple=True,
        help="What stays out of the tunnel: a network, an address, a name's addresses, or all "
        "that a user does but DNS. Repeatable.",
    ),
    click.option(
        "--only",
        metavar="CIDR",
        multiple=True,
        help="Only this network (and all DNS) goes through the tunnel. Repeatable.",
    ),
    click.option(
        "--forward",
        is_flag=True,
        help="What this machine forwards (of containers, of virtual machines) goes through the "
        "tunnel, too; otherwise it is refused.",
    ),
    click.option(
        "--allow-inbound",
        "inbound",
        metavar="PORT",
        type=click.IntRange(1, 65535),
        multiple=True,
        help="Who connects from outside to this TCP or UDP port of this machine's, also one that a "
        "container engine has published, is answered the way it came. Repeatable.",
    ),
    click.option(
        "--mark",
        metavar="NUMBER",
        default="",
        help="The firewall mark of our own packets (and the next number, with --allow-inbound), if "
        "something else on this machine uses 0x7a6b.",
    ),
    click.option(
        "--user",
        metavar="NAME",
        help="Become this user once the machine is set up. In any case only CAP_NET_ADMIN is kept.",
    ),
    click.option(
        "--yes",
        is_flag=True,
        help="Set up even if that cuts the SSH connection which this command came over.",
    ),
    click.option(
        "--dry-run",
        is_flag=True,
        help="Print what would be changed, as commands that one could type, and change nothing.",
    ),
)


def host_options(function: _Function) -> _Function:
    """Add these options to a command."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def make_host_options(options: dict[str, Any]) -> HostOptions:
    """Take what is about the host out of a command's options. Raises :class:`ConfigError`."""
    names = ("lan", "bypass", "only", "forward", "inbound", "always_on", "mark")
    return HostOptions.parse(**{name: options.pop(name) for name in names})
