"""A small name server over UDP and TCP: ``python -m tests.kits.netns.names ADDRESS``.

Prints ``names are ready``, and a line for each question. It answers for ``zks.test`` alone.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import threading

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

from tests.kits.netns import lab
from tests.kits.netns.servers import receive_exactly

ZONE: dict[tuple[str, str], list[str]] = {
    ("far.zks.test.", "A"): [lab.FAR4],
    ("far.zks.test.", "AAAA"): [lab.FAR6],
    ("four.zks.test.", "A"): [lab.FAR4],
    ("six.zks.test.", "AAAA"): [lab.FAR6],
    ("private.zks.test.", "A"): [lab.PRIVATE4],
    ("loop.zks.test.", "A"): ["127.0.0.1"],
    ("big.zks.test.", "TXT"): [f'"{index:04d}{"x" * 200}"' for index in range(40)],
}


def answer(wire: bytes, udp: bool) -> bytes:
    """The response to one query; over UDP a long one is truncated."""
    query = dns.message.from_wire(wire)
    response = dns.message.make_response(query)
    response.flags |= dns.flags.AA | dns.flags.RA
    question = query.question[0]
    name, kind = question.name.to_text().lower(), dns.rdatatype.to_text(question.rdtype)
    print(f"asked {name} {kind} over {'udp' if udp else 'tcp'}", flush=True)
    if not name.endswith("zks.test."):
        response.set_rcode(dns.rcode.REFUSED)
    elif values := ZONE.get((name, kind)):
        response.answer.append(dns.rrset.from_text(name, 60, "IN", kind, *values))
    elif not any(known == name for known, _ in ZONE):
        response.set_rcode(dns.rcode.NXDOMAIN)
    if udp:
        size = max(512, min(query.payload, 1232))
        if len(response.to_wire(max_size=65535)) > size:
            response.answer.clear()
            response.flags |= dns.flags.TC
    return response.to_wire(max_size=65535)


def _udp(address: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((address, 53))
        while True:
            wire, peer = sock.recvfrom(65535)
            with contextlib.suppress(OSError):  # a probe's, whose source is routed nowhere
                sock.sendto(answer(wire, udp=True), peer)


def _tcp(listener: socket.socket) -> None:
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=_tcp_connection, args=(sock,), daemon=True).start()


def _tcp_connection(sock: socket.socket) -> None:
    with sock:
        try:
            while True:
                (length,) = struct.unpack("!H", receive_exactly(sock, 2))
                wire = answer(receive_exactly(sock, length), udp=False)
                sock.sendall(struct.pack("!H", len(wire)) + wire)
        except (EOFError, ConnectionError):
            return


def main(address: str) -> None:
    listener = socket.create_server((address, 53))
    threading.Thread(target=_udp, args=(address,), daemon=True).start()
    threading.Thread(target=_tcp, args=(listener,), daemon=True).start()
    print("names are ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1])
