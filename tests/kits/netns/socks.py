"""A client of a SOCKS5 proxy, by hand, with blocking sockets."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from tests.kits.netns import client
from tests.kits.plain_websocket import receive_exactly
from tests.kits.proxy import address, request

Address = tuple[str, int]


def ask(proxy: Address, command: int, host: str, port: int) -> tuple[int, Address, socket.socket]:
    """The code of the reply, what address it names, and the connection."""
    sock = client.connect(*proxy)
    try:
        sock.sendall(b"\x05\x01\x00" + request(command, host, port))
        assert receive_exactly(sock, 2) == b"\x05\x00"
        _, code, _, kind = receive_exactly(sock, 4)
        family, size = (socket.AF_INET, 4) if kind == 1 else (socket.AF_INET6, 16)
        where = socket.inet_ntop(family, receive_exactly(sock, size))
        return code, (where, int.from_bytes(receive_exactly(sock, 2), "big")), sock
    except BaseException:
        sock.close()
        raise


def connect(proxy: Address, host: str, port: int) -> socket.socket:
    """A connection through the proxy."""
    code, _, sock = ask(proxy, 1, host, port)
    assert code == 0, f"the proxy replied {code}"
    return sock


def code(proxy: Address, host: str, port: int) -> int:
    """The code of the reply to a CONNECT."""
    found, _, sock = ask(proxy, 1, host, port)
    sock.close()
    return found


class Association:
    """A UDP socket whose datagrams go through the proxy."""

    def __init__(self, relay: Address) -> None:
        family = socket.AF_INET6 if ":" in relay[0] else socket.AF_INET
        self._sock = socket.socket(family, socket.SOCK_DGRAM)
        self._sock.connect(relay)

    def exchange(
        self, host: str, port: int, payload: bytes, tries: int = 12
    ) -> tuple[bytes, bytes]:
        """Send a datagram; return where the answer came from, in the form of RFC 1928, and it."""
        self._sock.settimeout(5)
        for attempt in range(tries):
            self._sock.send(b"\0\0\0" + address(host, port) + payload)
            try:
                data = self._sock.recv(65536)
            except TimeoutError:
                if attempt == tries - 1:
                    raise
            else:
                size = 3 + {1: 7, 4: 19}[data[3]]
                return data[3:size], data[size:]
        raise AssertionError("unreachable")

    def close(self) -> None:
        self._sock.close()


@contextlib.contextmanager
def associate(proxy: Address) -> Iterator[Association]:
    """A UDP association of the proxy's."""
    found, relay, sock = ask(proxy, 3, "0.0.0.0", 0)
    with sock:
        assert found == 0, f"the proxy replied {found}"
        with contextlib.closing(Association(relay)) as made:
            yield made
