"""A system-wide VPN client: lwIP, trio and a WebSocket. Here are its public names and its layout.

The public names: :func:`open_vpn` with :class:`VpnConfig` (or :func:`read_config`, from files) and
what goes with it, :func:`open_stack`, :func:`open_worker` with :class:`WorkerConfig`, and the
errors; :mod:`zks_lwip.testing`, which is not loaded here, is for tests. They are imported when they
are used: ``import zks_lwip`` needs neither the compiled part nor the libraries, on whatever system.
Packages that give names to others (daemon, device, dns, gateway, proxy, stack, tunnel, vpn, worker)
do likewise, by ``_lazy.lazy_names``; protocol and testing load theirs at once. The ``__init__`` of
``carrier``, ``net``, ``host``, ``settings`` and of most packages below says only what is where.

The layout: a module imports from its own package and from what lies below it, never from above, and
never in a circle (``tests/unit/test_architecture.py`` holds that)::

    cli                            the command line: parses and shows
    doctor                         what a tunnel needs, looked at: the machine, the worker, leaks
    top                            the live screen: what an instance does
    daemon                         a running instance: control socket, pause, systemd
    vpn                            open_vpn: puts the packages below together
    settings                       files of settings: TOML, profiles, and what becomes of them
    config                         VpnConfig, made of the packages' own options
    metrics                        numbers for Prometheus, over HTTP
    testing                        networks in memory, for tests of trio programs
    worker    gateway  proxy       the far end | what becomes of flows and datagrams | SOCKS5, HTTP
    tunnel    host     stack       channels to the worker | routes, firewall | lwIP as trio streams
    carrier   dns      device      one WebSocket that carries a session | names | TUN devices
    protocol  net                  PROTOCOL.md, without I/O | dialling, TLS, sockets, names
    _util     _memory    _private  helpers | memory that is given back | files with a secret
    errors    _version             one tree of errors, exit codes | the version
    _lazy     _loading             names when used | the garbage collector while modules load
    native/                        C: the core around lwIP, streams and UDP in bulk, masking, `run`

Besides ``carrier``, ``protocol``, ``net`` and the shared modules the worker needs nothing; of the
client's packages only ``cli`` imports it.

Where to change what:

- the order in which streams are served: ``native/mux/mux_out.c``; what goes before them:
  ``protocol/sender.py``; how much each is granted: ``protocol/receive_window.py``; how their bytes
  move: ``native/mux/``
- a frame of the protocol: PROTOCOL.md, and the recipe in ``protocol/__init__.py``
- the handshake of the WebSocket: ``carrier/handshake.py``; when a link counts as dead:
  ``carrier/liveness.py``; when as suspect: ``carrier/suspicion.py``
- how the worker is reached: ``tunnel/tcp_path.py``, ``tunnel/proxy.py``, then ``tunnel/dial.py``
- which channels there are: ``tunnel/pool.py``; when an idle one is closed: ``tunnel/idle.py``;
  which stream goes where: ``tunnel/placement.py``
- which of several workers is in use: ``tunnel/workers.py``; how they are checked:
  ``tunnel/health.py``
- when a lost session is resumed, and a silent path replaced: ``tunnel/session_runner.py``; how
  soon one attempt follows another: ``tunnel/attempts.py``
- when a session that has ended is replaced: ``tunnel/outcomes.py``, and, when
  the network changes, ``vpn/roaming.py``
- the delays between such tries: ``net/backoff.py``, and ``TunnelConfig`` in ``tunnel/options.py``
- what is refused, and how: ``gateway/policy.py`` here, ``worker/policy.py`` there
- what a program may decide of a flow: ``gateway/decide.py``; how that is done:
  ``gateway/decided.py``
- what a program is given of a VPN: ``vpn/vpn.py``, ``vpn/streams.py``, ``vpn/stats.py``
- what the proxy's clients are told instead: ``proxy/answers.py``; a language that they speak:
  ``proxy/handshake.py``, and a codec such as ``proxy/socks5.py``
- which sessions the worker admits: ``worker/admission.py``; how it ends them all:
  ``worker/shutdown.py``
- what bounds one client's memory at the worker: ``worker/limits.py``
- what a line of the token file may say: ``worker/grants.py``; how a rate is kept:
  ``worker/rate.py``
- how several processes share a worker: ``worker/processes``, ``worker/handover.py``
- which numbers are told to Prometheus: ``metrics/client.py``, ``metrics/worker.py``
- a transport for DNS: the recipe in ``dns/upstream/__init__.py``: a class, and a line in
  ``dns/upstream/transports.py``
- which resolver is asked: ``dns/upstream/select.py``; names that are answered here:
  ``dns/special.py``, ``dns/local.py``
- a kind of step that changes the host: the recipe in ``host/plan/steps/__init__.py``
- another system whose hosts are captured: the recipe in ``host/__init__.py``
- which steps are taken: ``host/plan/make.py``; the firewall: ``host/plan/firewall.py``
- the start of ``run``: ``host/rootless/spawn.py``, ``native/nsrun``; its published ports:
  ``host/published``
- an option of ``connect``: ``config.py``, the ``options`` module of its package; one of the host:
  also ``host/plan/config.py`` and ``vpn/capture.py``
- its flag: ``cli/_options.py``, or ``cli/_host_options.py``; ``make_config`` in
  ``settings/vpn.py``; ``FLAGS`` in ``cli/flags.py``
- its key in files: ``settings/keys.py``; what several files say together: ``settings/layers.py``
- an option of ``worker``: ``cli/worker.py``, ``settings/keys.py``, and ``WorkerConfig`` in
  ``worker/options.py`` or ``Limits`` in ``worker/limits.py``
- a command: a module of its name in ``cli/``, and ``_COMMANDS`` in ``cli/__init__.py``

How a connection passes through all of this is told in README.md, "The life of a connection".
"""

