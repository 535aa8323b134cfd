"""What the package says of macOS, against the headers of its SDK, by a compiler that has them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zks_lwip.net import darwin

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ziglang") is None,
    reason="ziglang is not installed (pip install ziglang, or the extra `cross`)",
)

HEADERS = "stddef.h sys/types.h sys/socket.h sys/ioctl.h sys/sockio.h sys/kern_control.h"
HEADERS += " sys/un.h sys/ucred.h net/if.h"
NUMBERS = {
    "AF_SYSTEM": darwin.AF_SYSTEM,
    "AF_ROUTE": darwin.AF_ROUTE,
    "CTLIOCGINFO": darwin.CTLIOCGINFO,
    "SIOCSIFMTU": darwin.SIOCSIFMTU,
    "IP_BOUND_IF": darwin.IP_BOUND_IF,
    "IPV6_BOUND_IF": darwin.IPV6_BOUND_IF,
    "SOL_LOCAL": darwin.SOL_LOCAL,
    "LOCAL_PEERCRED": darwin.LOCAL_PEERCRED,
    "LOCAL_PEERPID": darwin.LOCAL_PEERPID,
    "sizeof(struct xucred)": darwin.XUCRED.size,
    "offsetof(struct xucred, cr_uid)": 4,
    "offsetof(struct xucred, cr_ngroups)": 8,
    "offsetof(struct xucred, cr_groups)": 12,
    "sizeof(((struct xucred *)0)->cr_ngroups)": 2,
    "AF_INET": 2,  # what device_out.c writes before a packet
    "AF_INET6": 30,
    "sizeof(struct ctl_info)": darwin.CTL_INFO.size,
    "offsetof(struct ctl_info, ctl_name)": 4,
    "sizeof(((struct ctl_info *)0)->ctl_name)": 96,
    "sizeof(struct ifreq)": darwin.IFREQ_MTU.size,
    "offsetof(struct ifreq, ifr_mtu)": 16,
}
ELSEWHERE = {  # headers that the compiler's SDK does not have
    "net/if_utun.h": {"UTUN_OPT_IFNAME": darwin.UTUN_OPT_IFNAME},
    "sys/sys_domain.h": {"SYSPROTO_CONTROL": darwin.SYSPROTO_CONTROL},
}


def source(numbers: dict[str, int]) -> str:
    """Return C that compiles if the headers say the same."""

    def claim(name: str, value: int) -> str:
        return f'_Static_assert({name} == {value}u, "{name}");'

    lines = [f"#include <{name}>" for name in [*HEADERS.split(), "netinet/in.h"]]
    lines += [claim(name, value) for name, value in numbers.items()]
    for header, more in ELSEWHERE.items():
        claims = [claim(name, value) for name, value in more.items()]
        lines += [f"#if __has_include(<{header}>)", f"#include <{header}>", *claims, "#endif"]
    return "\n".join(lines) + "\n"


def compiled(target: str, text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(folder)}
    environment["ZIG_LOCAL_CACHE_DIR"] = str(folder)
    command = [sys.executable, "-m", "ziglang", "cc", "-target", target, "-c"]
    command += [
        "-std=c11",
        "-D_DARWIN_C_SOURCE",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-x",
        "c",
        "-",
        "-o",
        str(folder / "checked.o"),
    ]
    return subprocess.run(
        command, input=text, env=environment, capture_output=True, text=True, timeout=240
    )


@pytest.mark.parametrize("target", ["x86_64-macos", "aarch64-macos"])
def test_the_headers_say_the_same(target: str, tmp_path: Path) -> None:
    done = compiled(target, source(NUMBERS), tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_wrong_number_is_found(tmp_path: Path) -> None:
    done = compiled("aarch64-macos", source({"IP_BOUND_IF": 26}), tmp_path)
    assert done.returncode != 0 and "static assertion failed" in done.stderr
