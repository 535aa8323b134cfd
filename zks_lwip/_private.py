"""Files that hold a secret: others must not be able to read them."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path

from .errors import ConfigError

__all__ = ["check_private"]

_log = logging.getLogger(__name__)

_OTHERS = stat.S_IROTH | stat.S_IWOTH
_GROUP = stat.S_IRGRP | stat.S_IWGRP


def check_private(
    status: os.stat_result,
    path: Path | str,
    option: str | None,
    *,
    what: str = "",
    warn: Callable[[str], object] = _log.warning,
) -> None:
    """Check that a file that holds a secret is not for everybody.

    What its group may read is warned about. Pipes and devices (``/dev/fd/N``) pass, and so does
    everything on systems without the modes of POSIX.

    :param status: of the opened file, by ``os.fstat``.
    :param option: the name for the file in messages; None: its path alone.
    :param what: what it holds, where that is not plain from ``option``.
    :param warn: is told what is no error.
    :raises ConfigError: others may read or write it.
    """
    if os.name != "posix" or not stat.S_ISREG(status.st_mode):
        return
    mode = f"mode {stat.S_IMODE(status.st_mode):03o}"
    if status.st_mode & _OTHERS:
        held = f"it holds {what}, and " if what else ""
        raise ConfigError(
            f"{path}: {held}others may read or write it ({mode}). Type: chmod 600 {path}", option
        )
    # Where access control lists let a service alone read its credentials, they show as the group's
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if status.st_mode & _GROUP and (credentials is None or Path(path).parent != Path(credentials)):
        warn(f"{path} can be read or written by its group ({mode}); type: chmod 600 {path}")
