"""What Windows is asked for, call by call, and what is made of its answers; its libraries are
played by functions of Python, which get the very structures.
"""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import ntpath
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from zks_lwip.errors import HostError, PrivilegeError
from zks_lwip.host import platform
from zks_lwip.host.apply import Applier
from zks_lwip.host.plan.windows.filters import parse_filter
from zks_lwip.host.plan.windows.state import WindowsRoute, WindowsUplink
from zks_lwip.host.plan.windows.steps import AdapterRoute
from zks_lwip.host.windows import platform as windows
from zks_lwip.host.windows.boot import started
from zks_lwip.host.windows.iphelper import IpHelper, route_row
from zks_lwip.host.windows.news import news
from zks_lwip.host.windows.observe import Seen, read_state
from zks_lwip.host.windows.resolvers import netsh_arguments, run_netsh
from zks_lwip.host.windows.structures import (
    FIELDS,
    LAYERS,
    AddressRow,
    Blob,
    Condition,
    FilterData,
    InterfaceRow,
    IpInterfaceRow,
    RouteRow,
    V4Mask,
    V6Mask,
    guid,
    pack_address,
    unpack_address,
)
from zks_lwip.host.windows.system import WindowsHostSystem
from zks_lwip.host.windows.wfp import (
    FWP_UINT64,
    PROVIDER,
    SUBLAYER,
    Engine,
    Loaded,
    make_filter,
    make_tun_filters,
)
from zks_lwip.net.uplinks import set_uplinks, uplink
from zks_lwip.net.windows import Guid, WindowsCallError

ETHERNET, WIFI, TUN = 0x6000000000001, 0x47000000000002, 0x35000000000003


def of(reference: Any) -> Any:
    """What a pointer leads to."""
    return reference.contents


def interface(luid: int, index: int, name: str, kind: int = 6) -> InterfaceRow:
    row = InterfaceRow(InterfaceLuid=luid, InterfaceIndex=index, Type=kind, OperStatus=1)
    raw = name.encode("utf-16-le")
    ctypes.memmove(row.Alias, raw, len(raw))
    row.InterfaceGuid = guid(f"00000000-0000-0000-0000-{index:012}")
    return row


def address(luid: int, text: str) -> AddressRow:
    given = ipaddress.ip_interface(text)
    length = given.network.prefixlen
    return AddressRow(
        InterfaceLuid=luid, Address=pack_address(str(given.ip)), OnLinkPrefixLength=length
    )


def route(luid: int, index: int, destination: str, gateway: str, metric: int = 0) -> RouteRow:
    row = route_row(WindowsRoute(destination, gateway, ""), luid)
    row.InterfaceIndex, row.Metric = index, metric
    return row


def setting(metric: int, *, connected: bool = True) -> IpInterfaceRow:
    return IpInterfaceRow(NlMtu=1500, Metric=metric, Connected=connected)


