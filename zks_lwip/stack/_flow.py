"""One TCP connection of an application, as the core has it: low level and without waiting."""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass
from typing import Any, Protocol

from .._lwip import ffi, lib
from ..errors import StackError
from ._address import unpack_end
from ._core import Core

__all__ = ["FAILURES", "Datagram", "Flow", "FlowHandler", "Reject"]

_from_buffer = ffi.from_buffer
_pull = lib.zks_flow_pull
_push = lib.zks_flow_push
_EOF: int = lib.ZKS_EOF
_NOMEM: int = lib.ZKS_NOMEM
_ESTABLISHED: int = lib.ZKS_EV_ESTABLISHED
_READABLE: int = lib.ZKS_EV_READABLE
_WRITABLE: int = lib.ZKS_EV_WRITABLE
_RESET: int = lib.ZKS_EV_RESET
_CLOSED: int = lib.ZKS_EV_CLOSED


FAILURES = {
    lib.ZKS_WHY_RESET: errno.ECONNREFUSED,
    lib.ZKS_WHY_TIMEOUT: errno.ETIMEDOUT,
    lib.ZKS_WHY_NET_UNREACHABLE: errno.ENETUNREACH,
    lib.ZKS_WHY_HOST_UNREACHABLE: errno.EHOSTUNREACH,
    lib.ZKS_WHY_PROHIBITED: errno.EACCES,
    lib.ZKS_WHY_TOO_BIG: errno.EMSGSIZE,
}
"""What is told of a connection, or a datagram, that ICMP or the peer has refused."""


class Reject(enum.Enum):
    """How a connection or a datagram is refused, as its sender sees it (RFC 792, RFC 4443)."""

    RST = lib.ZKS_REJECT_RST
    """TCP only: ``ECONNREFUSED``."""
    NET_UNREACHABLE = lib.ZKS_REJECT_NET_UNREACHABLE
    HOST_UNREACHABLE = lib.ZKS_REJECT_HOST_UNREACHABLE
    PROHIBITED = lib.ZKS_REJECT_PROHIBITED
    """Administratively prohibited (ICMP 3/13, ICMPv6 1/1)."""
    SILENT = lib.ZKS_REJECT_SILENT
    """Nothing is sent: the sender runs into its own time-out."""
    PORT_UNREACHABLE = lib.ZKS_REJECT_PORT_UNREACHABLE
    TOO_BIG = lib.ZKS_REJECT_TOO_BIG
    """Datagrams only: fragmentation needed (ICMP 3/4), packet too big (ICMPv6 2)."""


@dataclass(frozen=True, slots=True)
class Datagram:
    """A UDP datagram that an application has sent."""

    source: tuple[str, int]
    """Address and port of the application."""
    destination: tuple[str, int]
    """Address and port that it was sent to."""
    payload: memoryview
    """0 to 65507 bytes, valid as long as it is held."""
    hop_limit: int = 64
    """1 to 255, as the packet came."""
    traffic_class: int = 0
    """DSCP and ECN, 0 to 255 (RFC 2474, RFC 3168)."""


class FlowHandler(Protocol):
    """Callbacks of a flow, in the trio thread; none of them may block or raise."""

    def on_established(self) -> None:
        """The handshake is done."""

    def on_readable(self) -> None:
        """Bytes, or the end of them, wait for :meth:`Flow.pull_into`."""

    def on_writable(self) -> None:
        """A push that was cut short can go on."""

    def on_reset(self) -> None:
        """The application aborted, or vanished: nothing more comes and nothing more goes."""

    def on_closed(self) -> None:
        """Both directions have ended in order, or the application, after its FIN, is gone; what has
        come before may still be pulled.
        """


