"""What the rest of the package asks of a Mac, with programs that print what a Mac's would."""

from __future__ import annotations

import os
import socket
import stat
import sys
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("its programs are scripts of sh", allow_module_level=True)

from tests.unit.host.test_macos_read import IFCONFIG, NETSTAT, SCUTIL
from zks_lwip.errors import HostError, PrivilegeError
from zks_lwip.host import platform
from zks_lwip.host.macos import platform as macos
from zks_lwip.host.macos.system import MacosHostSystem
from zks_lwip.host.plan.macos.state import MacosState
from zks_lwip.net.uplinks import set_uplinks, uplink

LOOPBACK = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
ANSWERS = {
    "ifconfig": IFCONFIG.replace("en0", LOOPBACK),
    "netstat": NETSTAT.replace("  en0", f"  {LOOPBACK}"),
    "pfctl": 'Status: Enabled for 0 days\nanchor "com.apple/*" all\nblock return all\nTOKENS 77 \n',
    "route": f"    gateway: 192.168.1.1\n  interface: {LOOPBACK}\n",
    "scutil": SCUTIL,
}


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of programs that print :data:`ANSWERS`, whatever they are asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, answer in ANSWERS.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\necho \"$*\" >>{folder}/asked\ncat <<'END'\n{answer}END\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def test_a_mac_is_captured_by_its_own_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert platform.is_supported() and platform.current() is macos
    wanted = {name for name in vars(platform.Platform) if not name.startswith("_")}
    assert len(wanted) > 10 and wanted <= set(dir(macos))
    monkeypatch.setattr(sys, "platform", "plan9")
    assert not platform.is_supported()
    with pytest.raises(HostError, match="hosts of plan9 cannot be captured"):
        platform.current()


async def test_a_look(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "pf.token").write_text("77")
    state = await macos.observe(state_dir=tmp_path)
    assert isinstance(state, MacosState)
    index = socket.if_nametoindex(LOOPBACK)
    assert state.uplink4 == (LOOPBACK, index, "192.168.1.1")
    assert state.name_servers == ("192.168.1.1",) and state.leftover is None and state.ipv6
    assert state.pf_noted and state.dns_set  # (scutil does not say that there is no such key)
    root = os.geteuid() == 0  # pf tells no other user
    assert (state.pf_enabled, state.pf_loaded, state.pf_token) == (root, root, root)
    asked = (programs / "asked").read_text().splitlines()
    assert asked[:3] == ["-a", "-rn", "--dns"] and ("-s info" in asked) == root


def test_each_look_leads_the_tunnels_sockets_by_the_default_routes(
    programs: Path, tmp_path: Path
) -> None:
    system = MacosHostSystem(tmp_path)
    index = socket.if_nametoindex(LOOPBACK)
    try:
        system.observe(None, 0)
        assert uplink(4) == uplink(6) == index
        (programs / "netstat").write_text("#!/bin/sh\necho 'Routing tables'\n")
        system.observe(None, 0)
        assert uplink(4) is None and uplink(6) is None
    finally:
        set_uplinks({})


def test_the_next_hop(programs: Path) -> None:
    index = socket.if_nametoindex(LOOPBACK)
    assert macos.next_hop("203.0.113.9", None) == (index, "192.168.1.1", "")
    assert macos.next_hop("2001:db8::9", 7) == (index, "192.168.1.1", "")
    (programs / "route").write_text("#!/bin/sh\necho 'route: not in table' >&2\nexit 1\n")
    assert macos.next_hop("203.0.113.9", None) is None
    asked = (programs / "asked").read_text().splitlines()
    assert asked == ["-n get -inet 203.0.113.9", "-n get -inet6 2001:db8::9"]


def test_what_a_program_says_on_either_stream(programs: Path) -> None:
    """``pfctl -E`` tells its token on standard error."""
    (programs / "pfctl").write_text("#!/bin/sh\necho pf enabled; echo 'Token : 5' >&2\n")
    assert MacosHostSystem(programs).run(["pfctl", "-E"]) == "pf enabled\nToken : 5\n"


def test_notes_are_roots_alone(tmp_path: Path) -> None:
    system = MacosHostSystem(tmp_path / "state")
    assert system.read_note("pf.token") is None
    system.remove_note("pf.token")
    system.write_note("pf.token", "5")
    system.write_note("pf.token", "77")
    path = tmp_path / "state" / "pf.token"
    assert system.read_note("pf.token") == "77" and os.listdir(path.parent) == ["pf.token"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    system.remove_note("pf.token")
    assert system.read_note("pf.token") is None
    system.close()


def test_it_needs_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 501)
    with pytest.raises(PrivilegeError, match="recover needs root.*sudo"):
        macos.check_privileges("recover")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    macos.check_privileges()


def test_there_is_one_machine() -> None:
    assert macos.running_instances() == []
