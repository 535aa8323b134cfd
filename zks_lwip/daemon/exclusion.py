"""Programs beside the tunnel: take a process out of it, and renew what that depends on."""

from __future__ import annotations

import logging
import os
import select
from typing import Protocol

import trio

from ..errors import HostError, PrivilegeError, ZksError

__all__ = ["ExcludingHost", "exclude_process", "keep_excluded"]

_log = logging.getLogger(__name__)

_RENEW_SECONDS = 3.0
"""Between two renewals: three fit into :data:`~zks_lwip.host.plan.steps.LEASE_SECONDS`."""


class ExcludingHost(Protocol):
    """What is needed of :class:`~zks_lwip.host.base.BaseHost`."""

    async def exclude(self, pid: int) -> None: ...
    async def renew_exclusion(self) -> bool: ...


async def exclude_process(host: ExcludingHost, pid: int, uid: int) -> None:
    """Have a process, and those that it starts from now on, send beside the tunnel.

    Its id may become another process's as soon as it has ended, so who owns it is looked at before,
    and that it still lives, afterwards.

    :param uid: the user who has asked for it.
    :raises PrivilegeError: it is another user's.
    :raises HostError: it has ended, or cannot be moved.
    """
    gone = HostError("the process that is to send beside the tunnel cannot be seen from here")
    if pid <= 0:  # of another pid namespace
        raise gone
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        raise gone from None
    except OSError as error:
        raise HostError(f"`exclude` needs Linux 5.3: {error.strerror}") from error
    try:
        try:
            owner = os.stat(f"/proc/{pid}").st_uid
        except FileNotFoundError:
            raise gone from None
        if uid not in (0, owner):
            raise PrivilegeError(f"process {pid} is not of the user who asks for it")
        await host.exclude(pid)
        if select.select([fd], [], [], 0)[0]:
            raise HostError(f"process {pid} has ended while it was moved")
    finally:
        os.close(fd)


async def keep_excluded(host: ExcludingHost) -> None:
    """Renew the lease of what is excluded, until cancelled."""
    failed = ""
    while True:
        await trio.sleep(_RENEW_SECONDS)
        try:
            await host.renew_exclusion()
        except ZksError as error:
            if str(error) != failed:
                _log.error("excluded programs go through the tunnel: %s", error)
            failed = str(error)
        else:
            failed = ""
