"""Name servers of interfaces: read from the registry, set by netsh, Windows' own program."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

from ...errors import HostError
from ...net.windows import system_program

__all__ = ["WindowsResolvers", "netsh_arguments", "run_netsh"]

_INTERFACES = r"SYSTEM\CurrentControlSet\Services\Tcpip\Parameters\Interfaces"
_SECONDS = 30


def netsh_arguments(name: str, server: str) -> list[str]:
    """Return the command that gives an interface a name server.

    :param server: an IPv4 address; empty: those that DHCP gives.
    """
    source = ["static", server, "register=none", "validate=no"] if server else ["dhcp"]
    netsh = system_program("netsh.exe")
    return [netsh, "interface", "ipv4", "set", "dnsservers", f"name={name}", *source]


def run_netsh(argv: Sequence[str]) -> None:
    """Run it to its end; blocks.

    :raises HostError: it failed.
    """
    command = " ".join(argv)
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise HostError(f"`{command}` did not end within {_SECONDS} s") from None
    except OSError as error:
        raise HostError(f"`{command}` cannot be run: {error.strerror or error}") from error
    if done.returncode != 0:
        said = " ".join(done.stdout.decode(errors="replace").split())
        raise HostError(f"`{command}` failed: {said}")


class WindowsResolvers:
    """The interfaces' name servers.

    :param run: runs netsh.
    """

    def __init__(self, run: Callable[[Sequence[str]], None] = run_netsh) -> None:
        self._run = run

    def all(self) -> Mapping[str, str]:
        """Return the first of each interface that was given any by hand, by its GUID."""
        if sys.platform != "win32":
            return {}
        import winreg

        found = {}
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, _INTERFACES) as interfaces:
            for number in range(winreg.QueryInfoKey(interfaces)[0]):
                guid = winreg.EnumKey(interfaces, number)
                try:
                    with winreg.OpenKey(interfaces, guid) as key:
                        servers = str(winreg.QueryValueEx(key, "NameServer")[0])
                except FileNotFoundError:  # it has none, or has just gone
                    continue
                if words := servers.replace(",", " ").split():
                    found[guid] = words[0]
        return found

    def set(self, name: str, server: str) -> None:
        """Give an interface one; empty: those that DHCP gives. Blocks.

        :raises HostError: netsh fails.
        """
        self._run(netsh_arguments(name, server))
