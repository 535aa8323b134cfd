"""A sitting: every step by every contender in turn, round after round."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack

from tests.bench.compare.contenders import Contender
from tests.bench.compare.figures import Figure, Results
from tests.bench.compare.links import LINKS, LOSSY, links
from tests.bench.compare.measures import MEASURES, Settings, Step
from tests.bench.compare.site import Running, Site, steal_seconds
from tests.bench.compare.starts import start
from tests.kits.netns.lab import Namespace
from tests.kits.netns.link import Link

__all__ = ["NAMES", "USUAL", "sit"]

USUAL = (*MEASURES, "links", "start")
"""What is measured where nothing is asked for, in the order of the table."""
NAMES = (*MEASURES, "links", "loss", "start")
"""Everything that can be measured."""
_MAX_MESSAGE = 300
REST_SECONDS = 2.0
"""For which a contender may work on what it was given, after the step."""
_LOOK_SECONDS = 0.05
_MAX_FAILURES = 3
"""Steps one after the other that a contender may fail before it is given up."""


_begun = time.monotonic()


def _say(text: str) -> None:
    seconds = int(time.monotonic() - _begun)
    print(f"{seconds // 60:2}:{seconds % 60:02} {text}", file=sys.stderr, flush=True)


def sit(
    names: Sequence[str],
    contenders: Sequence[Contender],
    settings: Settings,
    rounds: int,
    results: Results,
) -> None:
    """Measure, and note what came of it; what goes wrong with one contender is noted, too.

    :param names: of :data:`NAMES`.
    """
    shared = [step for name in MEASURES if name in names for step in MEASURES[name](settings)]
    if shared:
        _steps(shared, contenders, rounds, results, {})
    for name, some in (("links", LINKS), ("loss", LOSSY)):
        if name in names:
            first = next(iter(some.values()))
            _steps(list(links(name, some, settings)), contenders, rounds, results, first)
    if "start" in names:
        _starts([one for one in contenders if not one.direct], rounds, results)


def _takes_part(contender: Contender, step: Step) -> bool:
    if contender.measures is not None and step.measure not in contender.measures:
        return False
    return contender.udp or not step.udp


class _Places:
    """The hosts of the contenders, and those that are up."""

    def __init__(self, site: Site, contenders: Sequence[Contender], link: dict[str, float]) -> None:
        self.site = site
        self._hosts = {one.name: site.add_host(one, **link) for one in contenders}
        self._up: dict[str, tuple[Running, ExitStack]] = {}
        self.given_up: dict[str, str] = {}
        """Contenders that did not come up, or failed again and again, and why; they are not waited
        for any more."""
        self.failed: Counter[str] = Counter()
        """Steps that a contender has failed since it last did one."""

    def host(self, contender: Contender) -> tuple[Namespace, Link | None]:
        return self._hosts[contender.name]

    def running(self, contender: Contender) -> Running:
        """Return the contender, brought up where it is not."""
        if contender.name not in self._up:
            with ExitStack() as stack:
                running = stack.enter_context(self.site.up(contender, *self.host(contender)))
                self._up[contender.name] = running, stack.pop_all()
        return self._up[contender.name][0]

    def down(self, contender: Contender) -> None:
        _, stack = self._up.pop(contender.name, (None, None))
        if stack is not None:
            stack.close()

    def close(self) -> None:
        for _, stack in self._up.values():
            with _noted("the end of a contender"):
                stack.close()
        self._up.clear()


@contextlib.contextmanager
def _noted(what: str) -> Iterator[None]:
    """Say what goes wrong at the end of something, and go on."""
    try:
        yield
    except Exception as error:
        _say(f"{what}: {_message(error)}")


def _message(error: BaseException) -> str:
    """What a table can show: what went wrong, and what a program said last."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    if len(lines) > 2:
        lines = [lines[0], "...", lines[-1]]
    text = " ".join(" ".join(lines).split()) or type(error).__name__
    half = _MAX_MESSAGE // 2
    return text if len(text) <= _MAX_MESSAGE else f"{text[:half]} ... {text[-half:]}"


def _steps(
    steps: Sequence[Step],
    contenders: Sequence[Contender],
    rounds: int,
    results: Results,
    link: dict[str, float],
) -> None:
    with ExitStack() as stack:
        echoes = max(step.processes for step in steps)
        site = Site(stack, echoes, long=bool(link))
        places = _Places(site, contenders, link)
        stack.callback(places.close)
        for number in range(rounds):
            for step in steps:
                if step.once and number:
                    continue
                _say(f"round {number + 1} of {rounds}: {step}")
                for contender in contenders:
                    if (str(step), contender.name) in results.failures:
                        continue
                    if not _takes_part(contender, step):
                        continue
                    if why := places.given_up.get(contender.name):
                        results.fail(str(step), contender.name, why)
                    else:
                        _one(places, step, contender, results)


def _one(places: _Places, step: Step, contender: Contender, results: Results) -> None:
    try:
        if step.fresh:
            with _noted(contender.name):
                places.down(contender)
            contender.processes = step.processes
        _, link = places.host(contender)
        if link is not None and step.link is not None:
            link.set(**step.link)
        running = places.running(contender)
        contender.processes = 1
    except Exception as error:
        _say(f"{contender.name} does not come up: {_message(error)}")
        places.given_up[contender.name] = _message(error)
        results.fail(str(step), contender.name, _message(error))
        return
    before = steal_seconds()
    try:
        found = list(step.work(places.site, running))
    except Exception as error:
        _say(f"{contender.name}: {_message(error)}")
        results.fail(str(step), contender.name, _message(error))
        places.failed[contender.name] += 1
        if places.failed[contender.name] == _MAX_FAILURES:
            places.given_up[contender.name] = f"not tried after {_MAX_FAILURES} failures"
        with _noted(contender.name):
            places.down(contender)  # the next step finds a new one
        return
    places.failed[contender.name] = 0
    with _noted(contender.name):
        # In the next step's way where it goes on, or is other than that expects.
        if step.processes > 1 or not _at_rest(running):
            places.down(contender)
    _note(found, contender, before, results)


def _at_rest(running: Running) -> bool:
    """Wait until a contender does nothing any more; False: it goes on and on."""
    until = time.monotonic() + REST_SECONDS
    before = sum(running.cpu().values())
    while time.monotonic() < until:
        time.sleep(_LOOK_SECONDS)
        after = sum(running.cpu().values())
        if after - before <= _LOOK_SECONDS / 4:
            return True
        before = after
    return False


def _note(
    found: Iterable[tuple[Figure, float]],
    contender: Contender,
    before: tuple[float, float],
    results: Results,
) -> None:
    after = steal_seconds()
    stolen = (after[0] - before[0]) / max(1.0, after[1] - before[1])
    for figure, value in found:
        results.add(figure, contender.name, value, stolen)


def _starts(contenders: Sequence[Contender], rounds: int, results: Results) -> None:
    with ExitStack() as stack:
        site = Site(stack)
        places = _Places(site, contenders, {})
        for number in range(rounds + 1):
            _say(f"round {number} of {rounds}: start" + ("" if number else " (not counted)"))
            for contender in contenders:
                if ("start", contender.name) in results.failures:
                    continue
                if contender.measures is not None and "start" not in contender.measures:
                    continue
                before = steal_seconds()
                try:
                    found = list(start(site, contender, places.host(contender)[0]))
                except Exception as error:
                    _say(f"{contender.name}: {_message(error)}")
                    results.fail("start", contender.name, _message(error))
                    continue
                if number:  # the first fills caches, and writes bytecode
                    _note(found, contender, before, results)
