"""``proxy``: SOCKS5 and HTTP, for programs that know what a proxy is."""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .._loading import end_loading
from ..errors import ConfigError
from ._configured import ConfiguredCommand, profile_argument
from ._environment import echo_or_go_on
from ._help import option_group
from ._logging import set_up_logging, tell
from ._metrics import open_metrics
from ._options import (
    EMBEDDED_NOTE,
    print_stats,
    print_stats_json,
    proxy_options,
    show_worker,
)
from .flags import describe

if TYPE_CHECKING:
    import socket

    import trio

    from ..config import VpnConfig
    from ..proxy import ProxyConfig
    from ..vpn import RunningProxy

__all__ = ["make_proxy_config", "proxy"]

_log = logging.getLogger(__name__)

_STOP = {signal.SIGINT, signal.SIGTERM}
_TELL = {signal.SIGUSR1} if hasattr(signal, "SIGUSR1") else set()
_RELOAD = {signal.SIGHUP} if hasattr(signal, "SIGHUP") else set()


@click.command(cls=ConfiguredCommand)
@option_group(
    "Clients",
    click.option(
        "--listen",
        metavar="ADDRESS:PORT",
        default="127.0.0.1:1080",
        show_default=True,
        help="Where to listen; port 0 takes a free one. Beyond loopback only with --password-file.",
    ),
    click.option(
        "--password-file",
        metavar="FILE",
        type=click.Path(readable=False, path_type=Path),
        help="Who may use it: one `NAME:PASSWORD` a line; # begins a comment. Others must not "
        "be able to read it. SIGHUP reads it again, and ends what is open for names that are gone.",
    ),
)
@proxy_options
@profile_argument
def proxy(
    *,
    listen: str,
    password_file: Path | None,
    stats: bool,
    metrics: str | None,
    verbose: int,
    log_format: str,
    **options: Any,
) -> None:
    """Carry what programs send to a proxy: SOCKS5 and HTTP, on one port. Needs no privilege.

    Nothing of the machine is changed, and nothing but what is sent to the proxy goes through the
    tunnel. Prints one line when it is ready, tells systemd, and then works until SIGINT or SIGTERM,
    which end it with exit code 0. SIGUSR1 prints the counters as one line of JSON on stderr.

    SOCKS5 (RFC 1928) does CONNECT and UDP ASSOCIATE, HTTP does CONNECT and requests for http://
    URLs. Names are resolved at the worker, where programs leave that to the proxy: say socks5h://
    where a program knows both that and socks5://. A request is answered when the worker has
    connected, or with the reason why not.

    \b
    A first look, with a worker that is started here:
      python -m zks_lwip proxy
      curl --proxy socks5h://127.0.0.1:1080 http://example.com/
    Through a worker elsewhere, for programs that heed the environment:
      python -m zks_lwip proxy --worker wss://worker.example --token-file token.txt
      export ALL_PROXY=socks5h://127.0.0.1:1080
    For others on the network, with a password (it is sent, and read, in the clear):
      echo "me:$(openssl rand -hex 16)" > passwords; chmod 600 passwords
      python -m zks_lwip proxy --listen 0.0.0.0:1080 --password-file passwords

    On a machine with several users, each of them can use a proxy without passwords.

    HTTPS_PROXY (http://[USER:PASSWORD@]HOST:PORT) and NO_PROXY are heeded for wss:// workers.

    Without --worker, a worker is started here as a child process, on loopback, with a random
    token: all traffic passes through the tunnel, but still leaves from this machine. Where others
    on the network are served, that worker refuses this machine's own addresses.
    """
    import trio

    from ..net.listen import is_loopback
    from ..settings.vpn import make_config

    set_up_logging(verbose, log_format)
    config = make_config(**options)
    wanted = make_proxy_config(listen, password_file, config)
    if config.embedded:
        tell(EMBEDDED_NOTE)
    if not is_loopback(wanted.host):
        _log.warning(
            "listening on %s: passwords, and what programs do not encrypt, can be read on the way "
            "to this proxy",
            wanted.host,
        )
    trio.run(_serve, config, wanted, stats, open_metrics(metrics))


def make_proxy_config(listen: str, password_file: Path | None, config: VpnConfig) -> ProxyConfig:
    """Return what the proxy is told.

    :raises ConfigError: it cannot be used.
    """
    from ..net.listen import parse_listen
    from ..proxy import ProxyConfig

    host, port = parse_listen(listen)
    return ProxyConfig(
        host=host, port=port, password_file=password_file, max_flows=config.gateway.max_flows
    )


async def _serve(
    config: VpnConfig, wanted: ProxyConfig, stats: bool, numbers: socket.socket | None
) -> None:
    import trio

    from ..daemon.systemd import notify
    from ..metrics import Metered
    from ..net.names import join_host_port
    from ..vpn import open_proxy

    metered = Metered(numbers)

    # What is restored when the receiver is closed: nothing that asks us to stop while we are
    # stopping may cut that short, or change the exit code.
    early: list[int] = []
    for number in _STOP:
        signal.signal(number, lambda received, _: early.append(received))
    with trio.open_signal_receiver(*_STOP, *_TELL, *_RELOAD) as signals:
        if early:
            return
        running: list[RunningProxy] = []
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as work:
                nursery.start_soon(_obey, signals, work, running)
                nursery.start_soon(metered.run)
                async with open_proxy(config, wanted) as one:
                    running.append(one)
                    metered.measure(one)
                    end_loading()
                    echo_or_go_on(f"ready: {join_host_port(*one.address)} → {show_worker(one)}")
                    notify("READY=1", f"STATUS=connected to {one.worker}")
                    try:
                        await trio.sleep_forever()
                    finally:
                        notify("STOPPING=1")
                        if stats:
                            print_stats(one.counters())
            nursery.cancel_scope.cancel()


async def _obey(
    signals: AsyncIterator[int], work: trio.CancelScope, running: list[RunningProxy]
) -> None:
    async for number in signals:
        if number in _STOP:
            work.cancel()
            return
        for one in running:
            if number in _RELOAD:
                _reload(one)
            else:
                print_stats_json(one.counters())


def _reload(one: RunningProxy) -> None:
    try:
        one.reload()
    except ConfigError as error:
        _log.error("nothing was reloaded: %s", describe(error))
    else:
        _log.info("the password file was read again")
