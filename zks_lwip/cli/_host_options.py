"""The options of ``connect`` that are about the host, not about the tunnel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..host.plan.config import KillSwitch
from ._help import option_group

if TYPE_CHECKING:
    from ..config import HostOptions

__all__ = ["host_options", "make_host_options"]

_OPTIONS = (
    click.option(
        "--tun-fd",
        metavar="N",
        type=click.IntRange(0),
        help="Leave the machine as it is, and carry what comes out of this open descriptor of a "
        "TUN: what Android's VpnService or iOS's NEPacketTunnelProvider hands over, or a program "
        "with more rights. --mtu is to be that of its maker.",
    ),
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
        "--always-on/--no-always-on",
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
        "--forward/--no-forward",
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
        help="The firewall mark of our own packets (and the next two, with --allow-inbound and "
        "--allow-exclude), if something else on this machine uses 0x7a6b.",
    ),
    click.option(
        "--user",
        metavar="NAME",
        help="Become this user once the machine is set up. In any case only CAP_NET_ADMIN is kept.",
    ),
    click.option(
        "--control-group",
        metavar="GROUP",
        help="Members of this group may ask for `status` without root; to read only.",
    ),
    click.option(
        "--allow-exclude",
        metavar="USER|@GROUP",
        multiple=True,
        help="This user, or the members of this group, and root, may have programs of theirs send "
        "beside the tunnel: `exclude -- CMD`. Repeatable. Needs cgroup v2.",
    ),
    click.option(
        "--yes/--no-yes",
        help="Set up even if that cuts the SSH connection which this command came over.",
    ),
    click.option(
        "--dry-run/--no-dry-run",
        help="Print what would be changed, as commands that one could type, and change nothing.",
    ),
)


host_options = option_group("The host", *_OPTIONS)
"""Adds these options to a command."""


def make_host_options(options: dict[str, Any]) -> HostOptions:
    """Take what is about the host out of a command's options.

    :raises ConfigError: one of them cannot be used.
    """
    from ..config import HostOptions

    names = ("lan", "bypass", "only", "forward", "inbound", "always_on", "mark")
    return HostOptions.parse(**{name: options.pop(name) for name in names})