class Played:
    """A library of Windows: its functions by their names, and what was called."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fails: dict[str, int] = {}
        self.functions: dict[str, Callable[..., int | None]] = {}
        self.kept: list[Any] = []

    def __getitem__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if name in self.fails:
                return self.fails[name]
            return self.functions.get(name, lambda *rest: 0)(*arguments) or 0

        return call


class PlayedHelper(Played):
    """``iphlpapi.dll`` of a machine with three interfaces."""

    def __init__(self) -> None:
        super().__init__()
        self.interfaces = [
            interface(1, 1, "Loopback", 24),
            interface(ETHERNET, 11, "Ethernet"),
            interface(WIFI, 12, "WLAN ä"),
        ]
        self.addresses = [
            address(1, "127.0.0.1/8"),
            address(ETHERNET, "192.168.1.23/24"),
            address(WIFI, "2001:db8:1::23/64"),
        ]
        self.routes = [
            route(ETHERNET, 11, "0.0.0.0/0", "192.168.1.1", 5),
            route(WIFI, 12, "0.0.0.0/0", "192.168.2.1", 0),
            route(WIFI, 12, "::/0", "fe80::1", 0),
            route(ETHERNET, 11, "192.168.1.0/24", ""),
        ]
        self.settings = {
            (ETHERNET, 2): setting(10),
            (WIFI, 2): setting(20),
            (WIFI, 23): setting(20),
        }
        self.rows: list[tuple[str, Any]] = []
        self.functions = {
            "GetIfTable2": lambda table: self.give(table, self.interfaces, InterfaceRow),
            "GetUnicastIpAddressTable": lambda _, table: self.give(
                table, self.addresses, AddressRow
            ),
            "GetIpForwardTable2": lambda _, table: self.give(table, self.routes, RouteRow),
            "GetIpInterfaceEntry": self.get_setting,
            **{
                name: lambda row, name=name: self.rows.append((name, of(row)))  # type: ignore[misc]
                for name in (
                    "SetIpInterfaceEntry",
                    "CreateUnicastIpAddressEntry",
                    "CreateIpForwardEntry2",
                    "DeleteIpForwardEntry2",
                )
            },
        }

    def give(self, table: Any, rows: list[Any], kind: type[Any]) -> None:
        """Fill a table of its own, as Windows does."""

        class Table(ctypes.Structure):
            _fields_ = (("NumEntries", ctypes.c_uint32), ("Table", kind * len(rows)))

        made = Table(len(rows), (kind * len(rows))(*rows))
        self.kept.append(made)
        target = of(table)
        ctypes.memmove(
            ctypes.addressof(target), ctypes.byref(ctypes.c_void_p(ctypes.addressof(made))), 8
        )

    def get_setting(self, row: Any) -> int:
        found = self.settings.get((of(row).InterfaceLuid, of(row).Family))
        if found is None:
            return 1168
        of(row).NlMtu, of(row).Metric, of(row).Connected = (
            found.NlMtu,
            found.Metric,
            found.Connected,
        )
        of(row).SitePrefixLength = 64
        return 0


class PlayedEngine(Played):
    """``fwpuclnt.dll``: keeps filters, with others' among them."""

    def __init__(self) -> None:
        super().__init__()
        self.filters: dict[int, FilterData] = {1: FilterData(filterId=1)}
        self.objects: set[bytes] = set()
        self.before: dict[int, FilterData] = {}
        self.looked = False
        self.functions = {
            "FwpmGetAppIdFromFileName0": self.program,
            "FwpmFilterCreateEnumHandle0": self.begin_look,
            "FwpmFilterEnum0": self.look,
            "FwpmFilterAdd0": self.add,
            "FwpmFilterDeleteById0": self.delete,
            "FwpmTransactionBegin0": lambda *_: self.before.update(self.filters),
            "FwpmTransactionCommit0": lambda *_: self.before.clear(),
            "FwpmTransactionAbort0": self.abort,
            "FwpmProviderAdd0": lambda _, row, sd: self.add_object(of(row).providerKey),
            "FwpmSubLayerAdd0": lambda _, row, sd: self.add_object(of(row).subLayerKey),
            "FwpmProviderDeleteByKey0": lambda _, key: self.delete_object(key, 0x80320005),
            "FwpmSubLayerDeleteByKey0": lambda _, key: self.delete_object(key, 0x80320007),
        }

    def program(self, path: Any, found: Any) -> None:
        blob = Blob(4, None)
        self.kept.append(blob)
        of(found).contents = blob

    def begin_look(self, *_: Any) -> None:
        self.looked = False

    def look(self, engine: Any, handle: Any, most: Any, entries: Any, count: Any) -> None:
        rows = [] if self.looked else list(self.filters.values())
        self.looked = True
        of(count).value = len(rows)
        if rows:
            array = (ctypes.POINTER(FilterData) * len(rows))(*map(ctypes.pointer, rows))
            self.kept.append(array)
            of(entries).contents = array[0]
            address = ctypes.c_void_p(ctypes.addressof(array))
            ctypes.memmove(ctypes.addressof(of(entries)), ctypes.byref(address), 8)

    def add(self, engine: Any, row: Any, sd: Any, ident: Any) -> int:
        if len(self.objects) != 2:
            return 0x80320007
        # All of it, as Windows does: what it points to is the caller's, and soon gone.
        made = FilterData.from_buffer_copy(of(row))
        made.displayData.name = of(row).displayData.name
        made.displayData.description = of(row).displayData.description
        provider = Guid.from_buffer_copy(of(row).providerKey.contents)
        made.providerKey = ctypes.pointer(provider)
        conditions = (Condition * made.numFilterConditions)()
        numbers = [ctypes.c_uint64.from_address(made.weight.uint64).value]
        for i in range(made.numFilterConditions):
            conditions[i] = made.filterCondition[i]
            if conditions[i].conditionValue.type == FWP_UINT64:
                at = conditions[i].conditionValue.uint64
                numbers.append(ctypes.c_uint64.from_address(at).value)
        kept = (ctypes.c_uint64 * len(numbers))(*numbers)
        made.weight.uint64 = ctypes.addressof(kept)
        if len(numbers) > 1:
            conditions[0].conditionValue.uint64 = ctypes.addressof(kept) + 8
        made.filterCondition = ctypes.cast(conditions, ctypes.POINTER(Condition))
        self.kept += [conditions, kept, provider]
        made.filterId = max(self.filters) + 1
        self.filters[made.filterId] = made
        return 0

    def delete(self, engine: Any, ident: Any) -> None:
        del self.filters[ident.value]

    def add_object(self, key: Guid) -> int:
        if bytes(key) in self.objects:
            return 0x80320009  # FWP_E_ALREADY_EXISTS
        self.objects.add(bytes(key))
        return 0

    def delete_object(self, key: Any, missing: int) -> int:
        if bytes(of(key)) not in self.objects:
            return missing
        self.objects.remove(bytes(of(key)))
        return 0

    def abort(self, *_: Any) -> None:
        self.filters = dict(self.before)
        self.before.clear()


