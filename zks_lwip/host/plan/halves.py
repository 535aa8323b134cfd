"""What plans for systems without marks of sockets share: macOS and Windows.

The default routes stay. Into the TUN lead two halves each, ``0.0.0.0/1`` and ``128.0.0.0/1``,
``::/1`` and ``8000::/1``, which go before them and vanish with the TUN.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...errors import ConfigError
from .config import HostConfig, KillSwitch, Network
from .state import HostState
from .step import Step

__all__ = ["captured", "check_wishes", "is_within", "stale"]

_HALVES = {4: ("0.0.0.0/1", "128.0.0.0/1"), 6: ("::/1", "8000::/1")}
_UNABLE = (
    ("bypass_users", "host.bypass", "user:NAME works on Linux only: name networks or hosts"),
    ("forward", "host.forward", "works on Linux only: leave it out"),
    ("inbound", "host.inbound", "works on Linux only: leave it out"),
    ("exclude", "allow_exclude", "works on Linux only: leave it out"),
    # Firewall and routes are for root, or administrators, alone.
    ("user", "user", "works on Linux only: leave it out"),
)


def check_wishes(config: HostConfig, system: str) -> None:
    """Refuse what such a system cannot do.

    :param system: its name.
    :raises ConfigError: that is asked for.
    """
    for name, option, why in _UNABLE:
        if getattr(config, name):
            raise ConfigError(why, option)
    if config.kill_switch is KillSwitch.ROUTE:
        raise ConfigError(
            f"route works on Linux only: on {system} routes alone do not hold; give strict or off",
            "kill_switch",
        )
    if config.peers is None:
        raise ConfigError(
            f"is needed on {system}: the connections of a worker on this machine would come back "
            "through the tunnel.",
            "worker",
        )


def captured(config: HostConfig, version: int) -> list[str]:
    """Return the networks of IPv4 or IPv6 that are led into the TUN."""
    if config.only:
        return [str(network) for network in config.only if network.version == version]
    return list(_HALVES[version])


def is_within(network: Network, other: Network) -> bool:
    """Return whether all of a network is in another, which may be of the other family."""
    return network.network_address in other and network.broadcast_address in other


def stale(state: HostState, steps: Iterable[Step], always: Iterable[Step]) -> tuple[Step, ...]:
    """Return what a dead instance has left and the new one does not want, last first.

    :param steps: the new one's.
    :param always: what is found without a journal.
    """
    left = [*(reversed(state.leftover.steps) if state.leftover else ()), *always]
    found = [
        step
        for step in left
        if step.remains(state) and not any(new.replaces(step) for new in steps)
    ]
    return tuple(dict.fromkeys(step.recorded() for step in found))
