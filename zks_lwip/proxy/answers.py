"""What a client of the proxy is told when the far end cannot be had. Pure.

The codes are those of the tunnel's ERROR (PROTOCOL.md §4); RFC 1928 §6 has the replies of SOCKS5,
RFC 9209 §2.3 the words of the Proxy-Status header.
"""

from __future__ import annotations

from dataclasses import dataclass

from .socks5 import Reply

__all__ = ["ProxyAnswer", "answer_for", "proxy_status", "sentence_for"]


@dataclass(frozen=True, slots=True)
class ProxyAnswer:
    """What one code becomes."""

    reply: Reply
    """Of SOCKS5."""
    status: int
    """Of HTTP."""
    error: str
    """Of Proxy-Status."""
    text: str
    """In a body."""


_ANSWERS = {
    0: ProxyAnswer(
        Reply.REFUSED, 502, "connection_terminated", "the far end closed the connection"
    ),
    101: ProxyAnswer(
        Reply.NETWORK_UNREACHABLE, 502, "destination_ip_unroutable", "the network is unreachable"
    ),
    104: ProxyAnswer(
        Reply.REFUSED, 502, "connection_terminated", "the far end reset the connection"
    ),
    110: ProxyAnswer(
        Reply.TTL_EXPIRED, 504, "connection_timeout", "the far end did not answer in time"
    ),
    111: ProxyAnswer(
        Reply.REFUSED, 502, "connection_refused", "the far end refused the connection"
    ),
    113: ProxyAnswer(
        Reply.HOST_UNREACHABLE, 502, "destination_ip_unroutable", "the host is unreachable"
    ),
    403: ProxyAnswer(
        Reply.NOT_ALLOWED, 403, "destination_ip_prohibited", "the worker does not allow it"
    ),
    429: ProxyAnswer(
        Reply.FAILURE, 503, "connection_limit_reached", "a limit of the tunnel is reached"
    ),
    503: ProxyAnswer(Reply.FAILURE, 503, "destination_unavailable", "the tunnel is down"),
}
_OTHER = ProxyAnswer(
    Reply.HOST_UNREACHABLE, 502, "destination_unavailable", "the far end cannot be reached"
)
"""For 502, which the worker also says of a name that does not exist."""
_EXPLAINED = frozenset((403, 429, 502, 503))
"""Codes whose ERROR says why; with the others comes the name of an errno."""


def answer_for(code: int) -> ProxyAnswer:
    """Return what a code of ERROR becomes; 0 is CLOSE."""
    return _ANSWERS.get(code, _OTHER)


def sentence_for(code: int, message: str) -> str:
    """Return what became of a connection, in a clause.

    :param message: of the worker's ERROR, which knows more than the code of some; may be empty.
    """
    return message if message and code in _EXPLAINED else answer_for(code).text


def proxy_status(answer: ProxyAnswer) -> tuple[bytes, bytes]:
    """Return the Proxy-Status header (RFC 9209) of an answer."""
    return (b"Proxy-Status", f"zks-lwip; error={answer.error}".encode("ascii"))
