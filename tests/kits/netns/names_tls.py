"""A DNS-over-TLS server whose answers are in a file: ``names_tls.py ADDRESS PORT CHAIN ANSWERS``.

ANSWERS is JSON, ``{"worker.zks.test": ["25.1.1.1"]}``, read for each query. Prints every name that
it is asked for. Nothing may be kept (TTL 0).
"""

from __future__ import annotations

import json
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import trio
import trustme

from tests.kits.netns.child import Child
from tests.kits.netns.lab import FAR4, PYTHON, Lab

WORKER_NAME = "worker.zks.test"


def answers(net: Lab, *addresses: str) -> Path:
    """A file of answers: the worker's name has these addresses. It may be replaced at any time."""
    made = net.file("answers-then.json", json.dumps({WORKER_NAME: addresses}))
    # All at once: a server may be reading it.
    return made.replace(net.directory / "answers.json")


@contextmanager
def names_over_tls(net: Lab, port: int, *addresses: str) -> Iterator[tuple[Child, list[str]]]:
    """A server in ``far`` that gives the worker's name these addresses.

    Gives the server and the options of a client that asks it.
    """
    authority = trustme.CA()
    ca, chain = net.directory / f"names-{port}-ca.pem", net.directory / f"names-{port}.pem"
    authority.cert_pem.write_to_path(ca)
    authority.issue_cert("dns.zks.test").private_key_and_cert_chain_pem.write_to_path(chain)
    argv = [*PYTHON, "-m", "tests.kits.netns.names_tls", FAR4, str(port), str(chain)]
    with Child("names over TLS", net.far.command([*argv, str(answers(net, *addresses))])) as names:
        names.wait_for("names over TLS are ready")
        yield names, ["--dns", f"tls://dns.zks.test:{port}@{FAR4}", "--ca-file", str(ca)]


def answer(query: bytes, table: dict[str, list[str]]) -> bytes:
    asked = dns.message.from_wire(query)
    made = dns.message.make_response(asked)
    question = asked.question[0]
    addresses = table.get(question.name.to_text(omit_final_dot=True))
    if addresses is None:
        made.set_rcode(dns.rcode.NXDOMAIN)
    elif question.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
        v6 = question.rdtype == dns.rdatatype.AAAA
        texts = [address for address in addresses if (":" in address) is v6]
        if texts:
            made.answer.append(dns.rrset.from_text(question.name, 0, "IN", question.rdtype, *texts))
    print("asked for", question.name, dns.rdatatype.to_text(question.rdtype), flush=True)
    return made.to_wire()


async def serve(stream: trio.SSLStream[trio.SocketStream], answers: Path) -> None:
    data = b""
    try:
        async for more in stream:
            data += more
            while len(data) >= 2 and len(data) >= 2 + int.from_bytes(data[:2], "big"):
                size = int.from_bytes(data[:2], "big")
                query, data = data[2 : 2 + size], data[2 + size :]
                message = answer(query, json.loads(answers.read_text()))
                await stream.send_all(len(message).to_bytes(2, "big") + message)
    except trio.BrokenResourceError as error:
        print("a client left:", error, flush=True)
    finally:
        await trio.aclose_forcefully(stream)


async def main(address: str, port: str, chain: str, answers: str) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain)
    context.set_alpn_protocols(["dot"])
    listeners = await trio.open_ssl_over_tcp_listeners(
        int(port), context, host=address, https_compatible=True
    )
    print("names over TLS are ready", flush=True)
    await trio.serve_listeners(lambda stream: serve(stream, Path(answers)), listeners)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
