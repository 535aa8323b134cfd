"""``connect`` on a machine that has little: what a minimal installation of Debian leaves out."""

from __future__ import annotations

from tests.kits.netns.child import Child
from tests.kits.netns.lab import ZKS, Lab

# The tables of netbase are not there, in a mount namespace of the command's own.
BARE = """
for table in protocols services; do
    if [ -e /etc/$table ]; then mount --bind /dev/null /etc/$table; fi
done
exec "$@"
"""


def test_connects_without_the_tables_of_netbase(net: Lab, worker: Child) -> None:
    host = net.add_host()
    command = host.command([*ZKS, "connect", *net.tunnel_options()], resolv=net.resolv)
    with Child("connect", ["unshare", "-m", "sh", "-ec", BARE, "bare", *command]) as running:
        running.wait_for("^ready: ")
    running.no_traceback()
    assert running.process.returncode == 0
