"""All of it, in order: the machine, the instance that runs, the workers, leaks."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing

import trio

from ..config import VpnConfig
from ..errors import ZksError
from ..host.platform import is_supported
from ..net.netns import run_in_netns
from .download import Download
from .finding import Finding, failed, noted, well
from .worker import examine_worker

__all__ = ["examine"]


async def examine(
    config: VpnConfig, *, netns: str | None = None, source: Download | None = None
) -> AsyncGenerator[Finding, None]:
    """Look at everything that a tunnel needs; each finding comes as soon as it is there.

    :param config: names the workers.
    :param netns: the namespace whose instance is asked.
    :param source: what to download through each worker, to see how fast it is; None: nothing.
    """
    if sys.platform == "linux":
        from ..daemon import InstanceStopped, State, ask_status, no_status
        from .leaks import examine_leaks
        from .machine import examine_machine

        machine = examine_machine()
        while (finding := await trio.to_thread.run_sync(next, machine, None)) is not None:
            yield finding
        status = no_status()
        stopped = False
        try:
            status = await trio.to_thread.run_sync(ask_status, netns)
        except InstanceStopped as error:
            stopped = True
            yield failed("instance", error.text, error.remedy)
        except ZksError as error:
            yield noted("instance", str(error))
        else:
            if status["tunnel"] is not None:
                yield well("instance", f"process {status['pid']}: {status['state']}")
        captured = status["tunnel"] is not None
    else:
        able = "connect, worker and proxy work" if is_supported() else "worker and proxy work"
        yield noted("kernel", f"{sys.platform}: of the commands {able}; run does on Linux only")
        captured = stopped = False
    if stopped:
        yield noted("worker", "not looked at: nothing passes the instance that is stopped")
    elif captured:
        yield noted(
            "worker",
            "asked through the instance that runs: `zks-lwip status` says what it knows of it",
            "stop it to have its worker looked at",
        )
    elif config.embedded:
        yield noted("worker", "none is named: name it with `worker`, or in the settings")
    else:
        as_connect = is_supported() and netns is None
        for endpoint in config.endpoints:
            look = examine_worker(config, endpoint, source, as_connect=as_connect)
            async with aclosing(look) as findings:
                async for finding in findings:
                    yield finding
    if sys.platform == "linux" and status["state"] != State.UNKNOWN.value:
        try:
            found = await trio.to_thread.run_sync(
                run_in_netns, netns, lambda: list(examine_leaks(status))
            )
        except ZksError as error:
            found = [noted("leaks", f"not looked at: {error}")]
        for finding in found:
            yield finding