class Resolvers:
    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def all(self) -> dict[str, str]:
        return {"{00000000-0000-0000-0000-000000000012}": "9.9.9.9"}

    def set(self, name: str, server: str) -> None:
        self.calls.append((name, server))


class Machine:
    """A system on libraries that are played."""

    def __init__(self, *, patience: float = 0.0) -> None:
        self.helper, self.engine, self.resolvers = PlayedHelper(), PlayedEngine(), Resolvers()
        helper: Any = self.helper
        engine: Any = self.engine
        made: Any = lambda name, *, mtu: SimpleNamespace(name=name, luid=TUN)  # noqa: E731
        self.system = WindowsHostSystem(
            IpHelper(helper, patience=patience),
            *(lambda: Engine(engine), self.resolvers, r"C:\python.exe", made),
        )


def test_what_is_seen() -> None:
    machine = Machine()
    try:
        state = machine.system.observe(None, 0)
        assert (uplink(4), uplink(6)) == (11, 12)
    finally:
        set_uplinks({})
    assert state.uplink4 == WindowsUplink("Ethernet", 11, "192.168.1.1")  # 5 + 10 < 20
    assert state.uplink6 == WindowsUplink("WLAN ä", 12, "fe80::1")
    assert [link.name for link in state.links] == ["Ethernet", "WLAN ä"] and state.ipv6
    assert state.has_address("WLAN ä", "2001:db8:1::23/64")
    assert WindowsRoute("192.168.1.0/24", "", "Ethernet") in state.table
    assert state.settings["WLAN ä", 6] == (1500, 20) and state.filters == ()
    assert state.resolvers == {"WLAN ä": "9.9.9.9"}
    assert machine.helper.calls.count("FreeMibTable") == 3


def test_a_default_route_of_a_cable_that_is_out() -> None:
    machine = Machine()
    machine.helper.settings[ETHERNET, 2] = setting(10, connected=False)
    assert machine.system.look().uplink4 == WindowsUplink("WLAN ä", 12, "192.168.2.1")


def test_what_is_set() -> None:
    machine = Machine()
    machine.system.set_interface("Ethernet", 4, mtu=1400, metric=1)
    machine.system.add_address("Ethernet", "198.18.0.1/30")
    machine.system.add_route(WindowsRoute("2001:db8:7::/48", "fe80::1", "WLAN ä"))
    machine.system.remove_route(WindowsRoute("::/1", "", "WLAN ä"))
    machine.system.remove_route(WindowsRoute("::/1", "", "has gone"))
    machine.system.set_resolver("Ethernet", "198.18.0.2")
    (_, settings), (_, given), (_, added), (_, removed) = machine.helper.rows
    assert (settings.InterfaceLuid, settings.NlMtu, settings.Metric) == (ETHERNET, 1400, 1)
    assert (settings.UseAutomaticMetric, settings.SitePrefixLength) == (0, 0)
    assert str(unpack_address(given.Address)) == "198.18.0.1" and given.OnLinkPrefixLength == 30
    assert str(unpack_address(added.DestinationPrefix.Prefix)) == "2001:db8:7::"
    assert added.DestinationPrefix.PrefixLength == 48 and added.InterfaceLuid == WIFI
    assert str(unpack_address(added.NextHop)) == "fe80::1"
    assert unpack_address(removed.NextHop).is_unspecified
    assert machine.resolvers.calls == [("Ethernet", "198.18.0.2")]
    with pytest.raises(HostError, match="no interface zks0 any more"):
        machine.system.add_address("zks0", "198.18.0.1/30")


