"""open_vpn by a program of root's: the host is captured when asked, and each flow is decided of."""

from __future__ import annotations

import textwrap

from tests.kits.netns import client, lab, machine, servers
from tests.kits.netns.child import Child
from tests.kits.netns.commands import host, unchanged
from tests.kits.netns.lab import PYTHON, WORKER4, WORKER_PORT, Lab, Namespace

__all__ = ["host", "unchanged"]  # the fixtures

PROGRAM = """
import signal, sys, trio
from zks_lwip import Direct, Reject, Tunnel, VpnConfig, open_vpn

async def main(how):
    config = VpnConfig(
        worker="ws://{worker}", plaintext=True, token="{token}", kill_switch="route"
    )

    def decide(flow):
        if flow.destination[1] == {echo}:
            return Reject.PROHIBITED
        if flow.destination[0] == "203.0.113.9":
            return Tunnel("{far}", {who})
        return Direct if flow.destination[0] == "{far}" else Tunnel

    options = dict(capture=True, decide=decide) if how == "decide" else dict()
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with open_vpn(config, **options) as vpn:
            async with await vpn.open_tcp_stream("{far}", {who}) as stream:
                print("as", (await stream.receive_some()).decode().strip(), flush=True)
            print("ready", vpn.interface or "without a device", flush=True)
            async for _ in signals:
                break

trio.run(main, sys.argv[1])
"""


def program(net: Lab, host: Namespace, how: str) -> Child:
    text = textwrap.dedent(PROGRAM).format(
        echo=servers.ECHO,
        worker=f"{WORKER4}:{WORKER_PORT}",
        token=lab.TOKEN,
        far=lab.FAR4,
        who=servers.WHO,
    )
    argv = host.command([*PYTHON, "-c", text, how], resolv=net.resolv)
    return Child(f"open_vpn {how}", argv)


def test_root_is_not_captured_unless_asked(
    net: Lab, worker: Child, host: Namespace, unchanged: None
) -> None:
    before = machine.picture(host.path)
    with program(net, host, "plain") as child, host.entered():
        child.wait_for("^ready without a device")
        assert f"as {lab.MID4}" in child.output, "the program's own connection was the worker's"
        assert machine.difference(before, machine.picture(host.path)) == ""
        assert client.who(lab.FAR4) != lab.MID4, "others go directly"
    child.no_traceback()


def test_a_program_decides_of_the_hosts_flows(
    net: Lab, worker: Child, host: Namespace, unchanged: None
) -> None:
    with program(net, host, "decide") as child, host.entered():
        child.wait_for("^ready zks0")
        assert client.who("203.0.113.9") == lab.MID4, "led elsewhere, through the tunnel"
        assert client.who(lab.FAR6) == lab.MID6, "through the tunnel"
        assert client.who(lab.FAR4).startswith("25.1."), "beside it, from the host's own address"
        assert client.connect_error(lab.FAR4, servers.ECHO) in ("EACCES", "EHOSTUNREACH")
    child.no_traceback()
