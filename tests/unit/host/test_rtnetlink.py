"""pyroute2's messages are loaded alone, and pyroute2 is whole for other programs that use it."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="rtnetlink")

_LARGE = {"asyncio", "pyroute2.iproute", "pyroute2.ndb", "unittest"}
_LOADED = f"import sys; print(*sorted({_LARGE!r} & sys.modules.keys()))"
_OURS = "from zks_lwip.host.linux.rtnetlink import NetlinkError, open_rtnetlink"


def _python(*lines: str) -> list[str]:
    argv = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_rtnetlink_is_loaded_alone() -> None:
    assert _python(_OURS, _LOADED) == [""]


def test_what_it_lists_is_what_pyroute2_lists() -> None:
    told = _python(
        _OURS,
        "import pyroute2",
        "def plain(messages):",
        "    return [[each[name] for name, _ in each.fields] for each in messages]",
        "with open_rtnetlink() as ip, pyroute2.IPRoute() as theirs:",
        "    for family in 2, 10:",
        "        assert plain(ip.dump('rule', family)) == plain(theirs.get_rules(family=family))",
        "    (first, *_), (other, *_) = ip.dump('link'), theirs.get_links()",
        "    assert first['index'] == other['index'] == 1",
        "    print(first.get_attr('IFLA_IFNAME'), other.get_attr('IFLA_IFNAME'))",
    )
    assert told == ["lo lo"]


@pytest.mark.parametrize(
    "use",
    [
        "import pyroute2; pyroute2.NDB; pyroute2.IPRoute",
        "from pyroute2 import NDB, IPRoute; IPRoute",
        "import pyroute2.ndb.main; pyroute2.ndb.main.NDB",
        "import pyroute2.netlink.rtnl; pyroute2.netlink.rtnl.RTM_GETLINK",
        "import pyroute2; assert pyroute2.__version__[0].isdigit()",
        "import pyroute2\ntry: pyroute2.never\nexcept AttributeError: pass\npyroute2.NDB",
    ],
)
def test_others_find_pyroute2_whole(use: str) -> None:
    _python(_OURS, use)


def test_a_pyroute2_that_is_loaded_already_is_used() -> None:
    same = "print(pyroute2.NetlinkError is NetlinkError)"
    told = _python("import pyroute2", _OURS, same, _LOADED)
    assert told[0] == "True" and "pyroute2.ndb" in told[1]


def test_a_failure_of_the_kernel_is_the_error_that_is_caught() -> None:
    assert _python(
        _OURS,
        "with open_rtnetlink() as ip:",
        "    try: ip.request('link', 'del', index=2**30)",
        "    except NetlinkError as error: print(error.code)",
        "    print(len(ip.request('route', 'get', family=2, dst='127.0.0.1')))",
    ) == [str(errno.ENODEV), "1"]


def test_a_lack_of_descriptors_is_said_without_a_traceback() -> None:
    argv = [sys.executable, "-c", _SCARCE]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "None\n1\n")
    assert "Traceback" not in done.stderr


_SCARCE = """if True:
    import os, resource

    from zks_lwip.host.linux.route_lookup import next_hop

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    next_hop("127.0.0.1", None)  # loads what it needs
    used = os.dup(0)
    os.close(used)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
    print(next_hop("127.0.0.1", None))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, hard))
    print(next_hop("127.0.0.1", None).link)
"""
