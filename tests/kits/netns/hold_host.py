"""Set a host up as ``connect`` does, without a tunnel, and wait.

Each line of standard input is an order, a JSON object that a process of its own carries out:
``config`` (what HostConfig takes), ``die`` (SIGKILL before that step is done), ``term`` (SIGTERM
then), ``fail`` (raise then), ``hold`` (as ``--always-on``), ``drop`` (privileges, to that user),
``recover`` (do just that, in this state_dir). Printed are "steps N", "closed" (nothing may leave
any more), "applied NAME", and at the end "ended CODE". A line "stop" is SIGTERM for the last
process, "kill" SIGKILL, "freeze" SIGSTOP, "update JSON" another configuration.
"""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import trio

from zks_lwip.errors import HostError, ZksError
from zks_lwip.host.linux.host import Host, applied
from zks_lwip.host.linux.monitor import watch
from zks_lwip.host.linux.observe import observe
from zks_lwip.host.linux.privileges import drop_privileges, held_capabilities
from zks_lwip.host.linux.recover import recover
from zks_lwip.host.plan.config import HostConfig, KillSwitch
from zks_lwip.host.plan.make import make_plan
from zks_lwip.host.plan.steps import Step


def make_config(values: dict[str, Any]) -> HostConfig:
    values = dict(values)
    values["state_dir"] = Path(values["state_dir"])
    for name in ("bypass", "only", "peers"):
        if values.get(name) is not None:
            values[name] = tuple(map(ipaddress.ip_network, values[name]))
    for name in ("bypass_users", "inbound"):
        if name in values:
            values[name] = tuple(values[name])
    if "kill_switch" in values:
        values["kill_switch"] = KillSwitch(values["kill_switch"])
    return HostConfig(**values)


def say(*words: object) -> None:
    """A line at once: the process that says it may be killed at any moment."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def hold(order: dict[str, Any], updates: int) -> None:
    config = make_config(order["config"])

    def on_step(number: int, step: Step) -> None:
        if number == 1:
            say("closed")
        if number == order.get("die"):
            os.kill(os.getpid(), signal.SIGKILL)
        if number == order.get("term"):
            os.kill(os.getpid(), signal.SIGTERM)
        if number == order.get("fail"):
            raise HostError(f"as ordered, in step {number}")
        if number == order.get("starve"):
            raise OSError(errno.ENFILE, f"as ordered, in step {number}")

    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop, signals, nursery.cancel_scope)
            plan = make_plan(config, await observe(config.netns, state_dir=config.state_dir))
            say("steps", len(plan.steps))
            async with applied(plan, hold=order.get("hold", False), on_step=on_step) as host:
                if "drop" in order:
                    await drop_privileges(host, user=order["drop"])
                    say("user", os.getuid(), *set(held_capabilities().values()))
                say("applied", host.device.name)
                nursery.start_soon(_update, host, updates)
                nursery.start_soon(_read, host.device.fd)
                await watch(host, lambda slept: say("moved"))


async def _stop(signals: Any, scope: trio.CancelScope) -> None:
    async for _ in signals:
        scope.cancel()


async def _update(host: Host, updates: int) -> None:
    while True:
        await trio.lowlevel.wait_readable(updates)
        for line in os.read(updates, 65536).decode().splitlines():
            values = json.loads(line)
            if values == "pause":
                await host.pause()
            elif values == "resume":
                await host.resume()
            elif values == "crash":
                host.hold = True
                raise HostError("as ordered")
            elif values == "count":
                say("refused", await host.refused())
            else:
                await host.update(make_config(values))
            say("updated")


async def _read(fd: int) -> None:
    """Print where the packets in the TUN go: "tun VERSION PROTOCOL PORT"."""
    while True:
        await trio.lowlevel.wait_readable(fd)
        try:
            packet = os.read(fd, 65536)
        except BlockingIOError:
            continue
        except OSError:
            return  # another program has removed the TUN
        start = 20 if packet[0] >> 4 == 4 else 40
        protocol = packet[9] if start == 20 else packet[6]
        say("tun", packet[0] >> 4, protocol, int.from_bytes(packet[start + 2 : start + 4]))


def carry_out(order: dict[str, Any], updates: int) -> int:
    try:
        if "recover" in order:
            result = recover(Path(order["recover"]))
            say("recovered", json.dumps({"undone": result.undone, "left": result.left}))
        else:
            trio.run(hold, order, updates)
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        say(f"{type(error).__name__}: {error}")
        return 1
    except ZksError as error:
        say(f"{type(error).__name__}: {error}")
        return 1
    return 0


def main() -> None:
    """Python is started once; what is tested are its children."""
    pid, updates = 0, -1
    for line in sys.stdin:
        command, _, rest = line.strip().partition(" ")
        if command == "stop":
            os.kill(pid, signal.SIGTERM)
        elif command == "kill":
            os.kill(pid, signal.SIGKILL)
        elif command == "freeze":
            os.kill(pid, signal.SIGSTOP)
            continue
        elif command == "update":
            os.write(updates, (rest + "\n").encode())
            continue
        else:
            theirs, updates = os.pipe()
            pid = os.fork()
            if pid == 0:
                try:
                    os._exit(carry_out(json.loads(line), theirs))
                except BaseException:
                    traceback.print_exc()
                    os._exit(70)
            os.close(theirs)
            order = json.loads(line)
            if not {"die", "term", "fail", "recover", "wait"} & order.keys():
                continue
        say("ended", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


if __name__ == "__main__":
    main()
