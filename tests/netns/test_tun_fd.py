"""`connect --tun-fd`: a TUN that another program has made, with addresses and routes of its own."""

from __future__ import annotations

import textwrap

import pytest

from tests.kits.netns import client, lab, machine
from tests.kits.netns.child import Child
from tests.kits.netns.commands import host, unchanged
from tests.kits.netns.lab import PYTHON, WORKER4, WORKER_PORT, ZKS, Lab, Namespace

__all__ = ["host", "unchanged"]  # the fixtures

MAKER = """
import os, subprocess, sys
from zks_lwip.device import open_tun

device = open_tun("given", mtu=1400, vnet_hdr={vnet})
for words in (
    "address add 198.18.0.1/30 dev given",
    "link set given up",
    "route add {far}/32 dev given",
):
    subprocess.run(["ip", *words.split()], check=True)
os.set_inheritable(device.fd, True)
os.execv(sys.executable, [*{command!r}, "--tun-fd", str(device.fd)])
"""


@pytest.mark.parametrize("vnet", [False, True])
def test_it_carries_what_comes_from_there_alone(
    vnet: bool, net: Lab, worker: Child, host: Namespace, unchanged: None
) -> None:
    command = [*ZKS, "connect", "--worker", f"ws://{WORKER4}:{WORKER_PORT}", "--plaintext"]
    command += ["--token-file", str(net.token_file), "--mtu", "1400"]
    text = textwrap.dedent(MAKER).format(vnet=vnet, far=lab.FAR4, command=command)
    kept = ("rules", "rules6", "nftables", "resolv.conf")
    before = machine.picture(host.path)
    with Child("maker", host.command([*PYTHON, "-c", text], resolv=net.resolv)) as connect:
        connect.wait_for("^ready: given → ws://")
        with host.entered():
            assert client.who(lab.FAR4) == lab.MID4, "routed into the device"
            assert client.who(lab.FAR6) != lab.MID6, "not routed there"
        during = machine.picture(host.path)
        assert [key for key in kept if during[key] != before[key]] == []
    connect.no_traceback()
    assert connect.wait() == 0
