"""``doctor``: what is missing, and what to do about it."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from ._configured import ConfiguredCommand, settings_options
from ._help import option_group
from ._logging import set_up_logging
from ._options import bootstrap_options, examined_worker_options
from .flags import name_flags
from .fold import folded

if TYPE_CHECKING:
    from ..config import VpnConfig
    from ..doctor import Finding
    from ..doctor.download import Download

__all__ = ["doctor", "make_doctor_config"]

_COLORS = {"ok": "green", "note": "cyan", "warning": "yellow", "failure": "red"}
_MARKS = {"ok": "ok", "note": "note", "warning": "WARN", "failure": "FAIL"}


@click.command(cls=ConfiguredCommand)
@examined_worker_options
@bootstrap_options
@option_group(
    "What is looked at",
    click.option("--netns", metavar="NAME", help="The instance that captures this namespace."),
    click.option(
        "--download",
        metavar="URL",
        help="A large file, http:// or https://, that is downloaded through the worker for some "
        "seconds, to see how fast that is.",
    ),
)
@settings_options
@option_group(
    "Output", click.option("--json/--no-json", "as_json", help="All of it, as one line of JSON.")
)
@click.pass_context
def doctor(
    ctx: click.Context,
    /,
    *,
    netns: str | None,
    download: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Look at what a tunnel needs, and say what to do about what is missing.

    A line each: kernel, privileges, namespaces, TUN, nft, cgroups, resolver, clock; the worker: is
    its name found, is it reached, does its certificate verify, does it know the token, what does
    it carry, how far is it; and whether anything leaves beside an instance that runs. Nothing is
    changed. As root, more can be tried out.

    \b
    With the worker of the settings, or of a profile (`--profile home`):
      python -m zks_lwip doctor
    With this one, and how fast it is:
      python -m zks_lwip doctor --worker wss://worker.example --token-file token.txt \\
          --download https://example.com/large.iso

    \b
    Exit codes:
      0    nothing is wrong (there may be notes, and warnings)
      38   something does not work: a line says FAIL
    """
    import trio

    from ..daemon.states import DOCTOR_FAILED

    set_up_logging(0)
    config, source = make_doctor_config(download, **options)
    findings = trio.run(_examine, config, netns, source, not as_json)
    if as_json:
        click.echo(json.dumps({"findings": [each.to_json() for each in findings]}))
    ctx.exit(DOCTOR_FAILED if any(each.level.value == "failure" for each in findings) else 0)


def make_doctor_config(download: str | None, **options: Any) -> tuple[VpnConfig, Download | None]:
    """Return what ``doctor`` is to look at.

    :raises ConfigError: an option cannot be used.
    """
    from ..doctor.download import Download
    from ..settings.vpn import make_config

    if not options["worker"]:
        options["ca_file"] = None  # for the resolvers, which are not asked here
    config = make_config(**options)
    return config, None if download is None else Download.parse(download)


async def _examine(
    config: VpnConfig, netns: str | None, source: Download | None, tell: bool
) -> list[Finding]:
    from ..doctor import examine

    findings = []
    async with aclosing(examine(config, netns=netns, source=source)) as looks:
        async for found in looks:
            finding = replace(found, text=name_flags(found.text), remedy=name_flags(found.remedy))
            findings.append(finding)
            if tell:
                _tell(finding)
    return findings


def _tell(finding: Finding) -> None:
    level = finding.level.value
    mark = click.style(f"{_MARKS[level]:<4}", fg=_COLORS[level], bold=level == "failure")
    remedy = f" — {finding.remedy}" if finding.remedy else ""
    # Some of it are words of a worker or of a certificate: they are to move no cursor.
    said = " ".join(f"{finding.text}{remedy}".split())
    plain = "".join(char if char.isprintable() else "?" for char in said)
    line = f"{finding.name}: {plain}"
    if sys.stdout.isatty():
        indent = 6
        width = shutil.get_terminal_size().columns - indent
        line = ("\n" + " " * indent).join(folded(line, width, indent=0))
    click.echo(f"{mark}  {line}")
    sys.stdout.flush()
