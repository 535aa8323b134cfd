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
    "SessionLost",
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
    """An option, a file or a URL that cannot be used as given."""

    exit_code = 2


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
    """Something between us and the worker."""

    exit_code = 10


class WorkerUnreachable(TunnelError):
    """No connection to the worker: refused, timed out, no route, or its name does not resolve."""

    exit_code = 11


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
    """The peer broke the protocol (PROTOCOL.md); ``status`` is the WebSocket close status."""

    exit_code = 15

    def __init__(self, message: str, status: int = 1002) -> None:
        super().__init__(message)
        self.status = status


class SessionLost(TunnelError):
    """The session ended under its streams and cannot be resumed."""

    exit_code = 16


class DnsError(ZksError):
    """A DNS query could not be answered."""

    exit_code = 20


class CommandError(ZksError):
    """The command of ``run`` cannot be executed; ``exit_code`` is that of a shell: 127 or 126."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
