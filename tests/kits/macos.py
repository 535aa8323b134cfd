"""A Mac that is made of nothing: it answers as macOS' programs do, and keeps what they change.

The forms of its answers are those of macOS 13 to 15, as their users have published them; this was
not run beside a real one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence

from zks_lwip.device import UtunDevice
from zks_lwip.errors import HostError
from zks_lwip.host.macos.observe import look
from zks_lwip.host.plan.macos.pf import ANCHOR
from zks_lwip.host.plan.macos.state import MacosState
from zks_lwip.host.plan.macos.steps import DNS_KEY

HEADER = "Destination        Gateway            Flags               Netif Expire"
PF_MAIN = 'scrub-anchor "com.apple/*" all fragment reassemble\nanchor "com.apple/*" all\n'


class FakeMac:
    """One Mac. It outlives the processes that set it up: :meth:`process` is one of them.

    What changes it is written down in :attr:`calls`; :attr:`refuse` may raise instead.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.refuse: Callable[[str], None] = lambda command: None
        """Called with each change before it is done; may raise."""
        self.routes: dict[tuple[str, bool], tuple[str, str, str]] = {
            ("0.0.0.0/0", False): ("192.168.1.1", "UGScg", "en0"),
            ("::/0", False): ("fe80::1%en0", "UGcg", "en0"),
            ("127.0.0.0/8", False): ("127.0.0.1", "UCS", "lo0"),
            ("192.168.1.0/24", False): ("link#11", "UCS", "en0"),
            ("2001:db8:1::/64", False): ("link#11", "UC", "en0"),
        }
        """Gateway, flags and interface, by destination and whether it has a scope."""
        self.interfaces: dict[str, list[str]] = {
            "lo0": ["inet 127.0.0.1 netmask 0xff000000", "inet6 ::1 prefixlen 128"],
            "en0": [
                "inet6 fe80::1c2f:aa%en0 prefixlen 64 secured scopeid 0xb",
                "inet 192.168.1.23 netmask 0xffffff00 broadcast 192.168.1.255",
                "inet6 2001:db8:1::23 prefixlen 64 autoconf secured",
            ],
            "utun0": ["inet6 fe80::aaaa%utun0 prefixlen 64 scopeid 0xf"],
        }
        self.down: set[str] = set()
        self.pf_main = PF_MAIN
        self.pf_anchor = ""
        self.pf_tokens: list[str] = []
        self.pf_enabled = False
        self.dns: str | None = None
        self.notes: dict[str, str] = {}

    def process(self) -> MacProcess:
        """Return what one process changes it through; its TUN goes with it."""
        return MacProcess(self)

    @property
    def is_closed(self) -> bool:
        """What leaves by en0 is refused."""
        return self.pf_enabled and "block return out quick to ! <zks_direct>" in self.pf_anchor

    def snapshot(self) -> object:
        """Return all that a process may leave behind."""
        interfaces = {name: tuple(lines) for name, lines in self.interfaces.items()}
        pf = (self.pf_main, self.pf_anchor, tuple(self.pf_tokens), self.pf_enabled)
        return (dict(self.routes), interfaces, pf, self.dns, dict(self.notes))

    def answer(self, argv: Sequence[str], text: str) -> str:
        """Do what a program would, and return what it would print."""
        program = {
            "ifconfig": self._ifconfig,
            "netstat": lambda rest, text: self._netstat(),
            "pfctl": self._pfctl,
            "route": lambda rest, text: self._route(rest),
            "scutil": self._scutil,
        }[argv[0]]
        return program(list(argv[1:]), text)

    def _ifconfig(self, rest: list[str], text: str) -> str:
        if rest == ["-a"]:
            lines = []
            for name, addresses in self.interfaces.items():
                up = "RUNNING" if name in self.down else "UP,RUNNING"
                lines.append(f"{name}: flags=8863<{up},SIMPLEX,MULTICAST> mtu 1500")
                lines += [f"\t{address}" for address in addresses]
            return "\n".join(lines) + "\n"
        name, *what = rest
        if name not in self.interfaces:
            raise HostError(f"ifconfig: interface {name} does not exist")
        if what == ["up"]:
            self.down.discard(name)
        elif what[0] == "inet":
            interface = ipaddress.ip_interface(what[1])
            mask = int(interface.network.netmask)
            self.interfaces[name].append(f"inet {interface.ip} --> {what[2]} netmask {mask:#x}")
        else:
            interface = ipaddress.ip_interface(what[1])
            length = interface.network.prefixlen
            self.interfaces[name].append(f"inet6 {interface.ip} prefixlen {length}")
        return ""

    def _netstat(self) -> str:
        lines = ["Routing tables"]
        for version, title in ((4, "Internet:"), (6, "Internet6:")):
            lines += ["", title, HEADER]
            for (destination, _), (gateway, flags, interface) in self.routes.items():
                network = ipaddress.ip_network(destination)
                if network.version == version:
                    shown = _shown(network, flags)
                    lines.append(f"{shown:<18} {gateway:<18} {flags:<19} {interface:>5}      ")
        lines.append("192.168.1.1        a4:b1:c1:0:0:1     UHLWIir               en0   1183")
        return "\n".join(lines) + "\n"

    def _route(self, rest: list[str]) -> str:
        assert rest.pop(0) == "-n"
        verb, _, *rest = rest
        scoped = rest[0] == "-ifscope"
        scope = rest[1] if scoped else ""
        rest = rest[2:] if scoped else rest
        kind, destination, *target = rest
        host = kind == "-host"
        assert host or kind == "-net" and "/" in destination
        if host:
            address = ipaddress.ip_address(destination)
            destination = f"{address}/{address.max_prefixlen}"
        rejects = target[-1] == "-reject"
        if target[0] == "-interface":
            interface, gateway = target[1], "link#20"
        else:
            gateway, interface = target[0], "lo0" if rejects else scope or "en0"
        key = (destination, scoped)
        if verb == "delete":
            if self.routes.pop(key, None) is None:
                return f"route: writing to routing socket: not in table\ndelete net {destination}\n"
            return f"delete net {destination}\n"
        if interface not in self.interfaces:
            return "route: bad address: " + interface + "\n"
        if verb == "add" and key in self.routes:
            return "route: writing to routing socket: File exists\n"
        flags = "U" + ("" if gateway == "link#20" else "G") + "Sc"
        flags = flags.replace("Sc", "HS" if host else "Sc") + "I" * scoped + "R" * rejects
        self.routes[key] = (gateway, flags, interface)
        return f"{verb} {kind[1:]} {destination}: gateway {target[0]}\n"

    def _pfctl(self, rest: list[str], text: str) -> str:
        rest = [word for word in rest if word != "-q"]
        if rest == ["-E"]:
            self.pf_tokens.append(str(1000 + len(self.pf_tokens)))
            self.pf_enabled = True
            return f"No ALTQ support in kernel\npf enabled\nToken : {self.pf_tokens[-1]}\n"
        if rest[0] == "-X":
            self.pf_tokens.remove(rest[1])
            self.pf_enabled = bool(self.pf_tokens)
            return "pf disabled\n" if not self.pf_tokens else "disable request successful\n"
        if rest == ["-s", "info"]:
            return f"Status: {'Enabled for 0 days' if self.pf_enabled else 'Disabled'}  Debug: x\n"
        if rest == ["-s", "rules"]:
            return self.pf_main
        if rest == ["-s", "References"]:
            rows = [f"123   pfctl   {token}   0 days 00:00:01" for token in self.pf_tokens]
            return "TOKENS:\nPID   Process Name   TOKEN   TIMESTAMP\n" + "\n".join(rows) + "\n"
        assert rest[:2] == ["-a", ANCHOR], rest
        if not self.pf_anchor and rest[-2:] in (["-s", "rules"], ["-F", "Tables"]):
            # Of one that is not there; by their exit codes versions differ.
            raise HostError(
                "pfctl failed: pfctl: "
                + ("DIOCGETRULES: Invalid argument" if "-s" in rest else "Anchor does not exist.")
            )
        if rest[2:] == ["-f", "-"]:
            self.pf_anchor = text
        elif rest[2:] == ["-F", "rules"]:
            self.pf_anchor = "".join(
                f"{x}\n" for x in self.pf_anchor.splitlines() if x[:5] == "table"
            )
        elif rest[2:] == ["-s", "rules"]:
            return "".join(f"{x}\n" for x in self.pf_anchor.splitlines() if x[:5] != "table")
        elif rest[2:] == ["-v", "-s", "rules"]:
            counted = "  [ Evaluations: 9   Packets: 3   Bytes: 120   States: 0 ]\n"
            lines = [x for x in self.pf_anchor.splitlines() if x[:5] != "table"]
            return "".join(f"{line}\n{counted}" for line in lines)
        else:
            assert rest[2:] == ["-F", "Tables"], rest
            self.pf_anchor = ""
        return ""

    def _scutil(self, rest: list[str], text: str) -> str:
        if rest == ["--dns"]:
            ours = f"  nameserver[0] : {self.dns}\n" if self.dns else ""
            return f"DNS configuration\n\nresolver #1\n{ours}  nameserver[0] : 192.168.1.1\n"
        lines = text.splitlines()
        if f"remove {DNS_KEY}" in lines:
            self.dns = None
        elif f"set {DNS_KEY}" in lines:
            assert lines[0] == "d.init" and 'd.add SupplementalMatchDomains * ""' in lines
            self.dns = lines[1].removeprefix("d.add ServerAddresses * ")
        elif f"show {DNS_KEY}" in lines:
            return "<dictionary> {\n}\n" if self.dns else "  No such key\n"
        return ""


