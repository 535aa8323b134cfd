"""One TCP connection of an application, as the core has it: low level and without waiting."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from zks_lwip._lwip import ffi, lib
from zks_lwip.errors import StackError

if TYPE_CHECKING:
    from zks_lwip.stack._stack import Stack

__all__ = ["Datagram", "Flow", "FlowHandler", "Reject"]

_from_buffer = ffi.from_buffer
_pull = lib.zks_flow_pull
_push = lib.zks_flow_push
_EOF: int = lib.ZKS_EOF
_NOMEM: int = lib.ZKS_NOMEM


class Reject(enum.Enum):
    """How a connection or a datagram is refused, as its sender sees it."""

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
    payload: memoryview
    """0 to 65507 bytes, valid as long as it is held."""
    hop_limit: int = 64
    """1 to 255, as the packet came."""
    traffic_class: int = 0
    """DSCP and ECN."""


class FlowHandler(Protocol):
    """Whom a flow tells what happens to it, in the trio thread; nothing here may block."""

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
    """One TCP connection between an application and us, on lwIP.

    It begins held: its SYN has come, and nothing has been answered. :meth:`accept` or
    :meth:`reject` decides. All methods return at once and belong to the trio thread.
    """

    __slots__ = ("_core", "_ended", "_id", "_read", "_stack", "destination", "handler", "source")

    source: tuple[str, int]
    """Address and port of the application."""
    destination: tuple[str, int]
    """What it connects to."""
    handler: FlowHandler | None

    def __init__(
        self, stack: Stack, ident: int, source: tuple[str, int], destination: tuple[str, int]
    ) -> None:
        self._stack = stack
        self._core: Any = stack._core
        self._id = ident
        self._ended = False  # both directions, in lwIP
        self._read = False  # up to the end
        self.source = source
        self.destination = destination
        self.handler = None

    def __repr__(self) -> str:
        return f"<Flow {self.source} to {self.destination}>"

    def accept(self) -> None:
        """Answer the held SYN; :meth:`FlowHandler.on_established` follows. Harmless if it is gone.

        :raises StackError: out of memory; the flow is gone.
        """
        result = lib.zks_flow_accept(self._core, self._id)
        self._stack._made_output()
        if result == _NOMEM:
            raise StackError("the connection could not be accepted: out of memory")

    def reject(self, how: Reject) -> None:
        """Refuse the held SYN; the flow is over. Harmless if it is gone."""
        lib.zks_flow_reject(self._core, self._id, how.value)
        self._stack._forget(self)

    def pull_into(self, view: memoryview | bytearray) -> int | None:
        """Take received bytes, and so open the receive window by as much.

        :return: bytes written to ``view``; 0: none now; None: the application has sent FIN, and all
            before it has been taken.
        """
        count: int = _pull(self._core, self._id, _from_buffer("uint8_t[]", view), len(view))
        if count > 0:
            self._stack._made_output()
            return count
        if count == _EOF:
            self._read = True
            if self._ended:
                self._release()
            return None
        return 0

    def push(self, data: bytes | bytearray | memoryview) -> int:
        """Give bytes to the application; they are copied.

        :return: how many were taken. Fewer than given: :meth:`FlowHandler.on_writable` says when to
            go on. 0 also when the flow has ended (its handler is told so).
        """
        count: int = _push(self._core, self._id, _from_buffer("uint8_t[]", data), len(data))
        if count >= 0:
            self._stack._made_output()
            return count
        if count == _NOMEM:
            self._stack._fail(self)
        return 0

    def unacked(self) -> int:
        """Bytes that were pushed and that the application's side has not acknowledged."""
        return int(max(0, lib.zks_flow_unacked(self._core, self._id)))

    def send_eof(self) -> None:
        """FIN, after what has been pushed. Harmless twice, and when the flow is gone."""
        lib.zks_flow_shutdown(self._core, self._id)
        self._stack._made_output()

    def close(self) -> None:
        """FIN, and RST for what still comes; RST at once if received bytes were not pulled."""
        lib.zks_flow_close(self._core, self._id)
        self._stack._forget(self)

    def abort(self) -> None:
        """RST. Nothing that was pushed and not acknowledged arrives for sure."""
        lib.zks_flow_abort(self._core, self._id)
        self._stack._forget(self)

    def _release(self) -> None:
        """The core may forget it."""
        lib.zks_flow_close(self._core, self._id)
        self._stack._forget(self)
