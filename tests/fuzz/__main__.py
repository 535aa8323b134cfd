"""Coverage-guided fuzzing: ``python -m tests.fuzz packets|datagrams|mask|mux|frames``.

Runs the committed corpus of the target, then new inputs for N seconds, and prints how many ran and
how much of the code they reached. Ends with 1 and what broke if something did.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from tests.fuzz.planted import PLANTED, ROOT, Bug

CORPUS = Path(__file__).parent / "corpus"
FINDINGS = ROOT / "build" / "fuzz" / "findings"


class _Planter(importlib.abc.MetaPathFinder):
    """Imports one module of the project with a bug in it."""

    def __init__(self, bug: Bug) -> None:
        self._bug = bug
        self._path = str(ROOT / bug.path)

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.origin != self._path:
            return None
        text = self._bug.planted()

        class Loader(importlib.machinery.SourceFileLoader):
            def get_code(self, fullname: str) -> CodeType:
                return compile(text, self.path, "exec")

        spec.loader = Loader(name, self._path)
        return spec


def _told(name: str, executions: int, seconds: float, covered: int, of: int, what: str) -> None:
    share = 100 * covered / of if of else 0
    print(
        f"{name}: {executions} executions in {seconds:.0f} s,"
        f" {covered} of {of} {what} reached ({share:.0f} %)",
        flush=True,
    )


def _native(arguments: argparse.Namespace, bug: Bug | None) -> int:
    from tests.fuzz import native_targets

    try:
        program = native_targets.build(arguments.target, bug)
    except FileNotFoundError as error:
        print(f"tests.fuzz: {error} (Debian: apt-get install clang libclang-rt-14-dev)")
        return 2
    corpus = CORPUS / arguments.target
    if arguments.merge:
        native_targets.merge(program, corpus, [corpus, *arguments.input])
        return 0
    started = time.monotonic()
    outcome = native_targets.run(
        program,
        arguments.input or [corpus],
        seconds=None if arguments.input else arguments.seconds,
        executions=arguments.executions,
        keep=arguments.keep,
        seed=arguments.seed,
    )
    seconds = time.monotonic() - started
    _told(
        arguments.target,
        outcome.executions,
        seconds,
        outcome.covered,
        outcome.coverable,
        "branches",
    )
    if outcome.finding is None:
        return 0
    print(outcome.finding)
    shown_by = outcome.artifact or " --input ".join(map(str, arguments.input)) or "the corpus"
    print(f"shown by: python -m tests.fuzz {arguments.target} --input {shown_by}")
    return 1


def _python(arguments: argparse.Namespace, bug: Bug | None) -> int:
    if bug is not None:
        sys.meta_path.insert(0, _Planter(bug))
    guided: Any = importlib.import_module("tests.fuzz.guided")
    target = importlib.import_module("tests.fuzz.frames").FramesTarget()
    folder = CORPUS / arguments.target
    if arguments.merge:
        folder.mkdir(parents=True, exist_ok=True)
        paths = [path for x in [folder, *arguments.input] for path in x.iterdir()]
        fuzzer = guided.Fuzzer(target, counting=False)
        known = {path.read_bytes() for path in folder.iterdir()}
        fuzzer.search(known, 0)
        fuzzer.search(sorted((path.read_bytes() for path in paths), key=len), 0)
        for data in set(fuzzer.corpus) - known:
            (folder / hashlib.sha1(data).hexdigest()).write_bytes(data)
        return 0
    files = arguments.input or (sorted(folder.iterdir()) if folder.is_dir() else [])
    fuzzer = guided.Fuzzer(target, arguments.seed or None, arguments.keep)
    started = time.monotonic()
    seconds = 0 if arguments.input else arguments.seconds
    found = fuzzer.search((path.read_bytes() for path in files), seconds, arguments.executions)
    coverage = fuzzer.coverage
    elapsed = time.monotonic() - started
    _told(
        arguments.target,
        fuzzer.executions,
        elapsed,
        len(coverage.lines),
        coverage.coverable(),
        "lines",
    )
    if found is None:
        return 0
    data, broken = found
    FINDINGS.mkdir(parents=True, exist_ok=True)
    artifact = FINDINGS / f"{arguments.target}-{hashlib.sha1(data).hexdigest()}"
    artifact.write_bytes(data)
    print(broken)
    print(f"shown by: python -m tests.fuzz {arguments.target} --input {artifact}")
    return 1


def main() -> int:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=["packets", "datagrams", "mask", "mux", "frames"])
    parser.add_argument("--seconds", type=int, default=60, help="how long; 0: the corpus only")
    parser.add_argument(
        "--executions", type=int, help="end after so many, with those of the corpus, if before"
    )
    parser.add_argument("--seed", type=int, default=0, help="repeats a run; 0: another each time")
    parser.add_argument("--keep", type=Path, help="a folder for inputs that reached new code")
    parser.add_argument("--planted", choices=sorted(PLANTED), help="with this bug in the code")
    parser.add_argument(
        "--merge", action="store_true", help="add to the corpus what the folders --input reach more"
    )
    parser.add_argument(
        "--input", type=Path, action="append", default=[], help="run this file alone"
    )
    arguments = parser.parse_args()
    bug = PLANTED[arguments.planted] if arguments.planted else None
    if bug is not None and bug.target != arguments.target:
        parser.error(f"--planted {arguments.planted} is for the target {bug.target}")
    try:
        return (_python if arguments.target == "frames" else _native)(arguments, bug)
    except subprocess.CalledProcessError as error:
        print(f"tests.fuzz: {error}")
        return 2


if __name__ == "__main__":
    sys.exit(main())
