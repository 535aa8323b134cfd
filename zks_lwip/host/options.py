"""What ``connect`` can be told about the host, besides the tunnel: :class:`HostOptions`."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from zks_lwip.errors import ConfigError
from zks_lwip.host.config import MARK, HostConfig, Network, parse_network, parse_user

__all__ = ["HostOptions", "parse_duration", "parse_mark"]

_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)\Z")
_NUMBER = re.compile(r"[0-9]+\Z|0x[0-9a-f]*\Z")
_MARK = re.compile(r"(0x[0-9a-f]{1,8}|[0-9]{1,10})\Z")
_DURATION = re.compile(r"([0-9]{1,6})(s|m|h|)\Z")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, slots=True, kw_only=True)
class HostOptions:
    """``--lan``, ``--bypass``, ``--only``, ``--forward``, ``--allow-inbound``, ``--always-on`` and
    ``--mark``.

    :raises ConfigError: they contradict each other.
    """

    lan: bool = True
    """Connected private subnets are reached directly (but for their port 53)."""
    bypass: tuple[Network, ...] = ()
    """Reached directly."""
    bypass_hosts: tuple[str, ...] = ()
    """Names whose addresses are reached directly; looked up as the worker's name is."""
    bypass_users: tuple[int, ...] = ()
    """User ids whose traffic leaves directly (but for their DNS)."""
    only: tuple[Network, ...] = ()
    """If not empty, nothing else goes through the tunnel (but all DNS does)."""
    forward: bool = False
    """What the host forwards (of containers, say) goes through the tunnel, too."""
    inbound: tuple[int, ...] = ()
    """Ports whose callers from outside are answered the way they came."""
    always_on: bool = False
    """Closed from the first moment, and open again only when told to stop: not when there is no
    worker, not when it refuses us."""
    mark: int = MARK
    """The mark of the tunnel's own sockets; replies to ``inbound`` have the next one."""

    def __post_init__(self) -> None:
        HostConfig(
            bypass=self.bypass,
            bypass_users=self.bypass_users,
            only=self.only,
            inbound=self.inbound,
            mark=self.mark,
        )
        if self.only and self.bypass_hosts:
            raise ConfigError("--only and --bypass exclude each other: give one of them")

    @classmethod
    def parse(
        cls,
        *,
        lan: str = "allow",
        bypass: Iterable[str] = (),
        only: Iterable[str] = (),
        forward: bool = False,
        inbound: Iterable[int] = (),
        always_on: bool = False,
        mark: str = "",
    ) -> HostOptions:
        """Read what was written on the command line.

        :raises ConfigError: something cannot be read; names the option.
        """
        networks: list[Network] = []
        hosts: list[str] = []
        users: list[int] = []
        for text in bypass:
            kind, colon, name = text.partition(":")
            if colon and kind == "user":
                users.append(parse_user(name, "--bypass"))
            elif host := _name(text):
                hosts.append(host)
            else:
                networks.append(parse_network(text, "--bypass"))
        return cls(
            lan=lan == "allow",
            bypass=tuple(dict.fromkeys(networks)),
            bypass_hosts=tuple(dict.fromkeys(hosts)),
            bypass_users=tuple(dict.fromkeys(users)),
            only=tuple(dict.fromkeys(parse_network(text, "--only") for text in only)),
            forward=forward,
            inbound=tuple(dict.fromkeys(inbound)),
            always_on=always_on,
            mark=parse_mark(mark, "--mark") if mark else MARK,
        )


def _name(text: str) -> str:
    """The host name that a text is, in ASCII; empty if it is none, such as an address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        pass  # not an address, at least
    else:
        return ""
    try:
        name = text.rstrip(".").encode("idna").decode("ascii").lower()
    except UnicodeError:
        return ""
    labels = name.split(".")
    if len(name) > 253 or not all(map(_LABEL.match, labels)) or _NUMBER.match(labels[-1]):
        return ""  # (what ends in a number is never a name)
    return name


def parse_mark(text: str, option: str) -> int:
    """Read ``0x7a6b`` or ``31339``; whether it is in range is seen by :class:`HostOptions`.

    :raises ConfigError: it is no number; names the option.
    """
    if not _MARK.match(text.lower()):
        raise ConfigError(f"{option} {text}: give a number such as 0x7a6b or 31339")
    return int(text, 16) if text.lower().startswith("0x") else int(text)


def parse_duration(text: str, option: str, *, most: float) -> float:
    """Read ``90``, ``90s``, ``5m`` or ``1h``: seconds, at least one.

    :raises ConfigError: it is none, or more than ``most`` seconds; names the option.
    """
    match = _DURATION.match(text.strip().lower())
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 1 <= seconds <= most:
        raise ConfigError(
            f"{option} {text}: give a time such as 90s, 5m or 1h, of at most {most:g} s"
        )
    return seconds
