"""A link between two namespaces that is as slow, lossy or broken as a test wants it.

``emulator.c`` carries the packets between two TUN devices. What it does, it does by the seed: the
same packets lose the same ones. Delays are kept to some tenths of a millisecond while the machine
has a core to spare, and so are rates up to 1 Gbit/s each way; :meth:`Link.stats` says how late
packets really were.
"""

from __future__ import annotations

import json
import subprocess
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from tests.kits.netns.child import Child
from tests.kits.netns.compiled import compiled

if TYPE_CHECKING:
    from tests.kits.netns.lab import Namespace

Way = Literal["up", "down", "both"]


class Settings(TypedDict, total=False):
    """Of one way of a link, or of both. At the start: 0, but for the queue."""

    delay: float
    """Seconds of travel, one way."""
    jitter: float
    """Seconds by which the travel differs, either way, evenly; the order of packets stays."""
    loss: float
    """The part of packets that is lost, 0 to 1."""
    rate: float
    """Bits a second, of IP packets; 0: without limit, and without a queue."""
    queue: int
    """Bytes that wait for their turn, the one that is being sent with them; beyond, packets are
    dropped. At the start 1 MiB; a packet that finds nothing before it always fits."""


_SCALES = {"delay": 1e9, "jitter": 1e9, "loss": 1e9, "rate": 1, "queue": 1}


class Link:
    """Two devices, ``up0`` in one namespace and another in the next, and what is between.

    They have no addresses yet. "Up" is from the first to the second. As a context manager, or by
    :meth:`close`, devices and emulator go.

    :param seed: of what is lost and how late packets are.
    :param segments: the TCP segments that a kernel sends at once are carried as one. Then there is
        CPU time for 1 Gbit/s and what is measured over it on two cores; but they are lost together,
        and :meth:`translate` does not work.
    """

    def __init__(
        self,
        near: Namespace,
        near_device: str,
        far: Namespace,
        far_device: str,
        *,
        seed: int = 1,
        segments: bool = False,
    ) -> None:
        argv = [
            str(compiled("emulator.c")),
            str(seed),
            near.path,
            near_device,
            far.path,
            far_device,
            *["segments"] * segments,
        ]
        self._child = Child("emulator", argv, stdin=subprocess.PIPE)
        try:
            self._child.wait_for("^ready$")
            # A burst of an application waits here while the emulator is not running, and is not
            # lost but by what it does.
            near.ip(f"link set {near_device} txqueuelen 10000")
            far.ip(f"link set {far_device} txqueuelen 10000")
        except BaseException:
            self.close()
            raise

    def _ask(self, command: str) -> str:
        seen = len(self._child.stdout)
        assert self._child.process.stdin is not None
        self._child.process.stdin.write(f"{command}\n".encode())
        self._child.process.stdin.flush()
        answer = self._child.wait_for("", after=seen).string
        assert not answer.startswith("error"), f"{command}: {answer}"
        return answer

    def set(self, way: Way = "both", /, **settings: Any) -> None:
        """Change :class:`Settings` of one way or both, for packets that come from now on."""
        words = [f"{key} {round(value * _SCALES[key])}" for key, value in settings.items()]
        self._ask(" ".join(["set", way, *words]))

    def blackhole(self, way: Way = "both") -> None:
        """Lose every packet, those too that are on their way; neither end is told."""
        self._ask(f"set {way} blackhole 1")

    def restore(self, way: Way = "both") -> None:
        """End :meth:`blackhole` and :meth:`cut`."""
        self._ask(f"set {way} blackhole 0")
        self._ask("carrier 1")

    def cut(self) -> None:
        """Pull the cable: a blackhole, and the first namespace sees that there is no carrier."""
        self.blackhole()
        self._ask("carrier 0")

    def translate(self, inside: str | None, outside: str = "") -> None:
        """Be a NAT: what comes up from the IPv4 address ``inside`` comes out as ``outside``.

        Given another ``outside`` later, it is one that has forgotten its bindings: what is sent
        to the former address is lost, and connections appear to come from another one. None: none.
        """
        self._ask("nat off" if inside is None else f"nat {inside} {outside}")

    def stats(self) -> dict[str, dict[str, float]]:
        """Return what each way, "up" and "down", has done.

        ``packets`` and ``bytes`` were delivered; ``lost``, ``overflowed`` (the queue was full),
        ``blackholed`` and ``refused`` (the device was down, or the NAT had no such address) are
        packets that were not; ``late`` and ``latest`` are the seconds by which packets arrived
        after they were due, together and at most.
        """
        found: dict[str, dict[str, float]] = json.loads(self._ask("stats"))
        return found

    def close(self) -> None:
        if self._child.process.stdin is not None:
            self._child.process.stdin.close()
        self._child.__exit__(None, None, None)

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
