"""Without file descriptors single operations fail or are put off; nothing ends, nothing opens."""

from __future__ import annotations

import resource
import signal
import time

import pytest

from tests.kits.netns import client, lab, machine
from tests.kits.netns.child import Child, until
from tests.kits.netns.commands import current_state as state
from tests.kits.netns.lab import WORKER4, ZKS, Lab, Namespace

SOFT, HARD = 64, 4096
LIMITED = ["sh", "-c", f'ulimit -Sn {SOFT}; ulimit -Hn {HARD}; exec "$@"', "sh"]
LIMITS = "ulimit -Sn; ulimit -Hn"


@pytest.fixture
def host(net: Lab) -> Namespace:
    return net.add_host()


def test_connect_may_use_as_many_as_it_may_have(net: Lab, host: Namespace, worker: Child) -> None:
    argv = [*LIMITED, *ZKS, "connect", *net.tunnel_options()]
    with Child("connect", host.command(argv, resolv=net.resolv)) as child:
        child.wait_for("^ready: ")
        assert resource.prlimit(child.pid, resource.RLIMIT_NOFILE) == (HARD, HARD)


def test_the_command_of_run_keeps_its_callers_limits(net: Lab, host: Namespace) -> None:
    command = ["sh", "-c", f"{LIMITS}; readlink /proc/self/ns/net"]
    direct = Child("sh", host.command([*LIMITED, *command])).succeed().split()
    argv = [*LIMITED, *ZKS, "run", "--", *command]
    inside = Child("run", host.command(argv, resolv=net.resolv)).succeed().split()
    assert inside[:2] == direct[:2] == [str(SOFT), str(HARD)]
    assert inside[2] != direct[2], "the control: it ran outside"


@pytest.mark.slow
def test_no_descriptor_left_for_anything(net: Lab, host: Namespace) -> None:
    before = machine.picture(host.path)
    listen = f"{WORKER4}:8795"
    nft = ["nft", "list", "table", "inet", "zks_lwip"]
    dig = ["dig", "+tries=1", "+time=20", "@25.9.9.9", "far.forward.test"]
    address = f"25.1.{host.name.rpartition('host')[2]}.77/24 dev up0"
    far = net.worker(listen=listen)
    options = ["--dns-forward", f"forward.test={lab.NAMES4}"]
    with far, net.connect(host, *options, url=f"ws://{listen}") as child:
        Child("nft", host.command(nft)).succeed()  # the control of what is looked at later
        limits = resource.prlimit(child.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(child.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
        host.ip(f"addr add {address}")  # a change of the network
        Child("nft", host.command(["nft", "delete", "table", "inet", "zks_lwip"])).succeed()
        assert "SERVFAIL" in Child("dig", host.command(dig)).succeed(60)
        status = Child("status", host.command([*ZKS, "status"]))
        far.process.kill()
        far.wait()
        with net.worker(listen=listen):
            child.wait_for("no connection to worker .* can be opened: .*Too many open files")
            time.sleep(3)  # (other attempts at each of these)
            assert child.process.poll() is None, child.output
            told = [line for line in child.stderr if "raise the limit of descriptors (`" in line]
            assert 1 <= len([line for line in told if "Trying again" not in line]) <= 3, told
            resource.prlimit(child.pid, resource.RLIMIT_NOFILE, limits)
            assert status.wait() in (0, 32) and status.stdout, status.output
            until(lambda: state(host) == "connected", 90)
            with host.entered():
                assert client.who(lab.FAR4) == lab.MID4
            until(lambda: Child("nft", host.command(nft)).wait() == 0)
            host.ip(f"addr del {address}")
            child.signal(signal.SIGTERM)
            assert child.wait() == 0, child.output
    child.no_traceback()
    assert machine.difference(before, machine.picture(host.path)) == ""
