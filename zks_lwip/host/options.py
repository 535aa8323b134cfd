"""What ``connect`` can be told about the host, besides the tunnel: :class:`HostOptions`."""

from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from types import UnionType
from typing import TYPE_CHECKING

from ..errors import ConfigError
from ..net.names import InvalidName, ends_in_number, explain_network, host_name
from .plan.config import MARK, HostConfig, Network

__all__ = ["HostOptions", "parse_duration", "parse_mark", "parse_network", "parse_user"]

_MARK = re.compile(r"(0x[0-9a-f]{1,8}|[0-9]{1,10})\Z")
_DURATION = re.compile(r"([0-9]{1,6})(s|m|h|)\Z")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
_MEMBERS: tuple[tuple[str, type | UnionType, str], ...] = (
    ("bypass", Network, "networks"),
    ("bypass_hosts", str, "names"),
    ("bypass_users", int, "user ids"),
    ("only", Network, "networks"),
    ("inbound", int, "ports"),
)
"""The lists, what they hold, and how errors call that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostOptions:
    """What leaves beside the tunnel, what comes in, and for how long the host stays closed.

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

    if TYPE_CHECKING:
        # Texts are read; what the fields hold has been.
        def __init__(
            self,
            *,
            lan: bool = ...,
            bypass: Iterable[Network | str] = ...,
            bypass_hosts: Iterable[str] = ...,
            bypass_users: Iterable[int] = ...,
            only: Iterable[Network | str] = ...,
            forward: bool = ...,
            inbound: Iterable[int] = ...,
            always_on: bool = ...,
            mark: int = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        for name in ("lan", "forward", "always_on"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise ConfigError(f"{value!r} cannot be used: give True or False.", f"host.{name}")
        for name in ("bypass", "bypass_hosts", "bypass_users", "only", "inbound"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise ConfigError(f"is a list: write ({value!r},).", f"host.{name}")
            if name in ("bypass", "only"):
                option = f"host.{name}"
                value = (parse_network(x, option) if isinstance(x, str) else x for x in value)
            object.__setattr__(self, name, tuple(value))
        self._check_kinds()
        HostConfig(
            bypass=self.bypass,
            bypass_users=self.bypass_users,
            only=self.only,
            inbound=self.inbound,
            mark=self.mark,
        )
        if self.only and self.bypass_hosts:
            raise ConfigError("and `host.bypass` exclude each other: give one of them", "host.only")

    def _check_kinds(self) -> None:
        """Check what the lists hold, and the mark."""
        for name, kind, needed in _MEMBERS:
            for value in getattr(self, name):
                fits = isinstance(value, kind) and not isinstance(value, bool)
                if fits and name == "bypass_users":
                    fits = 0 <= value < 2**32 - 1
                if not fits:
                    raise ConfigError(f"{value!r} cannot be used: give {needed}.", f"host.{name}")
        if not isinstance(self.mark, int) or isinstance(self.mark, bool):
            raise ConfigError(f"{self.mark!r} cannot be used: give a whole number.", "host.mark")

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
        """Read the options as texts.

        :raises ConfigError: something cannot be read; names the option.
        """
        networks: list[Network] = []
        hosts: list[str] = []
        users: list[int] = []
        for text in bypass:
            kind, colon, name = text.partition(":")
            if colon and kind == "user":
                users.append(parse_user(name, "host.bypass"))
            elif host := _name(text):
                hosts.append(host)
            else:
                networks.append(parse_network(text, "host.bypass"))
        return cls(
            lan=lan == "allow",
            bypass=tuple(dict.fromkeys(networks)),
            bypass_hosts=tuple(dict.fromkeys(hosts)),
            bypass_users=tuple(dict.fromkeys(users)),
            only=tuple(dict.fromkeys(parse_network(text, "host.only") for text in only)),
            forward=forward,
            inbound=tuple(dict.fromkeys(inbound)),
            always_on=always_on,
            mark=parse_mark(mark, "host.mark") if mark else MARK,
        )


def _name(text: str) -> str:
    """Return the host name that a text is, in ASCII; empty if it is none, such as an address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        pass  # not an address, at least
    else:
        return ""
    try:
        name = host_name(text)
    except InvalidName:
        return ""
    return "" if ends_in_number(name) else name


def parse_network(text: str, option: str) -> Network:
    """Read a network in CIDR form, or a single address.

    :param option: named in the error.
    :raises ConfigError: it is none, or has host bits set.
    """
    try:
        if "%" in text:
            raise ValueError("a zone (%) says nothing here")
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ConfigError(f"{text}: {explain_network(text, error)}", option) from None


def parse_user(name: str, option: str) -> int:
    """Return the user id of a user's name, or of a number.

    :param option: named in the error.
    :raises ConfigError: there is no such user.
    """
    if name.isascii() and name.isdigit() and int(name) < 2**32 - 1:
        return int(name)
    if sys.platform == "win32":
        raise ConfigError("user:NAME works on Linux only: name networks or hosts", option)
    import pwd

    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise ConfigError(
            f"user:{name}: there is no user of that name; give one that `getent passwd` shows, or "
            "a number",
            option,
        ) from None


def parse_mark(text: str, option: str) -> int:
    """Read ``0x7a6b`` or ``31339``; whether it is in range is seen by :class:`HostOptions`.

    :param option: named in the error.
    :raises ConfigError: it is no number.
    """
    if not _MARK.match(text.lower()):
        raise ConfigError(f"{text}: give a number such as 0x7a6b or 31339", option)
    return int(text, 16) if text.lower().startswith("0x") else int(text)


def parse_duration(text: str, option: str, *, most: float) -> float:
    """Read ``90``, ``90s``, ``5m`` or ``1h``.

    :param option: named in the error.
    :param most: seconds.
    :returns: seconds, at least 1.
    :raises ConfigError: it is none, or more than ``most`` seconds.
    """
    match = _DURATION.match(text.strip().lower())
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 1 <= seconds <= most:
        raise ConfigError(
            f"{option} {text}: give a time such as 90s, 5m or 1h, of at most {most:g} s"
        )
    return seconds
