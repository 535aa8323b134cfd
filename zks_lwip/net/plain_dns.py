"""Asking one name server by plain DNS (RFC 1035, 5452, 7766): what makes an answer trusted.

A query has a random id, and a socket of its own, so a random port; the socket is connected, so
that the kernel passes on what comes from that server only. An answer counts if its id and its
question are the query's. Which server is asked, for how long and how often is the caller's.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable

import trio

__all__ = ["ask_stream", "is_answer", "question_of", "receive_answer", "with_random_id"]

_HEADER = 12
_QR = 0x80
_NOERROR, _NXDOMAIN = 0, 3


def with_random_id(query: bytes) -> bytes:
    """Return a query with another id, drawn from the system's random numbers."""
    return secrets.token_bytes(2) + query[2:]


def question_of(message: bytes) -> bytes:
    """Return the question section of a message: one question, uncompressed.

    :raises ValueError: it is another one, or none.
    """
    size = len(message)
    if size < _HEADER or message[4:6] != b"\0\1":
        raise ValueError("not a DNS message with one question")
    at = _HEADER
    while True:
        if at >= size:
            raise ValueError("a question that runs past the message")
        length = message[at]
        at += 1
        if length == 0:
            break
        if length > 63:
            raise ValueError("a compressed or malformed name in the question")
        at += length
    end = at + 4
    if end > size or at - _HEADER > 255:
        raise ValueError("a question that runs past the message")
    return message[_HEADER:end]


def is_answer(message: bytes, query: bytes) -> bool:
    """Return whether a message answers ``query``, which has one question (RFC 5452 §9.1).

    The name may come in any case, as servers may write it; an error may lack the question.
    """
    if len(message) < _HEADER or message[:2] != query[:2] or not message[2] & _QR:
        return False
    if message[4:6] == b"\0\0":
        return message[3] & 0x0F not in (_NOERROR, _NXDOMAIN)
    try:
        asked = question_of(query)
        if message[4:6] == b"\0\1" and message.startswith(asked, _HEADER):  # as nearly always
            return True
        answered = question_of(message)
    except ValueError:
        return False
    return answered[-4:] == asked[-4:] and answered[:-4].lower() == asked[:-4].lower()


async def receive_answer(
    sock: socket.socket, query: bytes, stray: Callable[[], None] = lambda: None
) -> bytes:
    """Return the first datagram that answers ``query``.

    :param sock: a connected, non-blocking UDP socket.
    :param stray: called for every other datagram.
    :raises OSError: such as that nothing listens there.
    """
    while True:
        await trio.lowlevel.wait_readable(sock)
        try:
            message = sock.recv(65535)
        except BlockingIOError:  # one with a bad checksum wakes, but is not there
            continue
        if is_answer(message, query):
            return message
        stray()


async def ask_stream(
    stream: trio.abc.Stream, query: bytes, stray: Callable[[], None] = lambda: None
) -> bytes:
    """Send ``query`` over TCP and return the first message that answers it.

    :param stray: called for every other message.
    :raises ConnectionError: the server has closed the connection, or it is broken.
    """
    received = bytearray()
    try:
        await stream.send_all(len(query).to_bytes(2, "big") + query)
        while data := await stream.receive_some(65536):
            received += data
            while len(received) >= 2:
                end = 2 + int.from_bytes(received[:2], "big")
                if len(received) < end:
                    break
                message = bytes(received[2:end])
                del received[:end]
                if is_answer(message, query):
                    return message
                stray()
    except trio.BrokenResourceError as error:
        raise ConnectionError(str(error)) from error
    raise ConnectionError("the name server closed the connection")
