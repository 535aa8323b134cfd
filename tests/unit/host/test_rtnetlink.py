"""pyroute2's rtnetlink is loaded alone, and pyroute2 is whole for other programs that use it."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="rtnetlink")

_LOADED = "import sys; print(*sorted({'pyroute2.ndb', 'pyroute2.iproute'} & sys.modules.keys()))"
_OURS = "from zks_lwip.host.linux.rtnetlink import IPRoute, NetlinkError"


def _python(*lines: str) -> list[str]:
    argv = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_rtnetlink_is_loaded_alone() -> None:
    assert _python(_OURS, _LOADED) == ["pyroute2.iproute"]


@pytest.mark.parametrize(
    "use",
    [
        "import pyroute2; pyroute2.NDB; assert pyroute2.IPRoute is IPRoute",
        "from pyroute2 import NDB, IPRoute as theirs; assert theirs is IPRoute",
        "import pyroute2.ndb.main; pyroute2.ndb.main.NDB",
        "import pyroute2.netlink.rtnl; pyroute2.netlink.rtnl.RTM_GETLINK",
        "import pyroute2; assert pyroute2.__version__[0].isdigit()",
        "import pyroute2\ntry: pyroute2.never\nexcept AttributeError: pass\npyroute2.NDB",
    ],
)
def test_others_find_pyroute2_whole(use: str) -> None:
    _python(_OURS, use)


def test_a_pyroute2_that_is_loaded_already_is_used() -> None:
    told = _python("import pyroute2", _OURS, "print(pyroute2.IPRoute is IPRoute)", _LOADED)
    assert told[0] == "True" and "pyroute2.ndb" in told[1]


def test_a_failure_of_the_kernel_is_the_error_that_is_caught() -> None:
    assert _python(
        _OURS,
        "with IPRoute() as ip:",
        "    try: ip.link('del', index=2**30)",
        "    except NetlinkError as error: print('NetlinkError')",
    ) == ["NetlinkError"]


def test_a_lack_of_descriptors_is_said_without_a_traceback() -> None:
    """However many are left: none, or some of those that it takes."""
    argv = [sys.executable, "-c", _SCARCE]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "None\n" * 8 + "1\n")
    assert "Traceback" not in done.stderr


_SCARCE = """if True:
    import os, resource

    from zks_lwip.host.linux.route_lookup import next_hop

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    next_hop("127.0.0.1", None)  # loads what it needs
    used = os.dup(0)
    os.close(used)
    for left in range(8):
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + left, hard))
        print(next_hop("127.0.0.1", None))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 8, hard))
    print(next_hop("127.0.0.1", None).link)
"""
