"""``worker``: the far end of the tunnel, self-hosted."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import click
import trio

from ..errors import ConfigError
from ..worker import (
    Limits,
    Worker,
    WorkerConfig,
    parse_listen,
    parse_network,
    parse_origin,
    parse_resolver,
)
from ._options import set_up_logging

__all__ = ["worker"]

_STOP = (signal.SIGTERM, signal.SIGINT)
_RELOAD = (signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()


@click.command()
@click.option(
    "--listen",
    metavar="ADDRESS:PORT",
    default="127.0.0.1:8787",
    show_default=True,
    help="Where to listen; port 0 takes a free one. Beyond loopback only with --token-file.",
)
@click.option(
    "--token-file",
    metavar="FILE",
    type=click.Path(readable=False, path_type=Path),
    help="Who may connect: one `NAME TOKEN` or bare token a line; # begins a comment. SIGHUP reads "
    "it again and closes the sessions of tokens that are gone.",
)
@click.option(
    "--tls-cert",
    metavar="FILE",
    type=click.Path(readable=False, path_type=Path),
    help="Speak TLS with this certificate chain (PEM). SIGHUP reads it again.",
)
@click.option(
    "--tls-key",
    metavar="FILE",
    type=click.Path(readable=False, path_type=Path),
    help="The certificate's private key, where it is not in the same file.",
)
@click.option(
    "--allow",
    metavar="CIDR",
    multiple=True,
    help="Let clients reach this network although it is private, loopback, link-local, this "
    "machine's own or otherwise special. May be repeated; 0.0.0.0/0 and ::/0 lift every "
    "restriction, also that on cloud metadata.",
)
@click.option(
    "--resolver",
    metavar="ADDRESS[:PORT]",
    multiple=True,
    help="A name server for names and DNS queries, instead of the system's. May be repeated.",
)
@click.option(
    "--max-streams",
    metavar="N",
    type=click.IntRange(1, 1 << 20),
    default=16384,
    show_default=True,
    help="Most TCP streams of one token (or of all clients, without tokens).",
)
@click.option(
    "--allow-origin",
    metavar="ORIGIN",
    multiple=True,
    help="Let web pages of this origin connect, https://example.com say. None may otherwise.",
)
@click.option("-v", "--verbose", count=True, help="Say what happens; -vv says all of it.")
@click.option("--allow-own", is_flag=True, hidden=True)
@click.option("--mark", type=click.IntRange(1, 0xFFFFFFFF), hidden=True)
@click.option("--parent-fd", type=click.IntRange(0), hidden=True)
@click.option("--user", hidden=True)
def worker(
    *,
    listen: str,
    token_file: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    allow: tuple[str, ...],
    resolver: tuple[str, ...],
    max_streams: int,
    allow_origin: tuple[str, ...],
    verbose: int,
    allow_own: bool,
    mark: int | None,
    parent_fd: int | None,
    user: str | None,
) -> None:
    """Open the real connections for clients of the tunnel.

    Prints one line, `listening on ADDRESS:PORT`, when it is ready, and answers GET /health.
    Needs no privilege. SIGTERM tells the clients to go elsewhere, lets open streams go on
    for 7 s, and ends within 10; a second one ends at once.

    Clients reach the public internet only: connections, datagrams and pings to private, loopback,
    link-local and other special networks and to this machine's own addresses are refused, whatever
    name or spelling leads there.
    `ping` through the tunnel works where net.ipv4.ping_group_range allows it, and for root.

    \b
    On this machine, for a look:
      python -m zks_lwip worker --allow 127.0.0.0/8
    For others, with TLS and a token:
      python -c 'import secrets; print("me", secrets.token_urlsafe())' > tokens
      chmod 600 tokens
      python -m zks_lwip worker --listen 0.0.0.0:443 --token-file tokens \\
          --tls-cert fullchain.pem --tls-key privkey.pem
    """
    set_up_logging(verbose)
    host, port = parse_listen(listen)
    config = WorkerConfig(
        host=host,
        port=port,
        token_file=token_file,
        tls_cert=tls_cert,
        tls_key=tls_key,
        allow=tuple(map(parse_network, allow)),
        allow_own=allow_own,
        resolvers=tuple(map(parse_resolver, resolver)),
        origins=tuple(map(parse_origin, allow_origin)),
        mark=mark,
        limits=Limits(streams=max_streams),
    )
    trio.run(_serve, config, parent_fd, user)


async def _serve(config: WorkerConfig, parent_fd: int | None, user: str | None) -> None:
    with trio.open_signal_receiver(*_STOP, *_RELOAD) as signals:
        worker = Worker(config)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_obey, signals, worker)
            if parent_fd is not None:
                nursery.start_soon(_end_with_parent, parent_fd, worker)
            address, port = await nursery.start(worker.run)
            if parent_fd is not None and sys.platform == "linux":
                await _drop_privileges(config.mark, user)
            shown = f"[{address}]" if ":" in address else address
            click.echo(f"listening on {shown}:{port}")
            await worker.ended.wait()
            nursery.cancel_scope.cancel()


async def _drop_privileges(mark: int | None, user: str | None) -> None:
    """A worker beside a client has the client's privileges: all it may need is to mark sockets."""
    from ..host.unprivileged import Capability, drop_privileges

    await drop_privileges(None, user=user, keep=() if mark is None else (Capability.NET_ADMIN,))


async def _obey(signals: AsyncIterator[int], worker: Worker) -> None:
    async for number in signals:
        if number in _RELOAD:
            worker.reload()
        else:
            worker.stop()


async def _end_with_parent(fd: int, worker: Worker) -> None:
    """End at once when the other end of the pipe is closed: the process that started us is gone."""
    try:
        os.set_blocking(fd, False)
        while True:
            await trio.lowlevel.wait_readable(fd)
            if not os.read(fd, 4096):
                break
    except OSError as error:
        raise ConfigError(f"--parent-fd {fd}: {error.strerror}") from None
    worker.stop()
    worker.stop()
