"""``python -m zks_lwip``, and ``zks-lwip``."""

from __future__ import annotations

# What `signal` is made of, and what every interpreter has loaded; that itself would load others.
from _signal import (  # type: ignore[import-not-found]
    SIG_DFL,
    SIGINT,
    default_int_handler,
    getsignal,
    signal,
)

_interrupt = getsignal(SIGINT)
if _interrupt is default_int_handler:  # and not ignored, as in the background of a shell
    signal(SIGINT, SIG_DFL)  # a Ctrl-C while modules load ends it in silence

from ._loading import begin_loading  # noqa: E402

begin_loading()

from .cli import main  # noqa: E402

if _interrupt is default_int_handler:
    signal(SIGINT, _interrupt)

__all__ = ["main"]

if __name__ == "__main__":
    main(prog_name="python -m zks_lwip")
