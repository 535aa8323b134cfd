"""``worker``: the far end of the tunnel, self-hosted."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .._util import program
from ..errors import ConfigError
from ._configured import ConfiguredCommand, settings_options
from ._help import option_group
from ._logging import log_format_option, set_up_logging
from ._metrics import metrics_option, open_metrics, take_metrics_socket

if TYPE_CHECKING:
    from ..worker import WorkerConfig

__all__ = ["make_worker_config", "worker"]


@click.command(cls=ConfiguredCommand)
@option_group(
    "Clients",
    click.option(
        "--listen",
        metavar="ADDRESS:PORT",
        multiple=True,
        help="Where to listen; port 0 takes a free one. Beyond loopback only with --token-file. "
        "unix:PATH is a socket for a front end on this machine, without TLS. May be repeated. What "
        "systemd has opened (LISTEN_FDS) comes on top.  [default: 127.0.0.1:8787, or what systemd "
        "has opened]",
    ),
    click.option(
        "--socket-mode",
        metavar="MODE",
        default="0660",
        show_default=True,
        help="Who may connect to unix:PATH, as chmod has it.",
    ),
    click.option(
        "--token-file",
        metavar="FILE",
        type=click.Path(readable=False, path_type=Path),
        help="Who may connect: one `NAME TOKEN` or bare token a line; # begins a comment. Limits "
        "may follow: rate=BYTES a second (as 2M), streams=N, sessions=N, expires=DATE. Others must "
        "not be able to read it. SIGHUP reads it again and closes the sessions of tokens that are "
        "gone.",
    ),
    click.option(
        "--tls-cert",
        metavar="FILE",
        type=click.Path(readable=False, path_type=Path),
        help="Speak TLS with this certificate chain (PEM). SIGHUP reads it again.",
    ),
    click.option(
        "--tls-key",
        metavar="FILE",
        type=click.Path(readable=False, path_type=Path),
        help="The certificate's private key, where it is not in the same file.",
    ),
    click.option(
        "--allow-origin",
        metavar="ORIGIN",
        multiple=True,
        help="Let web pages of this origin connect, https://example.com say. None may otherwise.",
    ),
    click.option(
        "--trusted-proxy",
        metavar="CIDR|unix",
        multiple=True,
        help="A front end that connects from here (unix: by unix:PATH) is believed who its client "
        "is: logs name the address that it adds to X-Forwarded-For. May be repeated.",
    ),
)
@option_group(
    "What they reach",
    click.option(
        "--allow",
        metavar="CIDR",
        multiple=True,
        help="Let clients reach this network although it is private, loopback, link-local, this "
        "machine's own or otherwise special. May be repeated; 0.0.0.0/0 and ::/0 lift every "
        "restriction, also that on cloud metadata.",
    ),
    click.option(
        "--resolver",
        metavar="ADDRESS[:PORT]",
        multiple=True,
        help="A name server for names and DNS queries, instead of the system's. May be repeated.",
    ),
)
@option_group(
    "Limits",
    click.option(
        "--max-streams",
        metavar="N",
        type=click.IntRange(1, 1 << 20),
        default=16384,
        show_default=True,
        help="Most TCP streams of one token (or of all clients, without tokens).",
    ),
    click.option(
        "--resume",
        metavar="SECONDS",
        type=click.IntRange(0, 86400),
        default=60,
        show_default=True,
        help="How long a client that has lost its connection finds its streams as it left them; "
        "0: they are reset at once.",
    ),
    click.option(
        "--processes",
        metavar="N",
        type=click.IntRange(1, 64),
        default=1,
        show_default=True,
        help="Serve by so many processes, one for each core say. A session stays with one. What "
        "the token file limits holds over all of them, other limits of a token in each.",
    ),
    click.option(
        "--session-prefix",
        metavar="NAME",
        default="",
        help="What the ids of its sessions begin with, before a dot: letters, digits, hyphens. A "
        "front end before several workers leads clients back to their own by it "
        "(examples/front-end).",
    ),
)
@settings_options
@option_group(
    "Output",
    click.option(
        "--access-log",
        metavar="FILE|-",
        type=click.Path(readable=False, allow_dash=True, path_type=str),
        help="Write a line for every session (token's name, client's address, begin, seconds, "
        "bytes, reason) and every refusal; -: to standard output. SIGHUP opens it anew.",
    ),
    click.option(
        "--log-targets",
        is_flag=True,
        help="Name in the access log what clients connect to, too.",
    ),
    metrics_option,
    click.option("-v", "--verbose", count=True, help="Say what happens; -vv says all of it."),
    log_format_option,
)
@click.option("--allow-own", is_flag=True, hidden=True)
@click.option("--parent-fd", type=click.IntRange(0), hidden=True)
@click.option("--supervised", type=click.IntRange(0), hidden=True)
@click.option("--user", hidden=True)
def worker(
    *,
    verbose: int,
    log_format: str,
    metrics: str | None,
    processes: int,
    parent_fd: int | None,
    supervised: int | None,
    user: str | None,
    **options: Any,
) -> None:
    """Open the real connections for clients of the tunnel.

    Prints one line, `listening on ADDRESS:PORT`, when it is ready, and answers GET /health.
    Needs no privilege. SIGTERM tells the clients to go elsewhere, lets open streams go on
    for 6 s, and ends within 10; a second one ends at once.

    Clients reach the public internet only: connections, datagrams and pings to private, loopback,
    link-local and other special networks and to this machine's own addresses are refused, whatever
    name or spelling leads there.
    `ping` through the tunnel works where net.ipv4.ping_group_range allows it, and for root.

    \b
    On this machine, for a look:
      python -m zks_lwip worker --allow 127.0.0.0/8
    For others, with TLS and a token:
      python3 -c 'import secrets; print("me", secrets.token_urlsafe())' > tokens
      chmod 600 tokens
      python -m zks_lwip worker --listen 0.0.0.0:443 --token-file tokens \\
          --tls-cert fullchain.pem --tls-key privkey.pem
    """
    import trio

    from ..daemon.systemd import take_sockets
    from ..worker import Worker
    from ..worker.addresses import InheritedSocket
    from ._serve_worker import read_mark, serve_child_worker, serve_worker, supervise

    set_up_logging(verbose, log_format)
    if supervised is not None:
        from ..worker.processes import open_child

        trio.run(serve_child_worker, *open_child(supervised))
        return
    mark = None if parent_fd is None else read_mark(parent_fd)
    config = make_worker_config(**options, mark=mark)
    inherited = take_sockets()
    numbers = take_metrics_socket(inherited) or open_metrics(metrics)
    if inherited:
        sockets = tuple(InheritedSocket(fd, name) for fd, name in inherited)
        config = replace(config, listen=(*config.listen, *sockets))
    if processes > 1:
        from ..worker.processes import Supervisor

        command = [*program("zks_lwip"), "worker", "--config", os.devnull, *["-v"] * verbose]
        command += ["--log-format", log_format]
        supervisor = Supervisor(config, processes, command)
        trio.run(partial(supervise, supervisor, metrics=numbers))
        return
    trio.run(
        partial(
            serve_worker,
            Worker(config),
            metrics=numbers,
            parent_fd=parent_fd,
            user=user,
        )
    )


def make_worker_config(
    *,
    listen: tuple[str, ...],
    socket_mode: str,
    token_file: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    allow: tuple[str, ...],
    resolver: tuple[str, ...],
    max_streams: int,
    resume: int,
    session_prefix: str,
    allow_origin: tuple[str, ...],
    trusted_proxy: tuple[str, ...],
    access_log: str | None,
    log_targets: bool,
    allow_own: bool,
    mark: int | None = None,
) -> WorkerConfig:
    """Return the configuration that the options describe.

    :raises ConfigError: one of them cannot be used.
    """
    from ..worker import Limits, WorkerConfig, parse_network, parse_origin, parse_resolver
    from ..worker.addresses import parse_listen_address
    from ..worker.front_ends import parse_trusted_proxy

    mode = _parse_mode(socket_mode)
    return WorkerConfig(
        listen=tuple(parse_listen_address(each, mode) for each in listen),
        token_file=token_file,
        tls_cert=tls_cert,
        tls_key=tls_key,
        allow=tuple(map(parse_network, allow)),
        allow_own=allow_own,
        resolvers=tuple(map(parse_resolver, resolver)),
        origins=tuple(map(parse_origin, allow_origin)),
        trusted_proxies=tuple(map(parse_trusted_proxy, trusted_proxy)),
        mark=mark,
        resume=resume,
        session_prefix=session_prefix,
        access_log=access_log,
        log_targets=log_targets,
        limits=Limits(streams=max_streams),
    )


def _parse_mode(text: str) -> int:
    if not (text.isascii() and text.isdigit() and set(text) <= set("01234567") and len(text) <= 4):
        raise ConfigError(f"--socket-mode {text}: give octal digits, for example 0660")
    return int(text, 8) & 0o777
