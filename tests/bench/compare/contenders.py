"""What is compared: the direct path, and our tunnel over ``ws://`` and over ``wss://``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tests.kits.netns import lab
from tests.kits.netns.child import Child
from tests.kits.netns.lab import ZKS, Namespace

if TYPE_CHECKING:
    from tests.bench.compare.site import Site

__all__ = ["AS_INSTALLED", "Contender", "Direct", "Ours"]

MAX_FLOWS = 32768
AS_INSTALLED = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONFAULTHANDLER": ""}
"""Variables for our processes: with bytecode, as an installed package has it, whatever this shell
says."""


class Contender(ABC):
    """One way to the far end.

    :meth:`start_server` and :meth:`start_client` start processes that end with the stack they are
    given, and return the ids of those whose CPU time and memory count. Their client has to carry
    what the host sends to the far end's network (:data:`~tests.bench.compare.site.NETWORK`); the
    direct path is closed to it.
    """

    name: str
    udp = True
    """Carries datagrams."""
    direct = False
    """Is no tunnel."""
    descriptors = 1
    """Of one of its processes, at most, for each connection."""
    spreads = False
    """Its server can have several ``processes``, each with descriptors of its own."""
    processes = 1
    """Of its server, where it is started next."""
    measures: frozenset[str] | None = None
    """Those in which it takes part; None: all."""

    def missing(self) -> str | None:
        """Return why it cannot take part here, None if it can."""
        return None

    def version(self) -> str | None:
        """Return what it is, with its version; None: not known, or ours."""
        return None

    @abstractmethod
    def start_server(self, site: Site, stack: ExitStack) -> list[int]:
        """Start the far end of the tunnel."""

    @abstractmethod
    def start_client(self, site: Site, host: Namespace, stack: ExitStack) -> list[int]:
        """Start the near end; it need not be ready on return."""


class Direct(Contender):
    """No tunnel: the limit of this machine, and of the load."""

    name = "direct"
    direct = True
    spreads = True

    def start_server(self, site: Site, stack: ExitStack) -> list[int]:
        return []

    def start_client(self, site: Site, host: Namespace, stack: ExitStack) -> list[int]:
        return []


class Ours(Contender):
    """``connect`` and ``worker``.

    :param tls: over ``wss://``.
    :param options: more of them, for ``connect``.
    """

    spreads = True

    def __init__(self, *, tls: bool, options: tuple[str, ...] = ()) -> None:
        self.name = "ours wss" if tls else "ours ws"
        self.tls = tls
        self._options = options
        self._port = 8788 if tls else 8787

    def start_server(self, site: Site, stack: ExitStack) -> list[int]:
        argv = [*ZKS, "worker", "--listen", f"{lab.WORKER4}:{self._port}", "--resolver", lab.FAR4]
        argv += ["--token-file", str(site.net.token_file), "--max-streams", str(2 * MAX_FLOWS)]
        if self.tls:
            argv += ["--tls-cert", str(site.certificate.chain)]
        if self.processes > 1:
            argv += ["--processes", str(self.processes)]
        child = Child("worker", site.net.mid.command(argv), env=AS_INSTALLED)
        stack.enter_context(child).wait_for(r"listening on \S+:\d+")
        return [child.pid]

    def start_client(self, site: Site, host: Namespace, stack: ExitStack) -> list[int]:
        argv = [*ZKS, "connect", "--token-file", str(site.net.token_file), "--dns-via", "worker"]
        argv += ["--max-flows", str(MAX_FLOWS), *self._options]
        if self.processes > 1:  # more channels than processes, so that each has some
            argv += ["--channels", str(min(16, 4 * self.processes))]
        if self.tls:
            argv += ["--worker", f"wss://{lab.WORKER4}:{self._port}"]
            argv += ["--ca-file", str(site.certificate.authority)]
        else:
            argv += ["--worker", f"ws://{lab.WORKER4}:{self._port}", "--plaintext"]
        command = host.command(argv, resolv=site.net.resolv)
        child = stack.enter_context(Child("connect", command, env=AS_INSTALLED))
        return [child.pid]
