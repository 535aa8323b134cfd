"""A host whose process 1 and resolver are in its namespace: systemd-resolved, Debian's resolvconf
or openresolv, the real ones, unpacked but not installed.

Mounts and processes are the host's own, and end with it.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.kits import resolver_programs
from tests.kits.netns import lab
from tests.kits.netns.child import ROOT, Child, descendants
from tests.kits.netns.lab import ZKS, Lab, Namespace

USER_ID = 990  # of systemd-resolve, which drops to it
BUS = """
<busconfig>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <policy context="default">
    <allow user="*"/> <allow own="*"/> <allow send_type="*"/> <allow receive_type="*"/>
  </policy>
</busconfig>
"""
# /etc and /lib with what the package has there, and changes that no other process sees.
MOUNTS = """
package=$1 bus=$2
mount -t tmpfs none /run
mkdir -m 700 /run/zks_lwip
mkdir -p /run/netns /run/dbus /run/systemd/resolve /run/resolvconf/interface
for folder in etc lib; do
    there=$(realpath /$folder)
    mkdir -p /run/above/$folder /run/work/$folder
    folders=lowerdir=$package/$folder:$there,upperdir=/run/above/$folder,workdir=/run/work/$folder
    mount -t overlay -o $folders none $there
done
# Hooks that other packages of this machine (unbound, dnsmasq) have there are not for this one.
for own in etc/resolvconf etc/resolvconf.conf etc/default/resolvconf lib/resolvconf; do
    rm -rf /$own
    if [ -e $package/$own ]; then cp -a $package/$own /$own; fi
done
"""
RECORD = f"'nameserver {lab.NAMES4}' 'search zks.test' 'options trust-ad'"
START = {
    "systemd-resolved": f"""
echo 'systemd-resolve:x:{USER_ID}:{USER_ID}::/:/usr/sbin/nologin' >>/etc/passwd
echo 'systemd-resolve:x:{USER_ID}:' >>/etc/group
chown {USER_ID}:{USER_ID} /run/systemd/resolve
printf '[Resolve]\nCache=no\nLLMNR=no\nMulticastDNS=no\nDNSSEC=no\nFallbackDNS=\n' \
    >/etc/systemd/resolved.conf
rm -f /etc/resolv.conf
ln -s /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
dbus-daemon --config-file=$bus --nofork --nopidfile &
until [ -S /run/dbus/system_bus_socket ]; do sleep 0.02; done
/lib/systemd/systemd-resolved &
until resolvectl dns up0 {lab.NAMES4} 2>/dev/null; do sleep 0.05; done
resolvectl domain up0 '~.' zks.test
""",
    "resolvconf": f"""
rm -f /etc/resolv.conf
ln -s /run/resolvconf/resolv.conf /etc/resolv.conf
resolvconf --enable-updates
printf '%s\n' {RECORD} | resolvconf -a up0.dhclient
""",
    "openresolv": f"""
rm -f /etc/resolv.conf
printf '%s\n' {RECORD} | resolvconf -a up0.dhclient
""",
}
END = """
echo resolver is ready
while :; do sleep 1000 & wait $!; done
"""
PICTURES = {
    "systemd-resolved": "resolvectl status --no-pager; cat /run/systemd/resolve/resolv.conf",
    "resolvconf": "cd /run/resolvconf; grep -r . interface resolv.conf",
    "openresolv": "cd /run/resolvconf; grep -rs . .",
}


def missing(package: str) -> str:
    """Why it cannot run here; empty if it can."""
    if resolver_programs.unpacked(package) is None:
        return f"the package {package} is not to be had"
    if package == "systemd-resolved" and not shutil.which("dbus-daemon"):
        return "dbus-daemon is not installed"
    return ""


class ResolverHost:
    """``host`` with that resolver, asking ``lab.NAMES4``; ``close`` ends all that runs in it."""

    def __init__(self, net: Lab, host: Namespace, package: str) -> None:
        self.net = net
        self.package = package
        root = resolver_programs.unpacked(package)
        assert root is not None
        bus = net.file("bus.conf", BUS)
        folders = [root / name for name in ("sbin", "bin", "usr/sbin", "usr/bin")]
        libraries = sorted({str(one.parent) for one in (root / "usr/lib").rglob("*.so*")})
        self._env = {
            "PATH": ":".join([*map(str, folders), _path()]),
            **({"LD_LIBRARY_PATH": ":".join(libraries)} if libraries else {}),
        }
        script = MOUNTS + START[package] + END
        argv = ["nsenter", f"--net={host.path}", "unshare", "-m", "-p", "-f", "--mount-proc",
                "--kill-child", "sh", "-ec", script, "sh", str(root), str(bus)]  # fmt: skip
        self._init = Child(package, argv, env=self._env)
        try:
            self._init.wait_for("^resolver is ready")
            self._pid = descendants(self._init.pid)[1]
        except BaseException:
            self.close()
            raise

    def child(self, *argv: str) -> Child:
        """A program in there."""
        enter = ["nsenter", "-t", str(self._pid), "-m", "-p", "-n"]
        inside = ["sh", "-c", 'cd "$0" && exec "$@"', str(ROOT), *argv]
        return Child(argv[0], [*enter, *inside], env=self._env)

    def run(self, *argv: str) -> str:
        return self.child(*argv).succeed()

    def zks(self, *argv: str) -> str:
        return self.run(*ZKS, *argv)

    def connect(self, *options: str) -> Child:
        child = self.child(*ZKS, "connect", *self.net.tunnel_options(), *options)
        child.wait_for("^ready: ")
        return child

    def kill(self) -> None:
        """The ``connect`` that runs in there, by SIGKILL."""
        pid = json.loads(self.zks("status", "--json"))["pid"]
        self.run("kill", "-KILL", str(pid))

    def picture(self) -> str:
        """What the resolver knows, and what programs are told to ask."""
        script = f"cat /etc/resolv.conf; readlink /etc/resolv.conf; {PICTURES[self.package]}"
        lines = [line.strip() for line in self.run("sh", "-c", f"{script}; true").splitlines()]
        # (It remembers which server it used last.)
        return "\n".join(line for line in lines if not line.startswith("Current DNS Server"))

    def first_server(self) -> str:
        """Which server is asked first."""
        if self.package == "systemd-resolved":
            return self.run("resolvectl", "dns", "zks0").split()[-1]
        found = re.search(r"^nameserver (\S+)", self.run("cat", "/etc/resolv.conf"), re.MULTILINE)
        assert found
        return found[1]

    def looks_up(self, name: str = "far.zks.test", patience: int = 90) -> bool:
        """Within so many seconds."""
        child = self.child("timeout", str(patience), "getent", "ahostsv4", name)
        return child.wait() == 0 and lab.FAR4 in child.stdout[0]

    def close(self) -> None:
        if self._init.process.poll() is None:
            self._init.process.kill()  # and process 1 in there goes with it
        self._init.wait()


def _path() -> str:
    done = subprocess.run(["sh", "-c", "echo $PATH"], capture_output=True, text=True, check=True)
    return f"{Path(sys.executable).parent}:{done.stdout.strip()}:/usr/sbin:/sbin"
