"""The TCP connection to the worker, or to the proxy before it: addresses, Happy Eyeballs, mark.

Every socket can be marked (``SO_MARK``) before it is connected, so that routing keeps it out of the
tunnel it carries.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import socket
from collections.abc import Callable, Sequence

import trio

from ..carrier.tcp_info import stretched
from ..errors import ConfigError, PrivilegeError, WorkerUnreachable, ZksError
from ..net.descriptors import is_scarcity, warn_of_scarcity
from ..net.fast_open import is_deferred, send_early
from ..net.happy_eyeballs import ATTEMPT_DELAY, interleave, race
from ..net.sockets import HAS_MARKS, KEEPS_OUT, MarkRefused, open_socket
from .options import TunnelConfig
from .proxy import ask_proxy

__all__ = ["ask_for_early_data", "open_path", "open_tcp"]

_log = logging.getLogger(__name__)

MAX_ADDRESSES = 16
"""Addresses of one name that are tried."""

Configure = Callable[[trio.socket.SocketType, str, int], None]

_REFUSED = (errno.ECONNREFUSED, errno.ECONNRESET)
"""What connect(2) says where the address has answered. All else is the network's silence."""
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM})
"""And where a firewall, or ICMP ("administratively prohibited"), has refused it on the way."""
_NO_WAY = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN})


class _Unconnected(OSError):
    """No address has taken the connection.

    :param answered: one of them has refused it.
    :param port_closed: all of them have.
    :param numbers: the errno of each failure.
    """

    def __init__(
        self, message: str, *, answered: bool, port_closed: bool, numbers: frozenset[int]
    ) -> None:
        super().__init__(message)
        self.numbers = numbers
        self.answered = answered
        self.port_closed = port_closed


async def open_path(
    config: TunnelConfig,
    slowness: float,
    on_answer: Callable[[], None] | None,
    *,
    early: bool = False,
) -> tuple[trio.SocketStream, float]:
    """Connect TCP to the worker, through the proxy if there is one.

    :param slowness: the round trip of other connections to the worker, in seconds, by which the
        time of ``config`` is stretched.
    :param on_answer: called when the worker, or the proxy, has taken the connection.
    :param early: where there is one address, send with the SYN what is sent first, if the system
        can (:mod:`~zks_lwip.net.fast_open`). Then nothing may have been answered yet.
    :returns: the connection, and when its first attempt began (``trio.current_time``).
    :raises WorkerUnreachable: it is worth another try.
    :raises AuthError: the proxy wants credentials, or others.
    :raises TunnelError: the proxy refuses, or is none.
    :raises ConfigError: what the worker's name resolves to may not be used.
    :raises PrivilegeError: the mark is not allowed.
    """
    limit = stretched(config.connect_timeout, 3, slowness)
    worker, proxy = config.worker, config.proxy
    whom = f"worker {worker}" if proxy is None else f"the proxy {proxy}"
    port = worker.port if proxy is None else proxy.port
    tcp = None
    began = trio.current_time()
    addresses: Sequence[str] | None = None
    try:
        with trio.fail_after(limit):
            addresses = await (_addresses(config) if proxy is None else _of_proxy(config))
            began = trio.current_time()
            tcp = await open_tcp(
                addresses,
                port,
                mark=config.mark,
                configure=config.configure_socket,
                early=early and proxy is None and len(addresses) == 1,
            )
            if on_answer is not None and not (early and is_deferred(tcp.socket)):
                on_answer()
            if proxy is not None:
                await ask_proxy(tcp, proxy, config.address or worker.host, worker.port)
    except BaseException as error:
        if tcp is not None:
            await trio.aclose_forcefully(tcp)
        if isinstance(error, trio.TooSlowError) and addresses is None:
            raise WorkerUnreachable(
                f"the name of {whom} does not resolve (no answer within "
                f"{limit:.3g} s): check {_asked(config)} and the network{_or_address(config)}.",
                answered=False,
            ) from None
        if isinstance(error, trio.TooSlowError):
            raise WorkerUnreachable(
                f"{whom} does not answer (nothing within {limit:.3g} s): check "
                "its address, the network and firewalls on the way.",
                answered=False,
            ) from None
        if is_scarcity(error):
            warn_of_scarcity(f"no connection to {whom} can be opened", error)
            raise WorkerUnreachable(
                f"no connection to {whom} can be opened: {error}; raise the limit of descriptors "
                "(`ulimit -n`, with systemd LimitNOFILE=)."
            ) from None
        if isinstance(error, (OSError, trio.BrokenResourceError)):
            raise WorkerUnreachable(
                f"{whom} cannot be reached ({error}): {_advice(error)}.",
                answered=getattr(error, "answered", True),
                port_closed=proxy is None and getattr(error, "port_closed", False),
            ) from None
        raise
    return tcp, began