@pytest.mark.parametrize("times", [3, 10**9])
def test_an_adapter_that_does_not_have_ip_yet(times: int) -> None:
    """Windows binds IPv4 and IPv6 to a new adapter, whose number Wintun tells, a moment later."""
    machine = Machine(patience=60.0 if times == 3 else 0.0)
    machine.system.open_tun("zks0", mtu=1400)
    machine.helper.settings[TUN, 2] = setting(5)
    left = times

    def not_yet(row: Any) -> int:
        nonlocal left
        left -= 1
        return 1168 if left >= 0 else machine.helper.get_setting(row)

    machine.helper.functions["GetIpInterfaceEntry"] = not_yet
    if times > 3:
        with pytest.raises(WindowsCallError, match="1168"):
            machine.system.set_interface("zks0", 4, mtu=1400, metric=1)
        return
    machine.system.set_interface("zks0", 4, mtu=1400, metric=1)
    ((_, settings),) = machine.helper.rows
    assert (settings.InterfaceLuid, settings.NlMtu, settings.Metric) == (TUN, 1400, 1)


@pytest.mark.parametrize("code", [5010, 183])
def test_what_is_there_already(code: int) -> None:
    machine = Machine()
    machine.helper.fails = {"CreateIpForwardEntry2": code, "CreateUnicastIpAddressEntry": code}
    machine.system.add_route(WindowsRoute("0.0.0.0/1", "", "Ethernet"))
    machine.system.add_address("Ethernet", "198.18.0.1/30")


@pytest.mark.parametrize(
    ("name", "act"),
    [
        ("SetIpInterfaceEntry", lambda s: s.set_interface("Ethernet", 4, mtu=1400, metric=1)),
        ("CreateIpForwardEntry2", lambda s: s.add_route(WindowsRoute("::/1", "", "Ethernet"))),
        ("DeleteIpForwardEntry2", lambda s: s.remove_route(WindowsRoute("::/1", "", "Ethernet"))),
        ("FwpmTransactionBegin0", lambda system: system.remove_filters()),
    ],
)
def test_what_windows_refuses(name: str, act: Callable[[WindowsHostSystem], object]) -> None:
    machine = Machine()
    machine.helper.fails[name] = machine.engine.fails[name] = 5
    with pytest.raises(WindowsCallError) as caught:
        act(machine.system)
    assert (caught.value.code, caught.value.errno) == (5, errno.EACCES)


LOOKS = ["GetIfTable2", "GetIpForwardTable2", "GetIpInterfaceEntry", "FwpmFilterEnum0"]
LOOKS += ["GetUnicastIpAddressTable", "FwpmFilterCreateEnumHandle0"]


@pytest.mark.parametrize("name", LOOKS)
@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [(5, PrivilegeError, "elevated prompt"), (8, HostError, r"does not tell.*\(error 8\)")],
)
def test_what_windows_does_not_tell(
    name: str, code: int, kind: type[Exception], message: str
) -> None:
    machine = Machine()
    machine.helper.fails[name] = machine.engine.fails[name] = code
    with pytest.raises(kind, match=message):
        machine.system.look()
    if name == "FwpmFilterEnum0":
        assert machine.engine.calls[-1] == "FwpmFilterDestroyEnumHandle0"


def test_a_filter_engine_that_is_not_to_be_opened() -> None:
    machine = Machine()
    machine.engine.fails["FwpmEngineOpen0"] = 5
    engine: Any = machine.engine
    helper: Any = machine.helper
    with pytest.raises(PrivilegeError, match="elevated prompt"):
        WindowsHostSystem(IpHelper(helper), lambda: Engine(engine), machine.resolvers, "")


def test_without_a_privilege_one_sentence() -> None:
    machine = Machine()
    machine.helper.fails["CreateIpForwardEntry2"] = 5
    with pytest.raises(
        PrivilegeError, match=r"^`New-NetRoute .*` failed: .*\(error 5\); `connect`"
    ):
        Applier(machine.system).do(AdapterRoute("::/1", "Ethernet"))


LINES = ["permit out4 app peer 203.0.113.9/32", "permit out6 icmp6 type 133", "block out4"]


