"""The one error tree of zks_lwip.

Every error that a user can meet says what happened, to what, and what to do. A command ends with
the ``exit_code`` of the error that ended it; the numbers are part of the interface and stay as they
are.
"""

from __future__ import annotations

__all__ = [
    "AuthError",
    "CertificateError",
    "CommandError",
    "ConfigError",
    "DeviceError",
    "DnsError",
    "HostError",
    "PrivilegeError",
    "ProtocolError",
    "StackError",
    "TunnelError",
    "WorkerNotFound",
    "WorkerUnreachable",
    "ZksError",
]


class ZksError(Exception):
    """Base of every error that zks_lwip raises on purpose."""

    exit_code = 1


class ConfigError(ZksError):
    """An option, a file or a URL that cannot be used as given.

    The message names options as :class:`~zks_lwip.config.VpnConfig` (or the worker's
    :class:`~zks_lwip.worker.WorkerConfig`) has them, between backticks: ```mtu```, ```dns.via```.
    The command line shows its flags in their place.

    :param message: what is wrong and what to write instead; where ``option`` is given, without it.
    :param option: the option that is wrong; the message then begins with it.
    """

    exit_code = 2

    def __init__(self, message: str, option: str | None = None) -> None:
        super().__init__(message if option is None else f"`{option}` {message}")
        self.option = option


class PrivilegeError(ZksError):
    """The operating system refuses what is needed; the message names the setting or privilege."""

    exit_code = 3


class HostError(ZksError):
    """The host could not be set up or put back (addresses, routes, rules, namespaces, resolver)."""

    exit_code = 4


class DeviceError(HostError):
    """A network device could not be opened or has gone."""


class StackError(ZksError):
    """The TCP/IP stack could not do what was asked (out of memory, closed)."""

    exit_code = 5


class TunnelError(ZksError):
    """The tunnel to the worker failed."""

    exit_code = 10


class WorkerUnreachable(TunnelError):
    """No connection to the worker: refused, timed out, no route, or its name does not resolve.

    :param answered: the attempt was refused: one made at once would be, too.
        False: there was silence, or no route.
    :param port_closed: the worker's machine has refused the connection: no process listens.
    :param status: of HTTP, by which the worker, or a front end, has refused the upgrade.
    """

    exit_code = 11

    def __init__(
        self,
        message: str,
        *,
        answered: bool = True,
        port_closed: bool = False,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.answered = answered
        self.port_closed = port_closed
        self.status = status


class CertificateError(TunnelError):
    """The worker's TLS certificate does not verify."""

    exit_code = 12


class AuthError(TunnelError):
    """The worker answered 401 or 403: the token is missing, wrong, or not allowed."""

    exit_code = 13


class WorkerNotFound(TunnelError):
    """What answered is not a worker: 404, a page, or no ``zks-tunnel.v2``."""

    exit_code = 14


class ProtocolError(TunnelError):
    """The peer broke the protocol (PROTOCOL.md); ``status`` is the WebSocket close status.

    It ends a session, but never a command: the tunnel is connected again, the worker goes on.
    """

    def __init__(self, message: str, status: int = 1002) -> None:
        super().__init__(message)
        self.status = status


class DnsError(ZksError):
    """A DNS query could not be answered."""

    exit_code = 20


class CommandError(ZksError):
    """The command of ``run`` cannot be executed; ``exit_code`` is that of a shell: 127 or 126."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
