"""What ``-v`` and ``-vv`` show, and how ``--log-format`` writes it."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import TextIO

import click

from .flags import name_flags

__all__ = ["log_format_option", "set_up_logging", "tell", "tell_error"]

_NAME = "zks-lwip"
_TIME = "%Y-%m-%dT%H:%M:%S%z"

log_format_option = click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How messages are written on stderr: as text (with the time, where it is no terminal), or "
    "as JSON, an object a line: time, level, logger, message.",
)
"""Adds ``--log-format`` to a command."""


def set_up_logging(verbose: int, log_format: str = "text") -> None:
    """Log to stderr.

    :param verbose: 0: warnings, 1: what happens, 2 and more: all of it.
    :param log_format: ``text`` or ``json``.
    """
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    handler = _Stderr(sys.stderr)
    handler.setFormatter(_JsonLines() if log_format == "json" else _text_format(verbose))
    # Of the libraries, warnings only: their debug lines name hosts and headers.
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("zks_lwip").setLevel(level)


class _Stderr(logging.StreamHandler[TextIO]):
    """Lets what is logged name flags, as an error that ends a command does."""

    def format(self, record: logging.LogRecord) -> str:
        # Where its arguments do not fit, the caller is not to hear of it: `emit` sees to that.
        record.msg, record.args = name_flags(record.getMessage()), ()
        return super().format(record)


def _text_format(verbose: int) -> logging.Formatter:
    if verbose >= 2:
        return logging.Formatter("%(asctime)s %(name)s: %(message)s")
    # The journal and a terminal's reader know what time it is.
    journal = "JOURNAL_STREAM" in os.environ
    if journal or (sys.stderr is not None and sys.stderr.isatty()):
        return logging.Formatter(f"{_NAME}: %(message)s")
    return logging.Formatter(f"%(asctime)s {_NAME}: %(message)s", _TIME)


class _JsonLines(logging.Formatter):
    """An object a line."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def _write_json(level: int, text: str) -> bool:
    """Write a message if all are written as JSON; return whether they are."""
    handlers = [each for each in logging.root.handlers if isinstance(each.formatter, _JsonLines)]
    for handler in handlers:
        handler.handle(logging.LogRecord("zks_lwip.cli", level, "", 0, text, None, None))
    return bool(handlers)


def tell(text: str) -> None:
    """Tell something on stderr, whatever ``-v`` says."""
    if not _write_json(logging.INFO, text):
        click.echo(f"{_NAME}: {text}", err=True)


def tell_error(text: str) -> bool:
    """Tell what has ended the command, if messages are written as JSON.

    :returns: whether they are.
    """
    return _write_json(logging.ERROR, text)