class MacProcess:
    """What one process changes a :class:`FakeMac` through.

    It fulfils what ``host/macos`` needs of a system.
    """

    is_root = True

    def __init__(self, mac: FakeMac) -> None:
        self.mac = mac
        self.device: UtunDevice | None = None

    def _change(self, command: str) -> None:
        self.mac.refuse(command)
        self.mac.calls.append(command)

    def observe(self, netns: str | None, own_inode: int) -> MacosState:
        return look(self)

    def indexes(self) -> Mapping[str, int]:
        return {name: number for number, name in enumerate(self.mac.interfaces, 1)}

    def run(self, argv: Sequence[str], text: str = "") -> str:
        looks = {"-a", "-rn", "--dns", "-s"} & set(argv[1:4]) and "-f" not in argv
        looks = looks and "-F" not in argv or text.startswith("show ")
        if not looks:
            self._change(" ".join(argv) if argv != ["scutil"] else f"scutil {text.split()[0]}")
        return self.mac.answer(argv, text)

    def open_tun(self, name: str, *, mtu: int) -> None:
        if self.device is None:
            self._change(f"open_tun {name} {mtu}")
            self.device = UtunDevice(-1, name, mtu)
            self.mac.interfaces[name] = []
            self.mac.down.add(name)

    def close_tun(self) -> None:
        """Take the interface away, and with it its routes, as the kernel does."""
        if self.device is not None:
            name, self.device = self.device.name, None
            self.mac.calls.append(f"close_tun {name}")
            self.lose(name)

    def lose(self, name: str) -> None:
        """Take an interface away, and with it its routes."""
        self.mac.interfaces.pop(name, None)
        kept = {key: value for key, value in self.mac.routes.items() if value[2] != name}
        self.mac.routes.clear()
        self.mac.routes.update(kept)

    def read_note(self, name: str) -> str | None:
        return self.mac.notes.get(name)

    def write_note(self, name: str, text: str) -> None:
        self._change(f"write_note {name}")
        self.mac.notes[name] = text

    def remove_note(self, name: str) -> None:
        self.mac.notes.pop(name, None)

    def close(self) -> None:
        self.close_tun()


def _shown(network: ipaddress.IPv4Network | ipaddress.IPv6Network, flags: str) -> str:
    """Return a network as netstat shows it: without zeros, and without a mask of its class.

    As route(8) gives no mask to a network of IPv6 with 128 bits, that one is shown with none.
    """
    if not network.prefixlen:
        return "default"
    if "H" in flags:
        return str(network.network_address)
    if isinstance(network, ipaddress.IPv6Network):
        return str(network).replace("/128", "/0")
    octets = str(network.network_address).split(".")
    kept = octets[: max(1, -(-network.prefixlen // 8))]
    natural = network.prefixlen == 8 * len(kept) and network.prefixlen < 32
    return ".".join(kept) + ("" if natural else f"/{network.prefixlen}")