def test_filters_are_put_in_place_and_seen() -> None:
    machine = Machine()
    machine.system.set_filters([parse_filter(line) for line in LINES], persistent=True)
    state = machine.system.look()
    assert state.filters == tuple(sorted(LINES)) and state.persistent and not state.permitted
    weights = {
        one.displayData.description: ctypes.c_uint64.from_address(one.weight.uint64).value
        for number, one in machine.engine.filters.items()
        if number > 1
    }
    assert weights == {LINES[0]: 3, LINES[1]: 2, LINES[2]: 1}
    machine.system.permit_tun("WLAN ä")
    machine.system.permit_tun("WLAN ä")
    assert machine.system.look().permitted == "WLAN ä" and len(machine.engine.filters) == 1 + 3 + 4
    machine.system.set_filters([parse_filter(LINES[2])], persistent=False)
    state = machine.system.look()
    assert state.filters == (LINES[2],) and not state.persistent and not state.permitted
    machine.system.permit_tun("Ethernet")
    machine.system.forbid_tun()
    assert machine.system.look().filters == (LINES[2],)
    machine.system.remove_filters()
    machine.system.remove_filters()
    assert list(machine.engine.filters) == [1] and machine.engine.objects == set()


@pytest.mark.parametrize("left", [{PROVIDER}, {SUBLAYER}, {PROVIDER, SUBLAYER}])
def test_what_a_crash_has_left_of_us_is_no_obstacle(left: set[str]) -> None:
    machine = Machine()
    machine.engine.objects = {bytes(guid(key)) for key in left}
    machine.system.set_filters([parse_filter(line) for line in LINES], persistent=False)
    assert machine.system.look().filters == tuple(sorted(LINES))
    machine.engine.filters = {1: machine.engine.filters[1]}  # and these without their filters
    machine.system.remove_filters()
    assert machine.engine.objects == set()


@pytest.mark.parametrize("name", ["FwpmProviderAdd0", "FwpmFilterAdd0", "FwpmTransactionCommit0"])
def test_a_transaction_that_fails_leaves_all_as_it_was(name: str) -> None:
    machine = Machine()
    machine.system.set_filters([parse_filter(line) for line in LINES], persistent=False)
    before = machine.system.look().filters
    machine.engine.fails[name] = 5
    with pytest.raises(WindowsCallError):
        machine.system.set_filters([parse_filter("block out6")], persistent=False)
    assert machine.engine.calls[-1] == "FwpmTransactionAbort0"
    assert machine.system.look().filters == before


def test_a_filter_as_windows_takes_it() -> None:
    program = Blob(4, None)
    line = "permit out4 app udp from port 68 to port 67 peer 10.0.0.0/8"
    made = make_filter(parse_filter(line), 7, persistent=False, program=program)
    data = made.data
    assert bytes(data.layerKey) == bytes(guid(LAYERS["out", 4])) and data.flags == 0
    assert data.action.type == 0x1002 and data.displayData.description == line
    found = [data.filterCondition[i] for i in range(data.numFilterConditions)]
    names = {bytes(guid(text)): name for name, text in FIELDS.items()}
    assert [names[bytes(one.fieldKey)] for one in found] == [
        *("program", "protocol", "local_port", "remote_port", "peer")
    ]
    assert found[0].conditionValue.uint64 == ctypes.addressof(program)
    assert [one.conditionValue.uint64 for one in found[1:4]] == [17, 68, 67]
    mask = V4Mask.from_address(found[4].conditionValue.uint64)
    assert (mask.addr, mask.mask) == (0x0A000000, 0xFF000000)
    six = make_filter(parse_filter("block in6 peer fe80::/10"), 1, persistent=True, program=None)
    where = V6Mask.from_address(six.data.filterCondition[0].conditionValue.uint64)
    assert bytes(where.addr)[:2] == b"\xfe\x80" and where.prefixLength == 10
    assert six.data.action.type == 0x1001 and six.data.flags == 1


def test_the_tun_is_known_by_its_number() -> None:
    made = make_tun_filters(TUN)
    assert {bytes(one.data.layerKey) for one in made} == {bytes(guid(x)) for x in LAYERS.values()}
    values = [one.data.filterCondition[0].conditionValue.uint64 for one in made]
    assert {ctypes.c_uint64.from_address(value).value for value in values} == {TUN}
    seen = Seen([interface(TUN, 20, "zks0")], [], [], {}, [Loaded(2, "tun", False, TUN)], {})
    assert read_state(seen).permitted == "zks0" and read_state(seen).filters == ()
    gone = Seen([], [], [], {}, [Loaded(2, "tun", False, TUN)], {})
    assert read_state(gone).permitted == ""


