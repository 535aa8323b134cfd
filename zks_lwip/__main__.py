"""``python -m zks_lwip``, and ``zks-lwip``."""

from __future__ import annotations

import signal

_interrupt = signal.getsignal(signal.SIGINT)
if _interrupt is signal.default_int_handler:  # and not ignored, as in the background of a shell
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a Ctrl-C while modules load ends it in silence

from .cli import main  # noqa: E402

if _interrupt is signal.default_int_handler:
    signal.signal(signal.SIGINT, _interrupt)

__all__ = ["main"]

if __name__ == "__main__":
    main(prog_name="python -m zks_lwip")
