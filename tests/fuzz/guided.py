"""A small coverage-guided fuzzer for Python code: inputs that reach something new are kept and
mutated further. Lines are traced as the interpreter runs them; no compiler is needed.
"""

from __future__ import annotations

import hashlib
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Protocol

__all__ = ["Coverage", "Fuzzer", "Target"]

_ONE_INPUT = 10  # seconds: what takes longer hangs


class Target(Protocol):
    """What is fuzzed."""

    name: str

    def traced(self) -> Iterable[Path]:
        """The source files whose coverage guides."""

    def run(self, data: bytes) -> None:
        """One input. Raises whatever should not be."""

    def mutate(self, data: bytes, source: random.Random, other: bytes) -> bytes:
        """A changed input; ``other`` is one to take parts from."""


class Coverage:
    """Which pairs of lines followed one another, and roughly how often."""

    def __init__(self, files: Iterable[Path], counting: bool = True) -> None:
        self._counting = counting
        self._files = {str(path) for path in files}
        self._wanted: dict[CodeType, bool] = {}
        self._counts: dict[tuple[CodeType, int, int], int] = {}
        self.seen: set[tuple[CodeType, int, int, int]] = set()
        self.lines: set[tuple[str, int]] = set()

    def _global(self, frame: FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        wanted = self._wanted.get(code)
        if wanted is None:
            wanted = self._wanted[code] = code.co_filename in self._files
        if not wanted:
            return None
        counts = self._counts
        before = 0

        def local(frame: FrameType, event: str, arg: Any) -> Any:
            nonlocal before
            if event == "line":
                line = frame.f_lineno
                key = (code, before, line)
                counts[key] = counts.get(key, 0) + 1
                before = line
            return local

        return local

    def measure(self, work: Callable[[], None]) -> bool:
        """Do ``work``; whether it has reached something new."""
        self._counts.clear()
        previous = sys.gettrace()
        sys.settrace(self._global)
        try:
            work()
        finally:
            sys.settrace(previous)
        new = False
        for (code, before, line), count in self._counts.items():
            feature = (code, before, line, count.bit_length() if self._counting else 0)
            if feature not in self.seen:
                self.seen.add(feature)
                self.lines.add((code.co_filename, line))
                new = True
        return new

    def coverable(self) -> int:
        """How many lines of the traced files hold code (of functions)."""

        def walk(code: CodeType, inner: bool) -> Iterator[int]:
            if inner:
                yield from {line for _, _, line in code.co_lines() if line} - {code.co_firstlineno}
            for constant in code.co_consts:
                if isinstance(constant, CodeType):
                    yield from walk(constant, not constant.co_name[:1].isupper())

        total = 0
        for name in self._files:
            text = Path(name).read_text(encoding="utf-8")
            total += len(set(walk(compile(text, name, "exec"), False)))
        return total


class Fuzzer:
    """Runs a target; ``corpus`` holds the inputs that were worth keeping: those that reached a new
    line from another one, or (``counting``) so many times as none before.
    """

    def __init__(
        self,
        target: Target,
        seed: int | None = None,
        keep: Path | None = None,
        counting: bool = True,
    ) -> None:
        self.target = target
        self.coverage = Coverage(target.traced(), counting)
        self.corpus: list[bytes] = []
        self.executions = 0
        self._random = random.Random(seed)
        self._keep = keep

    def one(self, data: bytes) -> str | None:
        """Run one input; the traceback of what it broke."""
        previous = signal.signal(signal.SIGALRM, _hang) if hasattr(signal, "SIGALRM") else None
        if previous is not None:
            signal.setitimer(signal.ITIMER_REAL, _ONE_INPUT)
        self.executions += 1
        try:
            new = self.coverage.measure(lambda: self.target.run(data))
        except Exception:
            return traceback.format_exc()
        finally:
            if previous is not None:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, previous)
        if new:
            self.corpus.append(data)
            if self._keep is not None:
                self._keep.mkdir(parents=True, exist_ok=True)
                (self._keep / hashlib.sha1(data).hexdigest()).write_bytes(data)
        return None

    def search(
        self, inputs: Iterable[bytes], seconds: float, executions: int | None = None
    ) -> tuple[bytes, str] | None:
        """Run ``inputs``, then new ones for ``seconds``, or until there were ``executions`` in all.

        An input that broke something, and how; None if none did.
        """
        for data in inputs:
            if broken := self.one(data):
                return data, broken
        deadline = time.monotonic() + seconds
        source = self._random
        while time.monotonic() < deadline and self.executions != executions:
            known = self.corpus or [b""]
            # The newest are the least explored.
            index = max(source.randrange(len(known)), source.randrange(len(known)))
            data = known[index]
            for _ in range(1 + source.randrange(4)):
                data = self.target.mutate(data, source, source.choice(known))
            if broken := self.one(data):
                return data, broken
        return None


def _hang(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"one input has taken {_ONE_INPUT} seconds")
