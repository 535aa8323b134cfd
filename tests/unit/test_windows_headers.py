"""What the package says of Windows, against the headers of its SDK, by a compiler that has them."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zks_lwip.daemon import console, service_process
from zks_lwip.host.windows import boot, file_lock, iphelper, security, structures, wfp
from zks_lwip.net import sockets, windows

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ziglang") is None,
    reason="ziglang is not installed (pip install ziglang, or the extra `cross`)",
)

HEADERS = "winsock2.h ws2ipdef.h windows.h stddef.h wintrust.h softpub.h wincrypt.h winver.h"
HEADERS += " iphlpapi.h netioapi.h fwpmu.h sddl.h aclapi.h winternl.h"
NUMBERS = {
    "ERROR_FILE_NOT_FOUND": windows.ERROR_FILE_NOT_FOUND,
    "ERROR_ACCESS_DENIED": windows.ERROR_ACCESS_DENIED,
    "ERROR_ALREADY_EXISTS": windows.ERROR_ALREADY_EXISTS,
    "ERROR_NO_MORE_ITEMS": 259,  # native/core/wintun.c
    "ERROR_HANDLE_EOF": 38,
    "WAIT_FAILED": 0xFFFFFFFF,
    "INFINITE": 0xFFFFFFFF,
    "WAIT_OBJECT_0": 0,
    "GENERIC_READ": 0x80000000,  # device/_wintun.py
    "FILE_SHARE_READ": 1,
    "OPEN_EXISTING": 3,
    "LOAD_LIBRARY_SEARCH_SYSTEM32": 0x800,
    "WTD_UI_NONE": windows.WTD_UI_NONE,
    "WTD_REVOKE_NONE": windows.WTD_REVOKE_NONE,
    "WTD_CHOICE_FILE": windows.WTD_CHOICE_FILE,
    "WTD_STATEACTION_VERIFY": windows.WTD_STATEACTION_VERIFY,
    "WTD_STATEACTION_CLOSE": windows.WTD_STATEACTION_CLOSE,
    "WTD_CACHE_ONLY_URL_RETRIEVAL": windows.WTD_CACHE_ONLY_URL_RETRIEVAL,
    "CERT_NAME_SIMPLE_DISPLAY_TYPE": windows.CERT_NAME_SIMPLE_DISPLAY_TYPE,
    "IMAGE_FILE_MACHINE_AMD64": 0x8664,
    "IMAGE_FILE_MACHINE_ARM64": 0xAA64,
    "IMAGE_FILE_MACHINE_I386": 0x14C,
    "IMAGE_FILE_MACHINE_ARMNT": 0x1C4,
    "ERROR_NOT_FOUND": iphelper.ERROR_NOT_FOUND,
    "ERROR_OBJECT_ALREADY_EXISTS": iphelper.ERROR_OBJECT_ALREADY_EXISTS,
    "IP_UNICAST_IF": sockets.IP_UNICAST_IF,
    "IPV6_UNICAST_IF": sockets.IPV6_UNICAST_IF,
    "AF_INET": structures.FAMILIES[4],
    "AF_INET6": structures.FAMILIES[6],
    "AF_UNSPEC": structures.ALL_FAMILIES,
    "IpDadStatePreferred": 4,  # host/windows/iphelper.py
    "MIB_IPPROTO_NETMGMT": 3,
    "offsetof(MIB_IF_TABLE2, Table)": structures.InterfaceTable.Table.offset,
    "offsetof(MIB_UNICASTIPADDRESS_TABLE, Table)": structures.AddressTable.Table.offset,
    "offsetof(MIB_IPFORWARD_TABLE2, Table)": structures.RouteTable.Table.offset,
    "offsetof(SOCKADDR_INET, Ipv4.sin_addr)": structures.SockaddrInet.words.offset,
    "offsetof(SOCKADDR_INET, Ipv6.sin6_addr)": structures.SockaddrInet.words.offset + 4,
    "offsetof(SOCKADDR_INET, Ipv6.sin6_scope_id)": structures.SockaddrInet.words.offset + 20,
    "offsetof(FWP_VALUE0, uint64)": structures.FilterValue.uint64.offset,
    "offsetof(FWP_CONDITION_VALUE0, v6AddrMask)": structures.FilterValue.uint64.offset,
    "sizeof(FWP_CONDITION_VALUE0)": ctypes.sizeof(structures.FilterValue),
    "sizeof(SOCKADDR_INET)": ctypes.sizeof(structures.SockaddrInet),
    "sizeof(MIB_IF_ROW2)": ctypes.sizeof(structures.InterfaceRow),
    "sizeof(FWP_VALUE0)": ctypes.sizeof(structures.FilterValue),
    "FWP_UINT8": wfp.FWP_UINT8,
    "FWP_UINT16": wfp.FWP_UINT16,
    "FWP_UINT32": wfp.FWP_UINT32,
    "FWP_UINT64": wfp.FWP_UINT64,
    "FWP_BYTE_BLOB_TYPE": wfp.FWP_BYTE_BLOB_TYPE,
    "FWP_V4_ADDR_MASK": wfp.FWP_V4_ADDR_MASK,
    "FWP_V6_ADDR_MASK": wfp.FWP_V6_ADDR_MASK,
    "FWP_MATCH_EQUAL": wfp.FWP_MATCH_EQUAL,
    "FWP_MATCH_FLAGS_ALL_SET": wfp.FWP_MATCH_FLAGS_ALL_SET,
    "FWP_CONDITION_FLAG_IS_LOOPBACK": wfp.FWP_CONDITION_FLAG_IS_LOOPBACK,
    "FWP_ACTION_BLOCK": wfp.FWP_ACTION_BLOCK,
    "FWP_ACTION_PERMIT": wfp.FWP_ACTION_PERMIT,
    "(unsigned)FWP_E_FILTER_NOT_FOUND": wfp.FWP_E_NOT_FOUND["filter"],
    "(unsigned)FWP_E_PROVIDER_NOT_FOUND": wfp.FWP_E_NOT_FOUND["provider"],
    "(unsigned)FWP_E_SUBLAYER_NOT_FOUND": wfp.FWP_E_NOT_FOUND["sublayer"],
    **{
        name: getattr(security, name)
        for name in security.__all__
        if isinstance(getattr(security, name), int)
    },
    **security.TRUSTED,
    "ERROR_LOCK_VIOLATION": file_lock.ERROR_LOCK_VIOLATION,
    "LOCKFILE_EXCLUSIVE_LOCK": file_lock.LOCKFILE_EXCLUSIVE_LOCK,
    "LOCKFILE_FAIL_IMMEDIATELY": file_lock.LOCKFILE_FAIL_IMMEDIATELY,
    "SDDL_REVISION_1": 1,
    "FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE": 7,
    "sizeof(BY_HANDLE_FILE_INFORMATION)": ctypes.sizeof(security.FileInformation),
    "offsetof(BY_HANDLE_FILE_INFORMATION, dwFileAttributes)": 0,
    **{name: getattr(console, name) for name in console.__all__ if name.startswith("CTRL_")},
    **{
        name: getattr(service_process, name)
        for name in service_process.__all__
        if name.startswith(("SERVICE_", "ERROR_"))
    },
    "SERVICE_ACCEPT_STOP | SERVICE_ACCEPT_SHUTDOWN | SERVICE_ACCEPT_PRESHUTDOWN": (
        service_process.ACCEPTED
    ),
    "ERROR_SERVICE_ALREADY_RUNNING": 1056,  # daemon/service_manager.py
    "ERROR_SERVICE_DOES_NOT_EXIST": 1060,
    "ERROR_SERVICE_NOT_ACTIVE": 1062,
    "ERROR_SERVICE_MARKED_FOR_DELETE": 1072,
    "ERROR_SERVICE_EXISTS": 1073,
    "RPC_C_AUTHN_DEFAULT": wfp.RPC_C_AUTHN_DEFAULT,
    "SystemTimeOfDayInformation": boot.SYSTEM_TIME_OF_DAY_INFORMATION,
    "sizeof(SYSTEM_TIMEOFDAY_INFORMATION)": ctypes.sizeof(boot.TimeOfDay),
    **{
        f"offsetof(SYSTEM_TIMEOFDAY_INFORMATION, {name})": getattr(boot.TimeOfDay, name).offset
        for name in ("BootTime", "CurrentTime", "TimeZoneBias", "CurrentTimeZoneId")
    },
}
WHOLE = {
    "GUID": windows.Guid,
    "OVERLAPPED": file_lock.Overlapped,
    "SERVICE_STATUS": service_process.ServiceStatus,
    "SERVICE_TABLE_ENTRYW": service_process.ServiceTableEntry,
    "SECURITY_ATTRIBUTES": security.SecurityAttributes,
    "WINTRUST_FILE_INFO": windows.WintrustFileInfo,
    "WINTRUST_DATA": windows.WintrustData,
    "IP_ADDRESS_PREFIX": structures.Prefix,
    "MIB_UNICASTIPADDRESS_ROW": structures.AddressRow,
    "MIB_IPFORWARD_ROW2": structures.RouteRow,
    "MIB_IPINTERFACE_ROW": structures.IpInterfaceRow,
    "FWPM_DISPLAY_DATA0": structures.DisplayData,
    "FWP_BYTE_BLOB": structures.Blob,
    "FWP_V4_ADDR_AND_MASK": structures.V4Mask,
    "FWP_V6_ADDR_AND_MASK": structures.V6Mask,
    "FWPM_FILTER_CONDITION0": structures.Condition,
    "FWPM_ACTION0": structures.ActionData,
    "FWPM_FILTER0": structures.FilterData,
    "FWPM_PROVIDER0": structures.ProviderData,
    "FWPM_SUBLAYER0": structures.SublayerData,
}
"""Structures that are here as they are there."""
BEGINNINGS = {
    "CRYPT_PROVIDER_CERT": windows.CryptProviderCert,
    "CRYPT_PROVIDER_SGNR": windows.CryptProviderSigner,
    "VS_FIXEDFILEINFO": windows.FixedFileInfo,
    "MIB_IF_ROW2": structures.InterfaceRow,
}
"""Structures whose first members are here."""
Structure = type[ctypes.Structure]


def claims(
    numbers: dict[str, int], whole: dict[str, Structure], parts: dict[str, Structure]
) -> str:
    """C that compiles if the headers say the same."""
    said = dict(numbers)
    for name, structure in {**whole, **parts}.items():
        for member, *_ in structure._fields_:
            if member == "others":  # several of there in one of here
                continue
            found = getattr(structure, member)
            said[f"offsetof({name}, {member})"] = found.offset
            said[f"sizeof((({name} *)0)->{member})"] = found.size
    said |= {f"sizeof({name})": ctypes.sizeof(structure) for name, structure in whole.items()}
    lines = [f"#include <{name}>" for name in HEADERS.split()]
    lines += [f'_Static_assert({name} == {value}u, "{name}");' for name, value in said.items()]
    return "\n".join(lines) + "\n"


def compiled(target: str, text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(folder)}
    environment["ZIG_LOCAL_CACHE_DIR"] = str(folder)
    command = [sys.executable, "-m", "ziglang", "cc", "-target", target, "-c", "-std=gnu11"]
    command += ["-Wall", "-Wextra", "-Werror", "-x", "c", "-", "-o", str(folder / "checked.o")]
    return subprocess.run(
        command, input=text, env=environment, capture_output=True, text=True, timeout=240
    )


@pytest.mark.parametrize("target", ["x86_64-windows-gnu", "aarch64-windows-gnu"])
def test_the_headers_say_the_same(target: str, tmp_path: Path) -> None:
    done = compiled(target, claims(NUMBERS, WHOLE, BEGINNINGS), tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_guid_that_is_verified_by(tmp_path: Path) -> None:
    raw = windows.WINTRUST_VERIFY
    first, second, third = (int.from_bytes(raw[a:b], "little") for a, b in ((0, 4), (4, 6), (6, 8)))
    text = (
        "#include <windows.h>\n#include <softpub.h>\n"
        "static const GUID theirs = WINTRUST_ACTION_GENERIC_VERIFY_V2;\n"
        f"int differs(void) {{ static const GUID ours = {{{first}, {second}, {third}, "
        f"{{{', '.join(map(str, raw[8:]))}}}}}; return __builtin_memcmp(&ours, &theirs, 16); }}\n"
    )
    done = compiled("x86_64-windows-gnu", text, tmp_path)
    assert done.returncode == 0, done.stderr
    shown = subprocess.run(
        [
            sys.executable,
            "-m",
            "ziglang",
            "cc",
            "-target",
            "x86_64-windows-gnu",
            "-E",
            "-x",
            "c",
            "-",
        ],
        input="#include <windows.h>\n#include <softpub.h>\nWINTRUST_ACTION_GENERIC_VERIFY_V2\n",
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "ZIG_GLOBAL_CACHE_DIR": str(tmp_path),
            "ZIG_LOCAL_CACHE_DIR": str(tmp_path),
        },
    )
    last = [line for line in shown.stdout.splitlines() if line.strip()][-1]
    numbers = [
        int(x, 16) for x in last.replace("{", " ").replace("}", " ").replace(",", " ").split()
    ]
    assert numbers == [first, second, third, *raw[8:]]


def test_a_wrong_number_is_found(tmp_path: Path) -> None:
    done = compiled("x86_64-windows-gnu", claims({"INFINITE": 1}, {}, {}), tmp_path)
    assert done.returncode != 0 and "static assertion failed" in done.stderr


def test_a_wrong_structure_is_found(tmp_path: Path) -> None:
    wrong = type(
        "Wrong",
        (ctypes.Structure,),
        {"_fields_": (("Data1", ctypes.c_uint32), ("Data2", ctypes.c_uint32))},
    )
    done = compiled("x86_64-windows-gnu", claims({}, {"GUID": wrong}, {}), tmp_path)
    assert done.returncode != 0 and "static assertion failed" in done.stderr