def test_addresses_there_and_back() -> None:
    for text in ("198.18.0.1", "2001:db8::7", "fe80::1"):
        assert str(unpack_address(pack_address(text))) == text
    assert pack_address("fe80::1%11").words[5] == 11
    assert bytes(pack_address("198.18.0.1"))[:8] == b"\x02\0\0\0\xc6\x12\0\x01"


def test_the_command_for_a_name_server() -> None:
    """The whole path: Windows looks for a bare name in the current folder first."""
    program, *arguments = netsh_arguments("zks0", "198.18.0.2")
    assert ntpath.isabs(program)
    assert ntpath.normpath(program).lower().endswith(r"\system32\netsh.exe")
    assert arguments == [
        *("interface", "ipv4", "set", "dnsservers", "name=zks0"),
        *("static", "198.18.0.2", "register=none", "validate=no"),
    ]
    assert netsh_arguments("zks0", "")[-1] == "dhcp"


def test_netsh_that_fails() -> None:
    run_netsh([sys.executable, "-c", ""])
    with pytest.raises(HostError, match="failed: The parameter is incorrect"):
        run_netsh(
            [sys.executable, "-c", "print('The parameter\\n is incorrect'); raise SystemExit(1)"]
        )


def test_netsh_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="netsh.exe` cannot be run: "):
        run_netsh([str(tmp_path / "netsh.exe")])


class Native:
    """ntdll, as far as it tells when the machine was started."""

    def __init__(self, boot: int, bias: int, status: int = 0) -> None:
        self.boot, self.bias, self.status = boot, bias, status

    def __getitem__(self, name: str) -> Callable[..., int]:
        assert name == "NtQuerySystemInformation"

        def ask(kind: Any, found: Any, size: Any, length: None) -> int:
            assert kind.value == 3 and size.value == ctypes.sizeof(found.contents) == 48
            found.contents.BootTime, found.contents.boot_time_bias = self.boot, self.bias
            return self.status

        return ask


def test_a_start_of_the_machine_is_told_from_another() -> None:
    """Also where its clock was set since, which moves the time of the start."""
    first = started(Native(134_000_000_000, 0))
    assert started(Native(134_000_000_500, 500)) == first
    assert started(Native(135_000_000_000, 0)) != first


@pytest.mark.parametrize("native", [Native(0, 0), Native(1, 0, status=0xC0000005)])
def test_a_start_that_is_not_told(native: Native) -> None:
    with pytest.raises(HostError, match="does not tell when it was started"):
        started(native)


async def test_news() -> None:
    machine = Machine()
    helper: Any = machine.helper
    told: list[Any] = []
    for name in ("NotifyIpInterfaceChange", "NotifyUnicastIpAddressChange", "NotifyRouteChange2"):
        machine.helper.functions[name] = lambda family, tell, *rest: told.append(tell)
    with news(IpHelper(helper)) as found, trio.fail_after(60):
        for tell in told:
            tell(None, None, 0)
            assert await found.recv(100) == b"n"
        for _ in range(100_000):  # more than a socket holds
            told[0](None, None, 0)
        assert await found.recv(1 << 20)
    assert len(told) == 3 and machine.helper.calls.count("CancelMibChangeNotify2") == 3


def test_news_that_are_not_to_be_had() -> None:
    machine = Machine()
    helper: Any = machine.helper
    machine.helper.fails["NotifyRouteChange2"] = 8
    with pytest.raises(WindowsCallError), news(IpHelper(helper)):
        pytest.fail("there are none")
    assert machine.helper.calls.count("CancelMibChangeNotify2") == 2


@pytest.mark.parametrize("administrator", [True, False])
def test_who_is_no_administrator_is_told_so(
    administrator: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Shell:
        @staticmethod
        def IsUserAnAdmin() -> int:
            return int(administrator)

    monkeypatch.setattr(ctypes, "CDLL", {"shell32.dll": Shell}.__getitem__)
    if administrator:
        windows.check_privileges("recover")
        return
    with pytest.raises(PrivilegeError, match="recover needs an administrator, .* elevated prompt"):
        windows.check_privileges("recover")


def test_a_machine_with_windows_is_captured_by_its_own_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert platform.is_supported() and platform.current() is windows
    assert {name for name in vars(platform.Platform) if name[0] != "_"} <= set(dir(windows))