class Flow:
    """One TCP connection between an application and this end, on lwIP.

    It begins held: its SYN has come, and nothing has been answered. :meth:`accept` or
    :meth:`reject` decides. All methods return at once, belong to the trio thread, and do nothing
    when the connection or its stack is gone.

    :param ends: its source and destination, from :func:`~._address.pack_ends`.
    """

    __slots__ = (
        "_core",
        "_ended",
        "_ends",
        "_id",
        "_read",
        "failure",
        "handler",
    )

    handler: FlowHandler | None
    """Told what happens to the connection; None: not told."""
    failure: int | None
    """Why it was not connected, where it was opened from here: ECONNREFUSED, ETIMEDOUT, or what
    ICMP said, ENETUNREACH, EHOSTUNREACH or EACCES; None: it was, or is not reset yet."""

    def __init__(self, core: Core[Flow], ident: int, ends: bytes) -> None:
        self._core = core
        self._id = ident
        self._ended = False  # both directions, in lwIP
        self._read = False  # up to the end
        self._ends = ends
        self.handler = None
        self.failure = None
        core.flows[ident] = self

    @property
    def source(self) -> tuple[str, int]:
        """Address and port of the application."""
        return unpack_end(self._ends, 0)

    @property
    def destination(self) -> tuple[str, int]:
        """Address and port that it connects to."""
        return unpack_end(self._ends, 1)

    @property
    def gone(self) -> bool:
        """Whether it has ended, or was let go."""
        return self._id not in self._core.flows

    def __repr__(self) -> str:
        return f"<Flow {self.source} to {self.destination}>"

    def accept(self, *, quiet: bool = False) -> None:
        """Answer the held SYN; :meth:`FlowHandler.on_established` follows. Harmless if it is gone.

        :param quiet: that may follow as late as whatever else happens to the connection.
        :raises StackError: out of memory; the flow is gone.
        """
        core = self._core
        result = lib.zks_flow_accept(core.handle, self._id, quiet)
        if core.pulled:
            core.made_output()
        if result == _NOMEM:
            raise StackError("the connection could not be accepted: out of memory")

    def reject(self, how: Reject) -> None:
        """Refuse the held SYN; the flow is over. Harmless if it is gone.

        :param how: any but :attr:`Reject.TOO_BIG`.
        """
        lib.zks_flow_reject(self._core.handle, self._id, how.value)
        self._forget()

    def pull_into(self, view: memoryview | bytearray) -> int | None:
        """Take received bytes, and so open the receive window by as much.

        :returns: bytes written to ``view``; 0: none now; None: the application has sent FIN, and
            all before it has been taken.
        """
        core = self._core
        count: int = _pull(core.handle, self._id, _from_buffer("uint8_t[]", view), len(view))
        if count > 0:
            if core.pulled:
                core.made_output()
            return count
        if count == _EOF:
            self._read = True
            if self._ended:
                self.close()
            return None
        return 0

    def push(self, data: bytes | bytearray | memoryview) -> int:
        """Give bytes to the application; they are copied.

        :returns: how many were taken. Fewer than given: :meth:`FlowHandler.on_writable` says when
            to go on. 0 also when the flow has ended (its handler is told so).
        """
        core = self._core
        count: int = _push(core.handle, self._id, _from_buffer("uint8_t[]", data), len(data))
        if count >= 0:
            if core.pulled:
                core.made_output()
            return count
        if count == _NOMEM:
            self._fail()
        return 0

    @property
    def target(self) -> tuple[Any, int] | None:
        """What C is told to pull from this flow, and to push to it, as :meth:`pull_into` and
        :meth:`push` do: a ``struct zks_mux_target *``, and the name of the flow there. None: not
        to be done, since a trio task takes the packets that come of it.
        """
        core = self._core
        return None if core.pulled else (core.target, self._id)

    @property
    def moved(self) -> tuple[int, int]:
        """Bytes that were taken from the application, and that were given to it."""
        info = ffi.new("struct zks_flow_info *")
        lib.zks_flow_info(self._core.handle, self._id, info)
        return int(info.pulled), int(info.pushed)

    def unacked(self) -> int:
        """Return the bytes that were pushed and that the application has not acknowledged."""
        return int(max(0, lib.zks_flow_unacked(self._core.handle, self._id)))

    def send_eof(self) -> None:
        """Send FIN, after what has been pushed. Harmless twice, and when the flow is gone."""
        core = self._core
        lib.zks_flow_shutdown(core.handle, self._id)
        if core.pulled:
            core.made_output()

    def close(self) -> None:
        """Send FIN, and RST for what still comes; RST at once if received bytes were not pulled.

        The core forgets the connection when both directions are over.
        """
        if self._id in self._core.flows:
            lib.zks_flow_close(self._core.handle, self._id)
            self._forget()

    def abort(self) -> None:
        """Send RST. What was pushed and not acknowledged may not arrive."""
        lib.zks_flow_abort(self._core.handle, self._id)
        self._forget()

    def _on_events(self, mask: int) -> None:
        """Tell the handler what has happened, in the order in which it can have happened.

        :param mask: ``ZKS_EV_`` bits that the core has gathered since the last call.
        """
        handler = self.handler
        if mask & _RESET:
            if not mask & _ESTABLISHED:
                self.failure = FAILURES.get(lib.zks_flow_why(self._core.handle, self._id))
            self.close()
            if handler is not None:
                if mask & _ESTABLISHED:  # it was a connection, if a short one
                    handler.on_established()
                handler.on_reset()
            return
        if mask & _CLOSED:
            self._ended = True
            if self._read:
                self.close()
        if handler is None:
            return
        if mask & _ESTABLISHED:
            handler.on_established()
        if mask & _WRITABLE:
            handler.on_writable()
        if mask & _READABLE:
            handler.on_readable()
        if mask & _CLOSED:
            handler.on_closed()

    def _fail(self) -> None:
        """Out of memory in the middle of a stream: the application sees RST."""
        self.abort()
        if self.handler is not None:
            self.handler.on_reset()

    def _forget(self) -> None:
        core = self._core
        core.flows.pop(self._id, None)
        if core.pulled:
            core.made_output()