from __future__ import annotations

from ._lazy import lazy_names
from ._version import __version__

TYPE_CHECKING = False  # see _lazy.py
if TYPE_CHECKING:
    from .config import (
        DnsOptions,
        HostOptions,
        VpnConfig,
        WorkerEndpoint,
        parse_worker_url,
        read_token_file,
    )
    from .errors import (
        AuthError,
        CertificateError,
        CommandError,
        ConfigError,
        DeviceError,
        DnsError,
        HostError,
        PrivilegeError,
        ProtocolError,
        StackError,
        TunnelError,
        WorkerNotFound,
        WorkerUnreachable,
        ZksError,
    )
    from .gateway import Decision, Direct, FlowInfo, FlowRequest, Tunnel
    from .settings.vpn import read_config
    from .stack import Reject, Stack, open_stack
    from .vpn import Vpn, VpnState, VpnStats, VpnTcpStream, VpnUdpSocket, open_vpn
    from .worker import RunningWorker, WorkerConfig, open_worker

__all__ = [
    "AuthError",
    "CertificateError",
    "CommandError",
    "ConfigError",
    "Decision",
    "DeviceError",
    "Direct",
    "DnsError",
    "DnsOptions",
    "FlowInfo",
    "FlowRequest",
    "HostError",
    "HostOptions",
    "PrivilegeError",
    "ProtocolError",
    "Reject",
    "RunningWorker",
    "Stack",
    "StackError",
    "Tunnel",
    "TunnelError",
    "Vpn",
    "VpnConfig",
    "VpnState",
    "VpnStats",
    "VpnTcpStream",
    "VpnUdpSocket",
    "WorkerConfig",
    "WorkerEndpoint",
    "WorkerNotFound",
    "WorkerUnreachable",
    "ZksError",
    "__version__",
    "open_stack",
    "open_vpn",
    "open_worker",
    "parse_worker_url",
    "read_config",
    "read_token_file",
]

if not TYPE_CHECKING:  # type checkers read the imports above
    __getattr__ = lazy_names(
        __name__,
        {
            "config": "DnsOptions HostOptions VpnConfig WorkerEndpoint parse_worker_url "
            "read_token_file",
            "errors": "AuthError CertificateError CommandError ConfigError DeviceError DnsError "
            "HostError PrivilegeError ProtocolError StackError TunnelError WorkerNotFound "
            "WorkerUnreachable ZksError",
            "gateway": "Decision Direct FlowInfo FlowRequest Tunnel",
            "settings.vpn": "read_config",
            "stack": "Reject Stack open_stack",
            "vpn": "Vpn VpnState VpnStats VpnTcpStream VpnUdpSocket open_vpn",
            "worker": "RunningWorker WorkerConfig open_worker",
        },
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