def _advice(error: Exception) -> str:
    """Return what to do about a worker, or a proxy, that could not be connected to."""
    numbers = error.numbers if isinstance(error, _Unconnected) else frozenset()
    if numbers & _FORBIDDEN and not numbers.intersection(_REFUSED):
        return (
            "a firewall forbids it, or a `connect` that runs here already, whose tunnel does not "
            "lead to the worker itself (`zks-lwip status`)"
        )
    if errno.EHOSTUNREACH in numbers and numbers <= _NO_WAY:
        # Linux says the same of "administratively prohibited" over IPv4.
        return (
            "check this machine's network, that it runs there, and whether a `connect` that runs "
            "here already, whose tunnel does not lead to the worker itself, refuses it "
            "(`zks-lwip status`)"
        )
    if numbers and numbers <= _NO_WAY:
        return "check this machine's network, and that it runs there"
    return "check that it runs there"


async def _addresses(config: TunnelConfig) -> Sequence[str]:
    """Return the addresses of the worker, in the order to try them."""
    worker = config.worker
    if config.address is not None:
        found: Sequence[str] = [config.address]
    elif worker.address is not None:
        found = [worker.host]
    else:
        found = await _resolve(config, worker.host, f"worker {worker}")
    if not worker.secure and not config.plaintext:
        found = [each for each in found if _is_loopback(each)]
        if not found:
            raise ConfigError(
                f"{worker} is not encrypted and does not lead to this machine's loopback: use "
                "wss://, or insist with `plaintext`."
            )
    return _by_family(found)


async def _of_proxy(config: TunnelConfig) -> Sequence[str]:
    """Return the addresses of the proxy, in the order to try them."""
    proxy = config.proxy
    assert proxy is not None
    if proxy.address is not None:
        return [proxy.host]
    found = await _resolve(config, proxy.host, f"the proxy {proxy}")
    return _by_family(found)


async def _resolve(config: TunnelConfig, host: str, whose: str) -> Sequence[str]:
    """Return a name's addresses, at least one.

    :raises WorkerUnreachable: it has none, or they cannot be found.
    """
    try:
        found = await (config.resolve or ask_system)(host)
    except OSError as error:
        raise WorkerUnreachable(
            f"the name of {whose} does not resolve ({error.strerror or error}): check its "
            f"spelling and {_asked(config)}{_or_address(config)}.",
            answered=False,
        ) from None
    if not found:
        raise WorkerUnreachable(
            f"the name of {whose} has no addresses: check its spelling and DNS."
        )
    return found


def _asked(config: TunnelConfig) -> str:
    """Return what is asked for addresses, for a message."""
    if config.resolve is None:
        return "this machine's DNS"
    return "the resolvers that are asked, which need not be this machine's"


def _or_address(config: TunnelConfig) -> str:
    """Return what spares the look-up, for a message; a proxy's address goes into its URL."""
    return ", or give its address by `worker_address`" if config.proxy is None else ""


