"""This interpreter once more, for a process that runs a module of ours."""

from __future__ import annotations

import os
import sys

__all__ = ["program"]

# `-m` would look in the working directory first, which may be anybody's, and we may be root.
_RUN = (
    "import os, runpy, sys\n"
    "sys.path[:] = sys.argv.pop(1).split(os.pathsep)\n"
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def program(module: str) -> list[str]:
    """The command that runs ``module``; it finds modules where this process does, nowhere else."""
    return [sys.executable, "-P", "-c", _RUN, os.pathsep.join(sys.path), module]