async def ask_system(host: str) -> list[str]:
    """Return what the system's resolver says.

    :raises OSError: there are no addresses.
    """
    infos = await trio.socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in infos))


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _by_family(addresses: Sequence[str]) -> list[str]:
    """Alternate between the families, beginning with the first address's."""
    first = [each for each in addresses if (":" in each) == (":" in addresses[0])]
    other = [each for each in addresses if (":" in each) != (":" in addresses[0])]
    return interleave(first, other)[:MAX_ADDRESSES]


async def ask_for_early_data(config: TunnelConfig, address: str) -> None:
    """Make a connection that does nothing but ask for a cookie, unless the system has one.

    Later ones may then be made as ``early`` says, see :func:`open_path`.
    """
    with trio.move_on_after(config.connect_timeout):
        try:
            port, mark = config.worker.port, config.mark
            await trio.aclose_forcefully(
                await open_tcp(
                    [address], port, mark=mark, configure=config.configure_socket, early=True
                )
            )
        except (OSError, ZksError) as error:  # the attempts themselves will say it
            _log.debug("no cookie for early data: %s", error)


async def open_tcp(
    addresses: Sequence[str],
    port: int,
    *,
    mark: int | None = None,
    configure: Configure | None = None,
    delay: float = ATTEMPT_DELAY,
    early: bool = False,
) -> trio.SocketStream:
    """Connect to the first of ``addresses`` that answers (RFC 8305 §5), with TCP_NODELAY.

    :param addresses: in text, in the order to try them; no names.
    :param mark: SO_MARK of every socket.
    :param configure: called with a socket, its address and its port before it is connected.
    :param delay: seconds until the next address is tried beside the last.
    :param early: as of :func:`open_path`; not with several addresses, where one that is dead would
        win.
    :raises OSError: none takes it; says what became of the first ones.
    :raises PrivilegeError: the mark is not allowed.
    """
    failures: list[str] = []
    answered, port_closed = False, True
    numbers: set[int] = set()
    scarcity: OSError | None = None

    async def connect(address: str) -> trio.SocketStream:
        sock, target = _make_socket(address, port, mark, configure)
        try:
            if early:
                send_early(sock)
            await sock.connect(target)
        except BaseException:
            sock.close()
            raise
        _log.debug("connected to %s", target)
        return trio.SocketStream(sock)

    def failed(address: str, error: OSError) -> None:
        nonlocal answered, port_closed, scarcity
        # What trio says of connect(2) repeats the address; getaddrinfo(3) has codes of its own.
        known = error.errno in errno.errorcode
        text = os.strerror(error.errno or 0) if known else error.strerror or error
        failures.append(f"{address}: {text}")
        numbers.add(error.errno or 0)
        answered |= error.errno in _REFUSED
        port_closed &= error.errno == errno.ECONNREFUSED
        scarcity = error if is_scarcity(error) else scarcity

    stream = await race(
        lambda: addresses,
        connect,
        errors=OSError,
        failed=failed,
        discard=trio.aclose_forcefully,
        delay=delay,
    )
    if stream is None:
        raise _Unconnected(
            "; ".join(failures[:4]),
            answered=answered,
            port_closed=port_closed,
            numbers=frozenset(numbers),
        ) from scarcity
    return stream


def _make_socket(
    address: str, port: int, mark: int | None, configure: Configure | None
) -> tuple[trio.socket.SocketType, tuple[object, ...]]:
    family, kind, proto, _, target = socket.getaddrinfo(
        address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
    )[0]
    if not HAS_MARKS and _is_loopback(address):
        mark = None  # it would bind the socket to an interface that does not lead there
    if mark is not None and not KEEPS_OUT:
        raise ConfigError("sockets cannot be marked on this system: leave the mark out.")
    try:
        sock = trio.socket.from_stdlib_socket(open_socket(family, kind, mark, proto))
    except MarkRefused:
        raise PrivilegeError(
            f"the mark {mark:#x} cannot be set on a socket: run as root or with CAP_NET_ADMIN."
        ) from None
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if configure is not None:
            configure(sock, address, port)
    except BaseException:
        sock.close()
        raise
    return sock, target
